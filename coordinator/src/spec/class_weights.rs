//! How much each class counts in the loss.

use crate::spec::{LabelChoice, SpecError};

const FLAG: &str = "--class_weights";

/// How much each class counts in the loss.
#[derive(Debug, Clone, PartialEq)]
pub enum ClassWeights {
    /// All alike.
    Equal,
    /// In inverse proportion to its training rows (`auto`).
    Balanced,
    /// As given, by label; all above 0.
    Given(Vec<f64>),
}

impl ClassWeights {
    pub(super) fn parse(text: Option<&str>, labels: &LabelChoice) -> Result<Self, SpecError> {
        let Some(text) = text.map(str::trim) else { return Ok(Self::Equal) };
        if text == "auto" {
            return Ok(Self::Balanced);
        }
        let numbers: Option<Vec<f64>> = text.split(',').map(|number| number.trim().parse().ok()).collect();
        let is_weight = |weight: &f64| weight.is_finite() && *weight > 0.0;
        let known = match labels {
            LabelChoice::Auto => None,
            LabelChoice::Named(labels) => Some(labels),
        };
        let fits = |numbers: &Vec<f64>| known.is_none_or(|labels| numbers.len() == labels.len());
        let weights = numbers.filter(|numbers| fits(numbers) && numbers.iter().all(is_weight));
        weights.map(Self::Given).ok_or_else(|| match known {
            Some(labels) => refused(text, of_each(labels)),
            None => refused(text, "auto, or a number above 0 for each label, with commas between".to_owned()),
        })
    }

    /// The weights by label, on training rows of these labels; none where all count alike.
    ///
    /// Balanced are those of scikit-learn's `compute_class_weight`: the rows divided by the classes, and by the rows of the
    /// class.
    pub(super) fn on(&self, rows: &[Option<u32>], labels: &[String]) -> Result<Vec<f64>, SpecError> {
        match self {
            Self::Equal => Ok(Vec::new()),
            Self::Given(weights) if weights.len() == labels.len() => Ok(weights.clone()),
            Self::Given(weights) => Err(refused(&format!("{} numbers", weights.len()), of_each(labels))),
            Self::Balanced => {
                let mut counts = vec![0_u64; labels.len()];
                for label in rows.iter().flatten() {
                    counts.get_mut(*label as usize).into_iter().for_each(|count| *count += 1);
                }
                if let Some((missing, _)) = labels.iter().zip(&counts).find(|(_, count)| **count == 0) {
                    let expected = format!("numbers, as there is no training row of {missing} to balance by");
                    return Err(refused("auto", expected));
                }
                let rows = counts.iter().sum::<u64>() as f64;
                Ok(counts.iter().map(|count| rows / (labels.len() as f64 * *count as f64)).collect())
            }
        }
    }
}

fn of_each(labels: &[String]) -> String {
    format!("auto, or {} numbers above 0 with commas between, for {}", labels.len(), labels.join(", "))
}

fn refused(value: &str, expected: String) -> SpecError {
    SpecError::Value { flag: FLAG, value: value.to_owned(), expected }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> Vec<String> {
        ["no", "maybe", "yes"].map(str::to_owned).to_vec()
    }

    fn parse(text: &str) -> Result<ClassWeights, String> {
        ClassWeights::parse(Some(text), &LabelChoice::Named(labels())).map_err(|error| error.to_string())
    }

    #[test]
    fn there_is_a_weight_for_each_label() {
        assert_eq!(ClassWeights::parse(None, &LabelChoice::Auto), Ok(ClassWeights::Equal));
        assert_eq!(parse("1,2.5, 1e-1"), Ok(ClassWeights::Given(vec![1.0, 2.5, 0.1])));
        for text in ["", "balanced", "1,2", "1,2,3,4", "1,0,2", "1,-1,2", "1,inf,2", "1,nan,2", "1,,2"] {
            let expected = format!(
                "--class_weights is {text}; expected auto, or 3 numbers above 0 with commas between, for no, maybe, yes"
            );
            assert_eq!(parse(text).unwrap_err(), expected);
        }
    }

    /// `compute_class_weight("balanced", classes=[0, 1, 2], y=[0] * 6 + [1] * 3 + [2])` of scikit-learn 1.7.
    #[test]
    fn balanced_weights_are_scikit_learns() {
        let rows: Vec<Option<u32>> = [vec![Some(0); 6], vec![Some(1); 3], vec![Some(2)]].concat();
        let weights = ClassWeights::Balanced.on(&rows, &labels()).unwrap();
        assert_eq!(weights, [0.555_555_555_555_555_6, 1.111_111_111_111_111_2, 3.333_333_333_333_333_5]);
        assert_eq!(ClassWeights::Equal.on(&rows, &labels()).unwrap(), [0.0; 0]);
        assert_eq!(
            ClassWeights::Balanced.on(&rows[..9], &labels()).unwrap_err().to_string(),
            "--class_weights is auto; expected numbers, as there is no training row of yes to balance by"
        );
    }
}
