//! What the classifier of a trained model says of itself.

use serde_json::Value;

use super::{CONFIG_FILE, ModelFolder, ModelFolderError};
use crate::dataset::labels::LabelSet;

/// How Hugging Face's names of architectures end that have a classifier of whole texts.
const CLASSIFIER: &str = "ForSequenceClassification";

/// How the names of a classifier's tensors begin, in each family.
const HEAD: &str = "classifier.";

/// The weight that has a row for each label, in each family.
const OUTPUTS: [&str; 2] = ["classifier.weight", "classifier.out_proj.weight"];

impl ModelFolder {
    /// The labels of the folder's own classifier, class 0 first: those of `id2label`, or `LABEL_0` and so on where it
    /// has no others.
    ///
    /// # Errors
    /// The model has no classifier, or does not say how many labels it has.
    pub fn classifier_labels(&self) -> Result<LabelSet, ModelFolderError> {
        let named = self.raw.get("architectures").and_then(Value::as_array);
        let mut architectures = named.into_iter().flatten().filter_map(Value::as_str);
        match architectures.next() {
            Some(name) if !name.ends_with(CLASSIFIER) => return Err(self.no_classifier(format!("is a {name}"))),
            _ => {}
        }
        if let Some(labels) = &self.labels {
            return Ok(labels.clone());
        }
        let unnamed = || self.no_classifier("names no labels in id2label".to_owned());
        let ids = self.raw.get("id2label").and_then(Value::as_object);
        let names = match (ids, self.raw.get("num_labels").and_then(Value::as_u64)) {
            (Some(ids), _) => (0..ids.len()).map(|id| ids.get(&id.to_string())?.as_str().map(str::to_owned)).collect(),
            (None, Some(count @ 2..=1000)) => Some((0..count).map(|id| format!("LABEL_{id}")).collect()),
            (None, _) => None,
        };
        let names: Vec<String> = names.ok_or_else(unnamed)?;
        LabelSet::new(names).map_err(|error| self.no_classifier(format!("has an id2label that is of no use: {error}")))
    }

    /// How many labels the classifier tells apart that the weights have, where that is known without workers. Blocks.
    ///
    /// # Errors
    /// The weights cannot be read.
    pub fn trained_labels(&self) -> Result<Option<usize>, ModelFolderError> {
        Ok(self.weights.as_ref().map(|weights| weights.rows_of(&OUTPUTS)).transpose()?.flatten())
    }

    /// Checks that the weights are those of a classifier too, as far as that shows without workers. Blocks.
    ///
    /// # Errors
    /// They are of an encoder alone, or cannot be read.
    pub fn check_head(&self) -> Result<(), ModelFolderError> {
        match &self.weights {
            Some(weights) if weights.has_tensor(HEAD)? == Some(false) => {
                let why = format!("has no tensor whose name begins with {HEAD:?}");
                Err(ModelFolderError::NoClassifier { path: weights.path().to_owned(), why })
            }
            _ => Ok(()),
        }
    }

    fn no_classifier(&self, why: String) -> ModelFolderError {
        ModelFolderError::NoClassifier { path: self.path.join(CONFIG_FILE), why }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{folder_with, open};
    use super::*;

    fn labels(fields: Value) -> Result<String, String> {
        let folder = folder_with(|raw| {
            raw.remove("id2label");
            raw.extend(fields.as_object().unwrap().clone());
        });
        let labels = open(&folder).unwrap().classifier_labels().map_err(|error| error.to_string());
        let shown = |text: String| text.replace(&folder.path().display().to_string(), "m");
        labels.map(|labels| labels.names().join(",")).map_err(shown)
    }

    #[test]
    fn a_classifier_is_asked_for_its_labels() {
        let named = json!({ "id2label": { "1": "yes", "0": "no" } });
        assert_eq!(labels(named), Ok("no,yes".to_owned()));
        let placeholders = json!({ "id2label": { "0": "LABEL_0", "1": "LABEL_1" } });
        assert_eq!(labels(placeholders), Ok("LABEL_0,LABEL_1".to_owned()));
        assert_eq!(labels(json!({ "num_labels": 3 })), Ok("LABEL_0,LABEL_1,LABEL_2".to_owned()));
    }

    #[test]
    fn a_model_without_a_classifier_is_named() {
        let base = json!({ "architectures": ["BertForMaskedLM"], "id2label": { "0": "LABEL_0", "1": "LABEL_1" } });
        let way_out = "expected a model that was trained to classify; train it first, with medley train";
        assert_eq!(labels(base), Err(format!("m/config.json is a BertForMaskedLM; {way_out}")));
        assert_eq!(labels(json!({})), Err(format!("m/config.json names no labels in id2label; {way_out}")));
        let twice = json!({ "id2label": { "0": "LABEL_0", "1": "LABEL_0" } });
        assert!(labels(twice).unwrap_err().contains("is given twice"));
    }
}
