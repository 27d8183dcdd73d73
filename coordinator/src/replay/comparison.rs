//! Two ledgers of the same updates, compared: to the bit, unless the run was not reproducible.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use medley_common::identity::{Digest, Update};
use medley_common::spec::Summation;

use crate::archive::{ArchiveError, Lines, Next, Record};
use crate::run::report::UpdateRecord;

/// By how much losses and gradient norms of a run that is not reproducible may differ, as a share of them.
const TOLERANCE: f64 = 0.01;

/// What two ledgers say of the same updates.
#[derive(Debug, Clone, PartialEq)]
pub struct Comparison {
    /// The update before the first that was compared.
    from: Update,
    /// The last that was compared.
    through: Update,
    /// The updates after which both have the digest of the parameters.
    digests: Vec<Update>,
    /// The largest difference of a loss or a gradient norm, as a share of it; `None` where they must be equal.
    largest: Option<f64>,
    /// What differs first; `None` where all is equal.
    difference: Option<String>,
}

/// What a ledger says of updates and parameters.
#[derive(Default)]
struct Made {
    summation: Summation,
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
        let is_exact = told.summation == Summation::ByLane;
        let largest = (!is_exact).then_some(0.0);
        let mut comparison = Self { from, through, digests: Vec::new(), largest, difference: None };
        for update in (from.0 + 1..=through.0).map(Update) {
            comparison.difference = match (told.updates.get(&update), again.updates.get(&update)) {
                (Some(told), Some(again)) => difference(told, again, comparison.largest.as_mut()),
                (told, _) => Some(format!("was not {}", if told.is_none() { "recorded" } else { "made again" })),
            };
            let digests = told.parameters.get(&update).zip(again.parameters.get(&update)).filter(|_| is_exact);
            if let Some((told, again)) = digests {
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
        if let Some(largest) = self.largest {
            return write!(
                f,
                "updates {first} to {through}, made again, have the ledger's rows and learning rates; losses and gradient \
                 norms differ by {:.1e} at most. The run was made with --reproducible off, so bits are not compared",
                largest
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
                Record::Run(identity) => made.summation = identity.train.compute.summation,
                Record::Group(_) | Record::Log(_) | Record::Evaluation(_) => {}
            }
        }
    }
}

/// What differs between two records of an update; who computed it may. Where there is a `largest` difference, loss and
/// gradient norm may differ within the tolerance, and it is kept up.
fn difference(told: &UpdateRecord, again: &UpdateRecord, largest: Option<&mut f64>) -> Option<String> {
    let sums = [("loss", told.loss, again.loss), ("gradient norm", told.grad_norm, again.grad_norm)];
    let is_near = |told: f64, again: f64| (again - told).abs() <= TOLERANCE * told.abs();
    if let Some(largest) = largest {
        for (name, told, again) in sums {
            if !is_near(told, again) {
                return Some(format!("has {name} {told} in the ledger, {again} made again: more than rounding"));
            }
            *largest = largest.max((again - told).abs() / told.abs().max(f64::MIN_POSITIVE));
        }
        let UpdateRecord { loss, grad_norm, .. } = *told;
        return difference(told, &UpdateRecord { loss, grad_norm, ..again.clone() }, None);
    }
    let numbers = [
        sums[0],
        sums[1],
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
