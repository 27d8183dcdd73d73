//! After which updates a run logs, evaluates and saves.

use std::num::NonZeroU64;

use medley_common::identity::Update;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::number::Number;
use crate::cli::run_flags::{CadenceFlags, StrategyFlag};
use crate::spec::SpecError;

/// How often something is done during training.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Every {
    /// Not at all.
    Never,
    /// At the end of each epoch, and after the last update.
    Epoch,
    /// After each multiple of so many updates.
    Updates(NonZeroU64),
}

impl Every {
    /// The updates between two, where they are counted.
    #[must_use]
    pub fn updates(self) -> Option<u64> {
        match self {
            Self::Never | Self::Epoch => None,
            Self::Updates(updates) => Some(updates.get()),
        }
    }
}

/// After which updates a run logs, evaluates and saves, as the callbacks of the `Trainer` of transformers 4.22 decide.
///
/// What happens when training is over is not part of it: the final model is always written, and `--do_eval` always
/// evaluates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cadence {
    /// Updates of one epoch, at least 1.
    pub updates_per_epoch: u64,
    /// Updates of the whole run.
    pub total_updates: u64,
    /// How often to write a line of the log.
    pub logging: Every,
    /// How often to evaluate.
    pub evaluation: Every,
    /// The first update that may be followed by an evaluation.
    pub first_evaluation: Update,
    /// Whether to evaluate before the first update as well.
    pub evaluates_at_start: bool,
    /// How often to save a checkpoint.
    pub saving: Every,
    /// How often workers compare the digests of their parameters, beside every save.
    pub digest: Every,
    /// Whether the first update has a line of its own.
    pub logs_first_update: bool,
}

impl Cadence {
    /// Whether `update` is the last of its epoch, or of the run.
    #[must_use]
    pub fn ends_epoch(&self, update: Update) -> bool {
        self.reaches(update)
            && (update.0 == self.total_updates || update.0.is_multiple_of(self.updates_per_epoch.max(1)))
    }

    /// Whether `update` is followed by a line of the log.
    #[must_use]
    pub fn logs_after(&self, update: Update) -> bool {
        self.is_due(self.logging, update) || (self.logs_first_update && update.0 == 1 && self.reaches(update))
    }

    /// Whether `update` is followed by an evaluation; of update 0, whether there is one before the first.
    #[must_use]
    pub fn evaluates_after(&self, update: Update) -> bool {
        let starts = update == Update(0) && self.evaluates_at_start;
        starts || (update >= self.first_evaluation && self.is_due(self.evaluation, update))
    }

    /// Whether `update` is followed by a checkpoint.
    #[must_use]
    pub fn saves_after(&self, update: Update) -> bool {
        self.is_due(self.saving, update)
    }

    /// Whether the report of `update` has a digest of the parameters.
    #[must_use]
    pub fn digests_after(&self, update: Update) -> bool {
        self.is_due(self.digest, update)
    }

    /// Evaluations during training.
    #[must_use]
    pub fn evaluations(&self) -> u64 {
        let before = Update(self.first_evaluation.0.saturating_sub(1).min(self.total_updates));
        let due = self.times(self.evaluation, self.end()) - self.times(self.evaluation, before);
        due + u64::from(self.evaluates_at_start)
    }

    /// Checkpoints saved during training, those deleted again included.
    #[must_use]
    pub fn checkpoints(&self) -> u64 {
        self.times(self.saving, self.end())
    }

    /// What decides which updates are evaluated and saved, by name.
    #[must_use]
    pub fn evaluation_settings(&self) -> [(&'static str, Value); 3] {
        [
            ("eval_steps", every_value(self.evaluation)),
            ("eval_delay", self.first_evaluation.0.into()),
            ("save_steps", every_value(self.saving)),
        ]
    }

    fn end(&self) -> Update {
        Update(self.total_updates)
    }

    fn reaches(&self, update: Update) -> bool {
        (1..=self.total_updates).contains(&update.0)
    }

    fn is_due(&self, every: Every, update: Update) -> bool {
        match every {
            Every::Never => false,
            Every::Epoch => self.ends_epoch(update),
            Every::Updates(updates) => self.reaches(update) && update.0.is_multiple_of(updates.get()),
        }
    }

    /// How often something is due until `through`.
    fn times(&self, every: Every, through: Update) -> u64 {
        let epoch = self.updates_per_epoch.max(1);
        match every {
            Every::Never => 0,
            Every::Epoch if through == self.end() => through.0.div_ceil(epoch),
            Every::Epoch => through.0 / epoch,
            Every::Updates(updates) => through.0 / updates,
        }
    }
}

fn every_value(every: Every) -> Value {
    match every {
        Every::Never => "no".into(),
        Every::Epoch => "epoch".into(),
        Every::Updates(updates) => updates.get().into(),
    }
}

/// A cadence that does not know yet how many updates there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Intervals {
    pub(super) logging: Interval,
    pub(super) evaluation: Interval,
    /// Updates, or epochs where these are counted, before the first that may be due.
    evaluation_delay: f64,
    evaluates_at_start: bool,
    pub(super) saving: Interval,
    digest: Interval,
    logs_first_update: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Interval {
    Never,
    Epoch,
    Updates(NonZeroU64),
    /// Of the run, in (0, 1).
    Share(f64),
}

impl Intervals {
    pub(super) fn parse(flags: &CadenceFlags) -> Result<Self, SpecError> {
        let logging = Pace { flag: "--logging_steps", strategy_flag: "--logging_strategy", steps: flags.logging_steps };
        let saving = Pace { flag: "--save_steps", strategy_flag: "--save_strategy", steps: flags.save_steps };
        // As in Hugging Face, evaluations keep the pace of the log unless they are given their own.
        let evaluation = match flags.eval_steps {
            Some(steps) => Pace { flag: "--eval_steps", strategy_flag: "--evaluation_strategy", steps },
            None => logging,
        };
        Ok(Self {
            logging: logging.interval(flags.logging_strategy)?,
            evaluation: evaluation.interval(flags.evaluation_strategy)?,
            evaluation_delay: Number::new("--eval_delay", flags.eval_delay).not_negative()?,
            evaluates_at_start: flags.eval_on_start.0,
            saving: saving.interval(flags.save_strategy)?,
            digest: digest_interval(flags.digest_steps)?,
            logs_first_update: flags.logging_first_step.0,
        })
    }

    pub(super) fn bind(&self, updates_per_epoch: u64, total_updates: u64) -> Cadence {
        let every = |interval| match interval {
            Interval::Never => Every::Never,
            Interval::Epoch => Every::Epoch,
            Interval::Updates(updates) => Every::Updates(updates),
            Interval::Share(share) => {
                let updates = (total_updates as f64 * share).ceil() as u64;
                Every::Updates(NonZeroU64::new(updates).unwrap_or(NonZeroU64::MIN))
            }
        };
        let delay = match self.evaluation {
            Interval::Epoch => self.evaluation_delay * updates_per_epoch as f64,
            Interval::Never | Interval::Updates(_) | Interval::Share(_) => self.evaluation_delay,
        };
        Cadence {
            updates_per_epoch,
            total_updates,
            logging: every(self.logging),
            evaluation: every(self.evaluation),
            first_evaluation: Update(delay.ceil() as u64),
            evaluates_at_start: self.evaluates_at_start && total_updates > 0,
            saving: every(self.saving),
            digest: every(self.digest),
            logs_first_update: self.logs_first_update,
        }
    }
}

fn digest_interval(steps: i64) -> Result<Interval, SpecError> {
    let steps = Number::new("--digest_steps", steps);
    let updates = u64::try_from(steps.value).map_err(|_| steps.refused("a whole number of updates, or 0 for none"))?;
    Ok(NonZeroU64::new(updates).map_or(Interval::Never, Interval::Updates))
}

/// A number of steps, and the flags that it came by.
#[derive(Debug, Clone, Copy)]
struct Pace {
    flag: &'static str,
    strategy_flag: &'static str,
    steps: f64,
}

impl Pace {
    fn interval(self, strategy: StrategyFlag) -> Result<Interval, SpecError> {
        let steps = match strategy {
            StrategyFlag::No => return Ok(Interval::Never),
            StrategyFlag::Epoch => return Ok(Interval::Epoch),
            StrategyFlag::Steps => Number::new(self.flag, self.steps),
        };
        let whole = steps.value.fract() == 0.0 && (1.0..=1e12).contains(&steps.value);
        match NonZeroU64::new(steps.value as u64) {
            Some(updates) if whole => Ok(Interval::Updates(updates)),
            _ if steps.value > 0.0 && steps.value < 1.0 => Ok(Interval::Share(steps.value)),
            _ => Err(steps.refused(format!(
                "a whole number of updates from 1, or a share of the run below 1; use {} no to switch it off",
                self.strategy_flag
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(updates: u64) -> Every {
        Every::Updates(NonZeroU64::new(updates).unwrap())
    }

    fn cadence(every: Every) -> Cadence {
        Cadence {
            updates_per_epoch: 4,
            total_updates: 10,
            logging: every,
            evaluation: every,
            first_evaluation: Update(0),
            evaluates_at_start: false,
            saving: every,
            digest: Every::Never,
            logs_first_update: false,
        }
    }

    fn due(cadence: Cadence) -> Vec<u64> {
        (0..20).filter(|update| cadence.evaluates_after(Update(*update))).collect()
    }

    #[test]
    fn steps_and_epochs_fall_where_the_trainer_puts_them() {
        assert_eq!(due(cadence(Every::Never)), [0u64; 0]);
        assert_eq!(due(cadence(every(3))), [3, 6, 9]);
        assert_eq!(due(cadence(every(5))), [5, 10]);
        assert_eq!(due(cadence(every(11))), [0u64; 0]);
        assert_eq!(due(cadence(Every::Epoch)), [4, 8, 10], "the last update ends a broken epoch");
    }

    #[test]
    fn counts_agree_with_the_updates() {
        for every in [Every::Never, Every::Epoch, every(1), every(3), every(5), every(11)] {
            for total_updates in 0..13 {
                let cadence = Cadence { total_updates, ..cadence(every) };
                assert_eq!(cadence.checkpoints(), due(cadence).len() as u64, "{cadence:?}");
                for (first, evaluates_at_start) in [(0, false), (1, true), (4, true), (8, false), (30, false)] {
                    let delayed = Cadence { first_evaluation: Update(first), evaluates_at_start, ..cadence };
                    assert_eq!(delayed.evaluations(), due(delayed).len() as u64, "{delayed:?}");
                }
            }
        }
    }

    #[test]
    fn a_delay_and_a_start_are_those_of_the_trainer() {
        let first_evaluation = Update(6);
        assert_eq!(due(Cadence { first_evaluation, ..cadence(every(3)) }), [6, 9], "not before, and then as ever");
        let at_start = Cadence { evaluates_at_start: true, ..cadence(Every::Epoch) };
        assert_eq!(due(at_start), [0, 4, 8, 10]);
        let flags = |delay| Intervals {
            logging: Interval::Never,
            evaluation: Interval::Epoch,
            evaluation_delay: delay,
            evaluates_at_start: false,
            saving: Interval::Never,
            digest: Interval::Never,
            logs_first_update: false,
        };
        assert_eq!(due(flags(1.5).bind(4, 10)), [8, 10], "epochs, where these are counted");
    }

    #[test]
    fn the_first_update_is_logged_on_request() {
        let quiet = cadence(every(5));
        assert!(!quiet.logs_after(Update(1)));
        let eager = Cadence { logs_first_update: true, ..quiet };
        let logged: Vec<u64> = (0..20).filter(|update| eager.logs_after(Update(*update))).collect();
        assert_eq!(logged, [1, 5, 10]);
    }
}
