//! The header of a card: what the hub reads of it, in YAML (`hub-docs/modelcard.md`).

use super::text::yaml;
use super::{Data, Facts};

/// What the hub knows of our results: its name of the metric, our key, and in words.
pub(super) const METRICS: [(&str, &str, &str); 3] = [
    ("accuracy", "accuracy", "Accuracy"),
    ("f1", "macro_f1", "Macro F1"),
    ("matthews_correlation", "matthews_correlation", "Matthews correlation"),
];

/// The lines between those that open and close it.
pub(super) fn header(facts: &Facts) -> String {
    let mut out = String::from("library_name: transformers\npipeline_tag: text-classification\n");
    if let Some(base) = &facts.base_model {
        out += &format!("base_model: {}\n", yaml(base));
        // Else the hub guesses, from the names of files.
        out += if facts.is_pretrained { "base_model_relation: finetune\n" } else { "" };
    }
    out += "tags:\n- medley\n- bert\n- sentence-pair-classification\n";
    let labelled: Vec<&Data> = facts.data.iter().filter(|data| data.number("accuracy").is_some()).collect();
    if labelled.is_empty() {
        return out;
    }
    out += "metrics:\n";
    METRICS.iter().for_each(|(metric, ..)| out += &format!("- {metric}\n"));
    out += &format!("model-index:\n- name: {}\n  results:\n", yaml(&facts.name));
    labelled.into_iter().for_each(|data| out += &results(data));
    out
}

/// The results of a split. Rows that lie in a file are of the type that `datasets` calls `json`.
fn results(data: &Data) -> String {
    let mut out = format!(
        "  - task:\n      type: text-classification\n      name: Sentence pair classification\n    dataset:\n      type: json\n      \
         name: {}\n      split: {}\n    metrics:\n",
        yaml(&data.file),
        data.split
    );
    for (metric, key, name) in METRICS {
        if let Some(value) = data.number(key) {
            out += &format!("    - type: {metric}\n      value: {value:?}\n      name: {name}\n");
        }
    }
    out
}
