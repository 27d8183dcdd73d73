//! What a run's folder says of it.

use std::collections::BTreeMap;
use std::path::Path;

use medley_common::identity::{Split, Update};
use serde_json::{Map, Value};

use crate::archive::{
    ALL_RESULTS_FILE, ArchiveError, Evaluated, History, LEDGER_FILE, Lines, Next, PastUpdate, Record, RunIdentity,
};
use crate::bounded_file::read_object;

/// A run, as far as its ledger can be read.
#[derive(Debug)]
pub(crate) struct Portrait {
    /// The folder's name, or what it is called to tell it from others.
    pub(super) name: String,
    pub(super) identity: RunIdentity,
    pub(super) updates: Vec<PastUpdate>,
    /// Evaluations of the validation split that are in effect.
    pub(super) evaluations: Vec<Evaluated>,
    pub(super) events: Vec<Event>,
    /// `all_results.json`.
    pub(super) results: Map<String, Value>,
    /// The names of the labels, by id.
    pub(super) labels: BTreeMap<usize, String>,
    /// Why the ledger ends where it does, if a line of it is damaged.
    pub(super) damage: Option<String>,
    /// Whether the final model is in its place.
    pub(super) complete: bool,
}

/// Something that happened, beside updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// Updates done.
    pub(super) update: Update,
    pub(super) what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// A group of so many workers was connected.
    Group(usize),
    /// The next update was made again, after workers were lost.
    Retry(u32),
    /// Training went back to an update.
    Rewind {
        /// To which.
        to: Update,
        /// Why.
        reason: String,
    },
    /// A checkpoint was saved.
    Checkpoint,
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
        let mut told = Told::default();
        let damage = loop {
            let line = lines.line();
            let taken = match lines.next_line()? {
                Next::End | Next::Torn(_) => break None,
                Next::Damaged(reason) => Err(reason),
                Next::Record(record) => {
                    let last = history.last();
                    history.take(record.clone()).map(|()| told.take(last, &record))
                }
            };
            if let Err(reason) = taken {
                break Some(format!("{LEDGER_FILE}:{line}: {reason}"));
            }
        };
        let complete = history.outputs().is_some();
        let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        Ok(Self {
            name: absolute.file_name().unwrap_or(absolute.as_os_str()).to_string_lossy().into_owned(),
            identity,
            updates: history.updates().to_vec(),
            evaluations: told.evaluations,
            events: told.events,
            // Before the end there are none, or those of an earlier one.
            results: if complete {
                read_object(&folder.join(ALL_RESULTS_FILE)).unwrap_or_default()
            } else {
                Map::new()
            },
            labels: labels(&read_object(&folder.join("config.json")).unwrap_or_default()),
            damage,
            complete,
        })
    }

    /// A number of the results.
    pub(super) fn result(&self, key: &str) -> Option<f64> {
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
        let point = |it: &Evaluated| Some((it.update.0 as f64, it.entry.0.get(key)?.as_f64()?));
        self.evaluations.iter().filter_map(point).collect()
    }
}

/// What a history does not keep.
#[derive(Default)]
struct Told {
    evaluations: Vec<Evaluated>,
    events: Vec<Event>,
}

impl Told {
    /// Takes in a record that comes after update `last`.
    fn take(&mut self, last: Update, record: &Record) {
        let what = match record {
            Record::Group(group) => What::Group(group.members.len()),
            Record::Update(update) if update.attempt > 1 => What::Retry(update.attempt),
            Record::Checkpoint(_) => What::Checkpoint,
            Record::Rewind(rewind) => {
                self.evaluations.retain(|it| it.update <= rewind.to);
                What::Rewind { to: rewind.to, reason: rewind.reason.clone() }
            }
            Record::Evaluation(it) if it.split == Split::Validation => {
                self.evaluations.push(it.clone());
                return;
            }
            Record::Run(_) | Record::Update(_) | Record::Log(_) | Record::Evaluation(_) | Record::Final(_) => return,
        };
        self.events.push(Event { update: last, what });
    }
}

/// The names in `id2label`, by id.
fn labels(config: &Map<String, Value>) -> BTreeMap<usize, String> {
    let Some(Value::Object(names)) = config.get("id2label") else { return BTreeMap::new() };
    names.iter().filter_map(|(id, name)| Some((id.parse().ok()?, name.as_str()?.to_owned()))).collect()
}
