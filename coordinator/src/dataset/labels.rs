//! The labels of a task, in the order of the model's outputs.

/// The marker of SNLI for a row on which its annotators did not agree.
pub const NO_CONSENSUS: &str = "-";

/// Ordered, distinct label names; a name's place is its class index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelSet {
    names: Vec<String>,
}

/// Why names make no label set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// A classifier needs two classes.
    #[error("{count} label given; expected at least 2")]
    TooFew {
        /// How many there are.
        count: usize,
    },
    /// There are too many to be classes.
    #[error("there are more than {} labels", LabelSet::MOST)]
    TooMany,
    /// A name is empty, [`NO_CONSENSUS`], too long or has control characters.
    #[error("label {name:?} cannot be used; expected 1 to 200 printable characters, and not \"-\"")]
    Name {
        /// The name, cut.
        name: String,
    },
    /// A name occurs twice.
    #[error("label {name:?} is given twice")]
    Twice {
        /// The name.
        name: String,
    },
}

impl LabelSet {
    /// The most labels that a set may have.
    pub const MOST: usize = 1000;

    /// The labels `names`, class 0 first.
    ///
    /// # Errors
    /// Fewer than two names, a repeated one, or one that a row could not carry.
    pub fn new<Name: Into<String>>(names: impl IntoIterator<Item = Name>) -> Result<Self, LabelError> {
        let names: Vec<String> = names.into_iter().map(Into::into).collect();
        if names.len() < 2 {
            return Err(LabelError::TooFew { count: names.len() });
        }
        if names.len() > Self::MOST {
            return Err(LabelError::TooMany);
        }
        for (index, name) in names.iter().enumerate() {
            let fits = (1..=200).contains(&name.len()) && name != NO_CONSENSUS;
            if !fits || name.chars().any(char::is_control) {
                return Err(LabelError::Name { name: name.chars().take(40).collect() });
            }
            if names[..index].contains(name) {
                return Err(LabelError::Twice { name: name.clone() });
            }
        }
        Ok(Self { names })
    }

    /// Number of classes.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.names.len()).unwrap_or(u32::MAX)
    }

    /// The names, class 0 first.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The name of a class.
    #[must_use]
    pub fn name(&self, index: u32) -> Option<&str> {
        self.names.get(index as usize).map(String::as_str)
    }

    /// The class of a name.
    #[must_use]
    pub fn index(&self, name: &str) -> Option<u32> {
        self.names.iter().position(|known| known == name).and_then(|index| u32::try_from(index).ok())
    }

    /// The names in a sentence: `entailment, neutral or contradiction`.
    #[must_use]
    pub fn listing(&self) -> String {
        match self.names.split_last() {
            Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
            _ => self.names.concat(),
        }
    }
}

impl Default for LabelSet {
    /// MedNLI in the order of the published models: entailment 0, neutral 1, contradiction 2.
    fn default() -> Self {
        Self { names: ["entailment", "neutral", "contradiction"].map(str::to_owned).into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_the_class_index() {
        let labels = LabelSet::default();
        assert_eq!(labels.index("contradiction"), Some(2));
        assert_eq!(labels.name(1), Some("neutral"));
        assert_eq!(labels.index("Neutral"), None);
        assert_eq!(labels.listing(), "entailment, neutral or contradiction");
        assert_eq!(LabelSet::new(labels.names().iter().cloned()), Ok(labels));
    }

    #[test]
    fn unusable_names_are_refused() {
        assert_eq!(LabelSet::new(["yes"]), Err(LabelError::TooFew { count: 1 }));
        assert_eq!(LabelSet::new(["a", "b", "a"]), Err(LabelError::Twice { name: "a".into() }));
        let many = (0..=LabelSet::MOST).map(|class| class.to_string());
        assert_eq!(LabelSet::new(many.clone()), Err(LabelError::TooMany));
        assert_eq!(LabelSet::new(many.skip(1)).unwrap().count(), 1000);
        for name in ["", "-", "a\nb"] {
            assert!(matches!(LabelSet::new(["a", name]), Err(LabelError::Name { .. })), "{name:?}");
        }
    }
}
