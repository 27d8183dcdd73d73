//! What all ranks must say alike (INV-3).

use std::collections::BTreeMap;

use medley_common::identity::{Digest, Update, WorkerId};
use medley_common::message::{Failure, FailureKind, UpdateReport};

use super::{Action, Run};

impl Run {
    /// Ends the run where workers have different parameters after `update`, and names the one that is alone; `true`
    /// where it has.
    pub(super) fn parameters_differ(
        &mut self,
        update: Update,
        digests: &BTreeMap<WorkerId, Digest>,
        actions: &mut Vec<Action>,
    ) -> bool {
        let Some((worker, other)) = dissenter(digests) else { return false };
        let (found, known) = (digests[&worker], digests[&other]);
        let agree = digests.values().filter(|digest| **digest == known).count();
        let others = match agree {
            1 => format!("{} has {known}; one of them", self.roster.describe(other)),
            _ => format!("{agree} others have {known}; its memory or processor, or its program,"),
        };
        let name = self.roster.describe(worker);
        let message = format!("different parameters after update {update}: {name} has {found}, {others} is at fault");
        self.broken(Failure { kind: FailureKind::Internal, message }, actions);
        true
    }
}

/// A worker whose digest is not that of most, and one of those; `None` where all are equal.
fn dissenter(digests: &BTreeMap<WorkerId, Digest>) -> Option<(WorkerId, WorkerId)> {
    let with = |wanted: &Digest| digests.values().filter(|digest| *digest == wanted).count();
    let (most, known) = digests.iter().rev().max_by_key(|(_, digest)| with(digest))?;
    let (worker, _) = digests.iter().find(|(_, digest)| *digest != known)?;
    Some((*worker, *most))
}

/// In what a report differs from the plan's learning rate, or from what another rank says.
pub(super) fn compare(
    report: &UpdateReport,
    (other, known): (WorkerId, &UpdateReport),
    learning_rate: f64,
) -> Option<String> {
    let (update, found) = (report.update, report.learning_rate);
    if found.to_bits() != learning_rate.to_bits() {
        return Some(format!("made update {update} with learning rate {found:e}; the plan says {learning_rate:e}"));
    }
    let (found, norm) = (report.grad_norm, known.grad_norm);
    if found.to_bits() != norm.to_bits() {
        return Some(format!("has gradient norm {found} after update {update}; worker {other} has {norm}"));
    }
    if report.skipped != known.skipped {
        let did = |skipped: bool| if skipped { "skipped" } else { "made" };
        let (found, known) = (did(report.skipped), did(known.skipped));
        return Some(format!("{found} update {update}; worker {other} {known} it"));
    }
    let bits = |losses: &[f32]| losses.iter().map(|loss| loss.to_bits()).collect::<Vec<_>>();
    if bits(&report.losses) != bits(&known.losses) {
        let (found, losses) = (&report.losses, &known.losses);
        return Some(format!("has losses {found:?} of update {update}; worker {other} has {losses:?}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_that_is_alone_is_named() {
        let digests = |bytes: &[u8]| (1..).map(WorkerId).zip(bytes.iter().map(|byte| Digest([*byte; 32]))).collect();
        assert_eq!(dissenter(&digests(&[])), None);
        assert_eq!(dissenter(&digests(&[7, 7, 7])), None);
        assert_eq!(dissenter(&digests(&[5, 7, 7])), Some((WorkerId(1), WorkerId(2))));
        assert_eq!(dissenter(&digests(&[7, 7, 5])), Some((WorkerId(3), WorkerId(1))));
        assert_eq!(dissenter(&digests(&[7, 5])), Some((WorkerId(2), WorkerId(1))));
    }
}
