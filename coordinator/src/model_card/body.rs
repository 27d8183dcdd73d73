//! What a card tells people, in Markdown.

use serde_json::Value;

use super::text::{block, markdown};
use super::{CERTIFICATE_FILE, Data, Facts, LEDGER_FILE};
use crate::inputs::INITIAL_WEIGHTS;
use crate::shell_words::shell;

/// Results in the order of the table: key, and in words.
const RESULTS: [(&str, &str); 7] = [
    ("accuracy", "accuracy"),
    ("macro_f1", "macro F1"),
    ("matthews_correlation", "Matthews correlation"),
    ("calibration_error", "calibration error"),
    ("loss", "loss"),
    ("labelled_samples", "labelled rows"),
    ("samples", "rows"),
];

pub(super) fn body(facts: &Facts) -> String {
    [title(facts), results(facts), usage(facts), data(facts), recipe(facts), reproduction(facts)].concat()
}

fn title(facts: &Facts) -> String {
    let labels = facts.labels.iter().map(|label| format!("<code>{}</code>", markdown(label))).collect::<Vec<_>>();
    let from = match (&facts.base_model, facts.is_pretrained) {
        (Some(base), true) => format!("fine-tuned from [{base}](https://huggingface.co/{base})"),
        (None, true) => "fine-tuned from a model of a local folder".to_owned(),
        (Some(base), false) => {
            format!("trained from new weights in the shape of [{base}](https://huggingface.co/{base})")
        }
        (None, false) => "trained from new weights".to_owned(),
    };
    format!(
        "# {}\n\nA {} model that classifies {} as {}, {from} with Medley {}.\n\n",
        markdown(&facts.name),
        facts.family,
        if facts.is_pair { "pairs of sentences" } else { "sentences" },
        labels.join(", "),
        markdown(&facts.certificate.version)
    )
}

fn results(facts: &Facts) -> String {
    let labelled: Vec<&Data> = facts.data.iter().filter(|data| data.number("accuracy").is_some()).collect();
    if labelled.is_empty() {
        return String::new();
    }
    let mut out = String::from("## Results\n\n| |");
    labelled.iter().for_each(|data| out += &format!(" {} |", data.split));
    out += &format!("\n|---|{}\n", "---|".repeat(labelled.len()));
    let by_label = facts.labels.iter().map(|label| (format!("f1_{label}"), format!("F1 of {}", markdown(label))));
    let (whole, counts) = RESULTS.split_at(5);
    let named =
        |rows: &[(&str, &str)]| rows.iter().map(|(key, name)| ((*key).to_owned(), (*name).to_owned())).collect();
    let (whole, counts): (Vec<(String, String)>, Vec<_>) = (named(whole), named(counts));
    for (key, name) in whole.into_iter().chain(by_label).chain(counts) {
        if labelled.iter().any(|data| data.number(&key).is_some()) {
            let cells: Vec<String> = labelled.iter().map(|data| cell(data, &key)).collect();
            out += &format!("| {name} | {} |\n", cells.join(" | "));
        }
    }
    out + "\nIn parentheses: 95 % intervals of the percentile bootstrap over the rows.\n\n"
}

fn cell(data: &Data, key: &str) -> String {
    let shown = |value: f64| {
        if value.fract() == 0.0 && value.abs() >= 2.0 { format!("{value}") } else { format!("{value:.4}") }
    };
    let Some(value) = data.number(key) else { return "-".to_owned() };
    let interval = data.interval(key).map(|[low, high]| format!(" ({} to {})", shown(low), shown(high)));
    format!("{}{}", shown(value), interval.unwrap_or_default())
}

fn usage(facts: &Facts) -> String {
    let text = match facts.is_pair {
        true => "{\"text\": \"The first sentence.\", \"text_pair\": \"The second one.\"}",
        false => "\"A sentence.\"",
    };
    let code = format!(
        "from transformers import pipeline\n\nclassifier = pipeline(\"text-classification\", model=\".\")  # this folder, or its \
         name on the hub\nrow = {text}\n\
         print(classifier(row, top_k=None, truncation=True, max_length={}))",
        facts.max_seq_length
    );
    format!("## Use\n\n{}\n", block("python", &code))
}

fn data(facts: &Facts) -> String {
    let mut out = String::from("## Data\n\n| split | file | rows | SHA-256 |\n|---|---|---|---|\n");
    for data in &facts.data {
        let rows = data.number("samples").map_or_else(|| "-".to_owned(), |rows| rows.to_string());
        out += &format!("| {} | {} | {rows} | `{}` |\n", data.split, markdown(&data.file), data.sha256);
    }
    let limit = facts.max_seq_length;
    out + &format!("\nPairs of more than {limit} tokens are cut to that many.\n\n")
}

fn recipe(facts: &Facts) -> String {
    let mut out = String::from("## Recipe\n\n| setting | value |\n|---|---|\n");
    let is_shape = |name: &str| name.starts_with("model.") || name.ends_with("_sha256");
    for (name, value) in facts.certificate.recipe.fields().iter().filter(|(name, _)| !is_shape(name)) {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Number(number) if number.is_f64() => format!("{:?}", number.as_f64().unwrap_or_default()),
            Value::Null => "-".to_owned(),
            value => value.to_string(),
        };
        out += &format!("| {} | {} |\n", markdown(name), markdown(&value));
    }
    out + "\n"
}

fn reproduction(facts: &Facts) -> String {
    let is_reproducible = facts.certificate.recipe.fields().get("reproducible") == Some(&Value::Bool(true));
    let same = if is_reproducible {
        "on processors of the same kind it gives the same weights to the bit, at any number of workers"
    } else {
        "it gives the same updates of the same rows, but not the same last bits"
    };
    let weights = facts.certificate.inputs.get(INITIAL_WEIGHTS);
    let weights = weights.map(|digest| format!(" and the initial weights of SHA-256 `{digest}`")).unwrap_or_default();
    format!(
        "## Reproduce\n\n{}\nWith the files above{weights}, {same}. `medley verify .` proves from [{LEDGER_FILE}]({LEDGER_FILE}) what the run \
         did; [{CERTIFICATE_FILE}]({CERTIFICATE_FILE}) has the digests of all that went in and came out.\n",
        block("sh", &shell(&facts.certificate.command)),
    )
}
