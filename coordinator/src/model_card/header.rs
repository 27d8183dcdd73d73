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
    out += &format!("tags:\n- medley\n- {}\n", facts.family.to_lowercase());
    out += if facts.is_pair { "- sentence-pair-classification\n" } else { "" };
    let labelled: Vec<&Data> = facts.data.iter().filter(|data| data.number("accuracy").is_some()).collect();
    if labelled.is_empty() {
        return out;
    }
    out += "metrics:\n";
    METRICS.iter().for_each(|(metric, ..)| out += &format!("- {metric}\n"));
    out += &format!("model-index:\n- name: {}\n  results:\n", yaml(&facts.name));
    labelled.into_iter().for_each(|data| out += &results(data, facts.is_pair));
    out
}

/// The results of a split. Rows that lie in a file are of the type that `datasets` calls `json` or `csv`.
fn results(data: &Data, is_pair: bool) -> String {
    let task = if is_pair { "Sentence pair classification" } else { "Sentence classification" };
    let name = data.file.to_lowercase();
    let kind = if name.ends_with(".csv") || name.ends_with(".tsv") { "csv" } else { "json" };
    let mut out = format!(
        "  - task:\n      type: text-classification\n      name: {task}\n    dataset:\n      type: {kind}\n      \
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
