//! The room on the disk that a run needs.

use std::num::NonZeroU32;

use super::error::gigabytes;

/// What decides how much a run will write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceNeed {
    /// Bytes of all parameters in float32.
    pub parameter_bytes: u64,
    /// Bytes of what the optimizer remembers of them.
    pub optimizer_bytes: u64,
    /// Bytes of tokenizer and configuration, which go into every folder.
    pub text_bytes: u64,
    /// Checkpoints that are still to be written.
    pub checkpoints: u64,
    /// `--save_total_limit`: the checkpoints that are kept; `None` keeps all.
    pub save_total_limit: Option<NonZeroU32>,
    /// Whether one of them may be kept for its evaluation, so that even a limit of 1 keeps two.
    pub keeps_best: bool,
}

/// The room that a run needs, and what there is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// What the run needs at its peak.
    pub need_bytes: u64,
    /// What it can have: what is free, and its own checkpoints that lie there.
    pub free_bytes: u64,
    /// What the need consists of.
    pub plan: String,
}

impl Space {
    /// Whether there is room enough.
    #[must_use]
    pub fn is_enough(&self) -> bool {
        self.need_bytes <= self.free_bytes
    }
}

/// Headers and log of a saved model, and its share of the ledger.
const OVERHEAD_BYTES: u64 = 256 << 10;

impl SpaceNeed {
    /// Bytes of one checkpoint: the parameters, and what the optimizer remembers of them.
    #[must_use]
    pub fn checkpoint_bytes(&self) -> u64 {
        self.parameter_bytes.saturating_add(self.optimizer_bytes).saturating_add(self.small_bytes())
    }

    /// Bytes of what is saved beside parameters and moments.
    fn small_bytes(&self) -> u64 {
        self.text_bytes.saturating_add(OVERHEAD_BYTES)
    }

    /// The peak of the run beside `free_bytes`, where `staying` checkpoints lie already that are part of it.
    ///
    /// At the peak there is one checkpoint more than the limit: the newest is written before the oldest goes.
    pub(super) fn beside(&self, free_bytes: u64, staying: u64) -> Space {
        let in_all = staying.saturating_add(self.checkpoints);
        let least = if self.keeps_best { 2 } else { 1 };
        let most = self.save_total_limit.map_or(u64::MAX, |limit| u64::from(limit.get()).max(least) + 1);
        let checkpoints = in_all.min(most.max(staying));
        let model_bytes = self.parameter_bytes.saturating_add(self.small_bytes());
        let need_bytes = checkpoints.saturating_mul(self.checkpoint_bytes()).saturating_add(model_bytes);
        let plan = format!(
            "{checkpoints} checkpoints of {} at most, and the final model of {}",
            gigabytes(self.checkpoint_bytes()),
            gigabytes(model_bytes)
        );
        Space { need_bytes, free_bytes, plan }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BioLinkBERT-large with three labels.
    const LARGE_BYTES: u64 = 333_478_915 * 4;

    fn need(checkpoints: u64, limit: Option<u32>) -> SpaceNeed {
        let save_total_limit = limit.and_then(NonZeroU32::new);
        SpaceNeed {
            parameter_bytes: LARGE_BYTES,
            optimizer_bytes: 2 * LARGE_BYTES,
            text_bytes: 700_000,
            checkpoints,
            save_total_limit,
            keeps_best: false,
        }
    }

    #[test]
    fn the_reference_run_needs_seven_checkpoints_and_a_model() {
        let space = need(7, None).beside(29_300_000_000, 0);
        assert!(!space.is_enough());
        assert_eq!(space.need_bytes, 22 * LARGE_BYTES + 8 * (700_000 + OVERHEAD_BYTES));
        assert_eq!(space.plan, "7 checkpoints of 4.0 GB at most, and the final model of 1.3 GB");
        assert!(need(7, None).beside(space.need_bytes, 0).is_enough());
        let forgetful = SpaceNeed { optimizer_bytes: 0, ..need(7, None) };
        assert_eq!(forgetful.beside(0, 0).need_bytes, 8 * (LARGE_BYTES + 700_000 + OVERHEAD_BYTES));
    }

    #[test]
    fn a_limit_bounds_the_need() {
        let peak = |need: SpaceNeed, staying| need.beside(0, staying).need_bytes;
        assert_eq!(peak(need(7, Some(1)), 0), peak(need(2, None), 0), "one kept and one being written");
        let best = SpaceNeed { keeps_best: true, ..need(7, Some(1)) };
        assert_eq!(peak(best, 0), peak(need(3, None), 0), "the best, the newest, and one being written");
        assert_eq!(peak(need(1, Some(5)), 0), peak(need(1, None), 0));
        assert_eq!(peak(need(4, Some(2)), 3), peak(need(3, None), 0), "three lie there before the first is written");
        assert_eq!(peak(need(0, Some(2)), 0), LARGE_BYTES + 700_000 + OVERHEAD_BYTES, "no checkpoints, but the model");
        assert_eq!(peak(SpaceNeed { parameter_bytes: u64::MAX, ..need(7, None) }, 0), u64::MAX, "no overflow");
    }
}
