//! What the ledger of a run says was done, whoever did it.

use std::collections::BTreeMap;

use medley_tests::Scratch;
use serde_json::Value;

/// One applied update: all that must be the same at any number of workers and through any fault.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// The rows, by lane.
    pub lanes: Value,
    pub learning_rate: f64,
    pub loss: f64,
    pub grad_norm: f64,
    /// The digest of the parameters after it, where it was taken.
    pub parameters: Option<String>,
}

/// The applied updates, by number; one that was made again after a rewind counts as it was made last.
pub fn updates(scratch: &Scratch) -> BTreeMap<u64, Update> {
    let lines = scratch.json_lines("out/ledger.jsonl");
    lines
        .iter()
        .filter(|line| line.get("lanes").is_some_and(Value::is_array) && line.get("loss").is_some())
        .map(|line| {
            let number = |key: &str| line[key].as_f64().unwrap();
            let update = Update {
                lanes: line["lanes"].clone(),
                learning_rate: number("learning_rate"),
                loss: number("loss"),
                grad_norm: number("grad_norm"),
                parameters: line["parameters"].as_str().map(ToOwned::to_owned),
            };
            (line["update"].as_u64().unwrap(), update)
        })
        .collect()
}
