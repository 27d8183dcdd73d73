//! The scale of the loss in half precision: large enough that small gradients are not lost, small enough that large ones
//! do not overflow (Micikevicius et al., "Mixed Precision Training", 2018; the numbers are those of
//! `torch.cuda.amp.GradScaler`).

/// Good updates after which the scale is doubled.
const GROWTH_INTERVAL: u32 = 2000;
/// Where it starts.
const FIRST: f64 = 65_536.0;
/// Below this nothing is left to lower: the gradient itself is not finite.
const LEAST: f64 = 1.0 / 65_536.0;
/// The largest power of two that a gradient can be divided by in `f32` with room to spare.
const MOST: f64 = 16_777_216.0 * 65_536.0;

/// The scale and its course. A pure state machine: all ranks see the same norms, so they decide alike.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LossScale {
    /// What the mean loss is multiplied by.
    pub scale: f64,
    /// Updates since the scale last changed.
    pub good_updates: u32,
    /// Updates that were skipped because the gradient overflowed.
    pub skipped_updates: u64,
}

impl Default for LossScale {
    fn default() -> Self {
        Self { scale: FIRST, good_updates: 0, skipped_updates: 0 }
    }
}

impl LossScale {
    /// After an update whose gradient was finite.
    pub fn succeeded(&mut self) {
        self.good_updates += 1;
        if self.good_updates == GROWTH_INTERVAL {
            self.scale = (self.scale * 2.0).min(MOST);
            self.good_updates = 0;
        }
    }

    /// After an update whose gradient was not finite and that is skipped. `false` if it is not the scale's fault: it is
    /// as low as can be.
    #[must_use]
    pub fn overflowed(&mut self) -> bool {
        if self.scale <= LEAST {
            return false;
        }
        self.scale *= 0.5;
        self.good_updates = 0;
        self.skipped_updates += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_after_two_thousand_good_updates_and_halves_at_an_overflow() {
        let mut scale = LossScale::default();
        (0..1999).for_each(|_| scale.succeeded());
        assert_eq!(scale, LossScale { scale: 65_536.0, good_updates: 1999, skipped_updates: 0 });
        scale.succeeded();
        assert_eq!(scale, LossScale { scale: 131_072.0, good_updates: 0, skipped_updates: 0 });
        scale.succeeded();
        assert!(scale.overflowed());
        assert_eq!(scale, LossScale { scale: 65_536.0, good_updates: 0, skipped_updates: 1 });
        (0..2000).for_each(|_| scale.succeeded());
        assert_eq!(scale.scale, 131_072.0);
    }

    #[test]
    fn it_ends_where_lowering_cannot_help_and_never_becomes_infinite() {
        let mut scale = LossScale::default();
        let overflows = (0..1000).take_while(|_| scale.overflowed()).count();
        assert_eq!((overflows, scale.scale, scale.skipped_updates), (32, LEAST, 32));
        (0..200 * GROWTH_INTERVAL).for_each(|_| scale.succeeded());
        assert_eq!(scale.scale, MOST);
    }
}
