//! What a run's folder says of it.

use std::collections::BTreeMap;
use std::path::Path;

use medley_common::identity::{Digest, Update};
use serde_json::{Map, Value};

use crate::archive::{
    ALL_RESULTS_FILE, ArchiveError, Certificate, Event, FinalRecord, History, LEDGER_FILE, Lines, LogEntry, Next,
    PastUpdate, Record, RunIdentity,
};
use crate::bounded_file::read_object;

/// A run, as far as its ledger can be read.
#[derive(Debug)]
pub(crate) struct Portrait {
    /// The folder's name, or what it is called to tell it from others.
    pub(crate) name: String,
    pub(crate) identity: RunIdentity,
    pub(crate) updates: Vec<PastUpdate>,
    /// Evaluations of the validation split that are in effect: after which update, and the metrics.
    pub(crate) evaluations: Vec<(Update, LogEntry)>,
    pub(crate) events: Vec<Event>,
    /// `all_results.json`.
    pub(crate) results: Map<String, Value>,
    /// The names of the labels, by id.
    pub(crate) labels: BTreeMap<usize, String>,
    /// Why the ledger ends where it does, if a line of it is damaged.
    pub(crate) damage: Option<String>,
    /// Whether the final model is in its place.
    pub(crate) complete: bool,
    /// The best checkpoint that was evaluated.
    pub(crate) best: Option<Update>,
    /// The outputs, once training is complete.
    pub(crate) outputs: Option<FinalRecord>,
    /// Digests of what went in, by name, once training is complete.
    pub(crate) inputs: BTreeMap<String, Digest>,
}

impl Portrait {
    /// Reads the run in `folder`. Blocks.
    ///
    /// # Errors
    /// There is no ledger, its first line is no run's, or it cannot be read.
    pub(super) fn read(folder: &Path) -> Result<Self, ArchiveError> {
        let mut lines = Lines::open(&folder.join(LEDGER_FILE))?;
        let identity = match lines.next_line()? {
            Next::Record(Record::Run(identity)) => *identity,
            Next::Damaged(reason) => return Err(lines.damage(1, reason)),
            Next::Record(_) | Next::End | Next::Torn(_) => {
                return Err(lines.damage(1, "there is no record of a run".to_owned()));
            }
        };
        let mut history = History::new(identity.clone());
        let damage = loop {
            let line = lines.line();
            let taken = match lines.next_line()? {
                Next::End | Next::Torn(_) => break None,
                Next::Damaged(reason) => Err(reason),
                Next::Record(record) => history.take(record),
            };
            if let Err(reason) = taken {
                break Some(format!("{LEDGER_FILE}:{line}: {reason}"));
            }
        };
        let complete = history.outputs().is_some();
        let certificate = if complete { Certificate::read_alone(folder).ok().flatten() } else { None };
        let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        Ok(Self {
            name: absolute.file_name().unwrap_or(absolute.as_os_str()).to_string_lossy().into_owned(),
            identity,
            updates: history.updates().to_vec(),
            evaluations: history.evaluations().map(|(update, entry)| (update, entry.clone())).collect(),
            events: history.events().to_vec(),
            // Before the end there are none, or those of an earlier one.
            results: if complete {
                read_object(&folder.join(ALL_RESULTS_FILE)).unwrap_or_default()
            } else {
                Map::new()
            },
            labels: labels(&read_object(&folder.join("config.json")).unwrap_or_default()),
            damage,
            complete,
            best: history.best().map(|best| best.update),
            outputs: history.outputs().cloned(),
            inputs: certificate.map(|certificate| certificate.inputs).unwrap_or_default(),
        })
    }

    /// A number of the results.
    pub(crate) fn result(&self, key: &str) -> Option<f64> {
        self.results.get(key)?.as_f64()
    }

    /// The name of a label.
    pub(super) fn label(&self, id: usize) -> String {
        self.labels.get(&id).cloned().unwrap_or_else(|| id.to_string())
    }

    /// Values over the updates.
    pub(super) fn curve(&self, value: impl Fn(&PastUpdate) -> f64) -> Vec<(f64, f64)> {
        self.updates.iter().map(|update| (update.update.0 as f64, value(update))).collect()
    }

    /// A number of the evaluations over the updates.
    pub(super) fn evaluated(&self, key: &str) -> Vec<(f64, f64)> {
        let point = |(update, entry): &(Update, LogEntry)| Some((update.0 as f64, entry.0.get(key)?.as_f64()?));
        self.evaluations.iter().filter_map(point).collect()
    }
}

/// The names in `id2label`, by id.
fn labels(config: &Map<String, Value>) -> BTreeMap<usize, String> {
    let Some(Value::Object(names)) = config.get("id2label") else { return BTreeMap::new() };
    names.iter().filter_map(|(id, name)| Some((id.parse().ok()?, name.as_str()?.to_owned()))).collect()
}
