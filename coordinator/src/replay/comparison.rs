//! Two ledgers of the same updates, compared to the bit.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use medley_common::identity::{Digest, Update};

use crate::archive::{ArchiveError, Lines, Next, Record};
use crate::run::report::UpdateRecord;

/// What two ledgers say of the same updates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Comparison {
    /// The update before the first that was compared.
    from: Update,
    /// The last that was compared.
    through: Update,
    /// The updates after which both have the digest of the parameters.
    digests: Vec<Update>,
    /// What differs first; `None` where all is equal.
    difference: Option<String>,
}

/// What a ledger says of updates and parameters.
#[derive(Default)]
struct Made {
    updates: BTreeMap<Update, UpdateRecord>,
    parameters: BTreeMap<Update, Digest>,
}

impl Comparison {
    /// Compares the updates after `from` through `through` of the ledger `told` with those of the ledger `again`.
    /// Blocks.
    ///
    /// # Errors
    /// A ledger cannot be read.
    pub(super) fn of(told: &Path, again: &Path, from: Update, through: Update) -> Result<Self, ArchiveError> {
        let (told, again) = (Made::read(told)?, Made::read(again)?);
        let mut comparison = Self { from, through, digests: Vec::new(), difference: None };
        for update in (from.0 + 1..=through.0).map(Update) {
            comparison.difference = match (told.updates.get(&update), again.updates.get(&update)) {
                (Some(told), Some(again)) => difference(told, again),
                (told, _) => Some(format!("was not {}", if told.is_none() { "recorded" } else { "made again" })),
            };
            if let (Some(told), Some(again)) = (told.parameters.get(&update), again.parameters.get(&update)) {
                comparison.digests.push(update);
                if told != again && comparison.difference.is_none() {
                    comparison.difference = Some(format!("has parameters {told} in the ledger, {again} made again"));
                }
            }
            if let Some(difference) = &comparison.difference {
                comparison.difference = Some(format!("update {update} {difference}"));
                break;
            }
        }
        Ok(comparison)
    }

    /// Whether all that was compared is equal.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.difference.is_none()
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, through) = (self.from.next(), self.through);
        if let Some(difference) = &self.difference {
            return write!(
                f,
                "updates {first} to {through} differ from the ledger; the first difference: {difference}"
            );
        }
        write!(
            f,
            "updates {first} to {through}, made again, are the ledger's to the bit: rows, learning rate, loss, gradient \
             norm"
        )?;
        match self.digests.last() {
            Some(last) => write!(f, "; parameters after {} of them, the last update {last}", self.digests.len()),
            None => write!(f, "; no digest of the parameters was taken in between, so those were not compared"),
        }
    }
}

impl Made {
    fn read(path: &Path) -> Result<Self, ArchiveError> {
        let mut lines = Lines::open(path)?;
        let mut made = Self::default();
        loop {
            let line = lines.line();
            let record = match lines.next_line()? {
                Next::Record(record) => record,
                Next::End | Next::Torn(_) => return Ok(made),
                Next::Damaged(reason) => return Err(lines.damage(line, reason)),
            };
            match record {
                Record::Update(record) => {
                    made.parameters.extend(record.parameters.map(|digest| (record.update, digest)));
                    made.updates.insert(record.update, record);
                }
                Record::Checkpoint(checkpoint) => {
                    made.parameters.insert(checkpoint.update, checkpoint.parameters);
                }
                Record::Final(outputs) => {
                    made.parameters.insert(outputs.update, outputs.parameters);
                }
                Record::Rewind(rewind) => {
                    made.updates.split_off(&rewind.to.next());
                    made.parameters.split_off(&rewind.to.next());
                }
                Record::Run(_) | Record::Group(_) | Record::Log(_) | Record::Evaluation(_) => {}
            }
        }
    }
}

/// What differs between two records of an update; who computed it may.
fn difference(told: &UpdateRecord, again: &UpdateRecord) -> Option<String> {
    let numbers = [
        ("loss", told.loss, again.loss),
        ("gradient norm", told.grad_norm, again.grad_norm),
        ("learning rate", told.learning_rate, again.learning_rate),
        ("epoch", told.epoch, again.epoch),
    ];
    if let Some(lane) = (0..).zip(&told.lanes).find(|(lane, rows)| again.lanes.get(*lane) != Some(*rows)) {
        return Some(format!("took other rows in lane {}", lane.0));
    }
    let differs = numbers.into_iter().find(|(_, told, again)| told.to_bits() != again.to_bits());
    let number = differs.map(|(name, told, again)| format!("has {name} {told} in the ledger, {again} made again"));
    number.or_else(|| {
        let (told, again) = (told.tokens, again.tokens);
        (told != again).then(|| format!("computed {told} tokens in the ledger, {again} made again"))
    })
}

#[cfg(test)]
mod tests {
    use medley_common::identity::WorkerId;

    use super::*;
    use crate::archive::fixture::{begun, record};

    /// The ledger of three updates, the second of which has this digest.
    fn ledger(parameters: Option<Digest>, workers: u64) -> tempfile::TempDir {
        let (folder, mut writing) = begun(None);
        for update in 1..=3 {
            let parameters = parameters.filter(|_| update == 2);
            let workers = vec![WorkerId(workers); 2];
            writing.ledger.append(Record::Update(UpdateRecord { parameters, workers, ..record(update) })).unwrap();
        }
        folder
    }

    fn compare(told: Option<Digest>, again: Option<Digest>) -> Comparison {
        let path = |folder: &tempfile::TempDir| folder.path().join(crate::archive::LEDGER_FILE);
        let (told, again) = (ledger(told, 1), ledger(again, 2));
        Comparison::of(&path(&told), &path(&again), Update(0), Update(3)).unwrap()
    }

    /// Rows, loss and norm are equal, and the ledger is sealed: the parameters alone tell.
    #[test]
    fn a_tampered_digest_is_found() {
        let (right, wrong) = (Some(Digest([1; 32])), Some(Digest([2; 32])));
        let equal = compare(right, right);
        assert!(equal.is_equal() && equal.to_string().contains("parameters after 1 of them, the last update 2"));
        let differs = compare(wrong, right);
        assert!(!differs.is_equal() && differs.to_string().contains("update 2 has parameters 0202"), "{differs}");
        let unknown = compare(None, right);
        assert!(unknown.is_equal() && unknown.to_string().contains("were not compared"), "{unknown}");
    }
}
