//! What a run has come to, as it is told when it ends: metrics, speed, memory, and what to type next.

use std::fmt::Write;
use std::path::PathBuf;

use medley_common::identity::Split;
use serde_json::{Map, Value, json};

use crate::archive::{ALL_RESULTS_FILE, Certificate, LEDGER_FILE};
use crate::bounded_file::read_object;
use crate::peak_memory::{PeakMemory, megabytes};
use crate::shell_words::shell;
use crate::spec::RunSpec;
use crate::status_view::duration;

/// Metrics with their intervals, by what their keys end with, and in words.
const METRICS: [(&str, &str); 3] = [("accuracy", "accuracy"), ("macro_f1", "macro F1"), ("loss", "loss")];

/// A complete run, as its folder tells of it.
#[derive(Debug)]
pub struct Summary {
    folder: PathBuf,
    /// `all_results.json`.
    results: Map<String, Value>,
    /// The splits that it was asked to predict: what their keys begin with, and in words.
    splits: Vec<(&'static str, &'static str)>,
    /// Updates done, where it was asked to train.
    updates: Option<u64>,
    /// Whether there is a ledger to prove and to draw.
    has_ledger: bool,
}

impl Summary {
    /// That of the run of `spec`, which is complete; `None` where its results cannot be read. Blocks.
    #[must_use]
    pub fn read(spec: &RunSpec) -> Option<Self> {
        let (folder, sources) = (&spec.output().dir, spec.sources());
        let trains = sources.train_file.is_some();
        let certificate = || Certificate::read_alone(folder).ok().flatten();
        let splits = sources.files().filter_map(|(split, ..)| match split {
            Split::Train => None,
            Split::Validation => Some(("eval", "validation")),
            Split::Test => Some(("predict", "test")),
        });
        Some(Self {
            results: read_object(&folder.join(ALL_RESULTS_FILE)).ok()?,
            splits: splits.collect(),
            updates: trains.then(certificate).flatten().map(|certificate| certificate.update.0),
            has_ledger: folder.join(LEDGER_FILE).exists(),
            folder: folder.clone(),
        })
    }

    fn number(&self, key: &str) -> Option<f64> {
        self.results.get(key)?.as_f64()
    }

    fn memory(&self) -> PeakMemory {
        PeakMemory::of(|key| self.results.get(key)?.as_u64())
    }

    /// `accuracy 0.7333 (0.5667 to 0.9000), macro F1 …, 30 rows`.
    fn metrics(&self, prefix: &str) -> String {
        let metric = |(key, name): (&str, &str)| {
            let key = format!("{prefix}_{key}");
            let value = self.number(&key)?;
            let bound = |at: usize| self.results.get(&format!("{key}_interval"))?.get(at)?.as_f64();
            Some(match (bound(0), bound(1)) {
                (Some(low), Some(high)) => format!("{name} {value:.4} ({low:.4} to {high:.4})"),
                _ => format!("{name} {value:.4}"),
            })
        };
        let rows = self.number(&format!("{prefix}_samples")).map(|rows| format!("{rows} rows"));
        let parts: Vec<String> = METRICS.into_iter().filter_map(metric).chain(rows).collect();
        parts.join(", ")
    }

    /// `26 updates, trained in 12 s at 52 rows/s`; the speed is that since the last start.
    fn training(&self) -> Option<String> {
        let updates = self.updates?;
        let mut text = format!("{updates} updates");
        if let (Some(seconds), Some(rate)) =
            (self.number("train_runtime"), self.number("train_samples_per_second").filter(|rate| *rate > 0.0))
        {
            write!(text, "; since the last start {} at {rate:.0} rows/s", duration(seconds)).ok();
        }
        Some(text)
    }

    /// `at most 61 MB in the coordinator, 131 MB in a worker, 1.2 GB on its GPU`.
    fn peaks(&self) -> Option<String> {
        let PeakMemory { coordinator, worker, device } = self.memory();
        let part = |bytes: Option<u64>, place: &str| bytes.map(|bytes| format!("{} {place}", megabytes(bytes)));
        let parts = [part(coordinator, "in the coordinator"), part(worker, "in a worker"), part(device, "on its GPU")];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        (!parts.is_empty()).then(|| format!("at most {}", parts.join(", ")))
    }

    /// What to type next, as a shell takes it.
    fn next(&self) -> Vec<String> {
        let folder = self.folder.display().to_string();
        // What begins with a dash would be a flag.
        let folder = if folder.starts_with('-') { format!("./{folder}") } else { folder };
        let command = |words: &[&str], more: &str| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            format!("{}{more}", shell(&words))
        };
        if !self.has_ledger {
            return Vec::new();
        }
        vec![
            command(&["medley", "predict", "--model", &folder], " FILE"),
            command(&["medley", "compare", &folder], " OTHER_RUN"),
            command(&["medley", "verify", &folder], ""),
        ]
    }

    /// For a program, by name.
    #[must_use]
    pub fn fields(&self) -> Value {
        let prefixes = self.splits.iter().map(|(prefix, _)| *prefix).chain(self.updates.map(|_| "train"));
        let prefixes: Vec<String> = prefixes.map(|prefix| format!("{prefix}_")).collect();
        let is_number = |value: &Value| value.is_number();
        let is_own = |key: &String| prefixes.iter().any(|prefix| key.starts_with(prefix));
        let mut fields: Map<String, Value> = self
            .results
            .iter()
            .filter(|(key, value)| is_own(key) && (is_number(value) || key.ends_with("_interval")))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        fields.extend(self.memory().results());
        json!({
            "updates": self.updates, "results": fields, "output_dir": self.folder.display().to_string(),
            "next": self.next(),
        })
    }

    /// For a person; several lines.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines: Vec<(&str, String)> = Vec::new();
        lines.extend(self.splits.iter().map(|(prefix, name)| (*name, self.metrics(prefix))));
        lines.extend(self.training().map(|text| ("training", text)));
        lines.extend(self.peaks().map(|text| ("memory", text)));
        lines.push(("output", self.folder.display().to_string()));
        let next = self.next().into_iter().enumerate();
        lines.extend(next.map(|(at, command)| (if at == 0 { "next" } else { "" }, command)));
        let lines: Vec<String> = lines.iter().map(|(name, text)| format!("  {name:<10}  {text}")).collect();
        format!("what came of it:\n{}", lines.join("\n"))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn summary(folder: &str) -> Summary {
        let results = json!({
            "eval_accuracy": 0.75, "eval_accuracy_interval": [0.5, 0.875], "eval_loss": 0.5, "eval_samples": 8,
            "predict_accuracy": 0.1, "train_runtime": 65.2, "train_samples_per_second": 51.6,
            "eval_confusion_matrix": [[1]], "peak_memory_coordinator_bytes": 61_000_000_u64,
            "peak_memory_worker_bytes": 130_600_000_u64,
        });
        let Value::Object(results) = results else { unreachable!() };
        let splits = vec![("eval", "validation")];
        Summary { folder: folder.into(), results, splits, updates: Some(26), has_ledger: true }
    }

    #[test]
    fn a_person_is_told_what_came_of_it_and_what_to_type_next() {
        let told = "\
what came of it:
  validation  accuracy 0.7500 (0.5000 to 0.8750), loss 0.5000, 8 rows
  training    26 updates; since the last start 1 min 05 s at 52 rows/s
  memory      at most 61 MB in the coordinator, 131 MB in a worker
  output      it's out
  next        medley predict --model 'it'\\''s out' FILE
              medley compare 'it'\\''s out' OTHER_RUN
              medley verify 'it'\\''s out'";
        assert_eq!(summary("it's out").text(), told);
        assert_eq!(summary("-out").next()[1], "medley compare ./-out OTHER_RUN");
        let alone = Summary { has_ledger: false, updates: None, ..summary("out") };
        assert!(!alone.text().contains("medley") && !alone.text().contains("training"), "{}", alone.text());
    }

    #[test]
    fn a_program_is_told_numbers() {
        let fields = summary("out").fields();
        assert_eq!(fields["results"]["eval_accuracy_interval"], json!([0.5, 0.875]));
        assert_eq!(fields["results"]["peak_memory_worker_bytes"], 130_600_000);
        // What was not asked for now may be of long ago.
        assert!(fields["results"].get("predict_accuracy").is_none(), "{fields}");
        assert_eq!(fields["next"][2], "medley verify out");
    }
}
