//! What makes the result of a training run, before the rows are counted.

use medley_common::schedule::Decay;
use medley_common::spec::{OptimizerSpec, TuningSpec};

use super::number::Number;
use super::{optimizer, schedule, tuning};
use crate::cli::run_flags::{BatchFlags, OptimizerFlags, RunFlags};
use crate::spec::{ClassWeights, LabelChoice, Note, SpecError};

/// What `--per_device_train_batch_size` times `--gradient_accumulation_steps` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchMeaning {
    /// The rows of an update, whatever the number of workers.
    Global,
    /// The rows of an update on each worker, as in Hugging Face (`--scale_batch_with_workers`).
    PerWorker,
}

/// How long to train.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RunLength {
    /// So many times through the rows, more than 0.
    Epochs(f64),
    /// So many updates, at least 1 (`--max_steps`).
    Updates(u64),
}

/// How long the learning rate rises.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Warmup {
    /// Over so many updates.
    Updates(u64),
    /// Over this share of all updates, in [0, 1].
    Share(f64),
}

/// What makes the result of a training run.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// Rows of an evaluation batch: only how `eval_steps_per_second` counts steps, as Hugging Face would.
    pub per_device_eval_batch_size: u32,
    /// Rows of a micro-batch, in the sense of Hugging Face; at least 1.
    pub per_device_train_batch_size: u32,
    /// Micro-batches an update; at least 1.
    pub gradient_accumulation_steps: u32,
    /// What their product counts.
    pub batch_meaning: BatchMeaning,
    /// Canonical micro-batches that an update is computed in, 1 to 1024.
    pub lanes: u32,
    /// How long to train.
    pub length: RunLength,
    /// How long the learning rate rises.
    pub warmup: Warmup,
    /// How it falls.
    pub decay: Decay,
    /// The highest learning rate, at least 0.
    pub peak_learning_rate: f64,
    /// How gradients become weights.
    pub optimizer: OptimizerSpec,
    /// Which parameters are trained, and how fast.
    pub tuning: TuningSpec,
    /// Probability mass spread evenly over all labels, in [0, 1).
    pub label_smoothing: f64,
    /// How much each class counts in the loss.
    pub class_weights: ClassWeights,
    /// Seeds whatever is random.
    pub seed: u64,
    /// Seeds the order of the rows; `None` where `seed` does.
    pub data_seed: Option<u64>,
}

impl Recipe {
    pub(super) fn parse(flags: &RunFlags, labels: &LabelChoice, notes: &mut Vec<Note>) -> Result<Self, SpecError> {
        let (batch, given) = (&flags.batch, &flags.optimizer);
        let decay = schedule::decay(given)?;
        let warmup = warmup(given, notes)?;
        if !decay.has_warmup() && !matches!(warmup, Warmup::Updates(0) | Warmup::Share(0.0)) {
            let instead = if decay.wants().is_none() { "; use constant_with_warmup to have one" } else { "" };
            notes.push(Note::warning(format!("--lr_scheduler_type {} has no warm-up{instead}", decay.name())));
        }
        let seed = Number::new("--seed", given.seed);
        if batch.per_device_eval_batch_size.is_some() {
            notes.push(Note::plain(
                "--per_device_eval_batch_size has no effect: evaluation is packed by tokens, and the result is the same",
            ));
        }
        let eval_rows = Number::new("--per_device_eval_batch_size", batch.per_device_eval_batch_size.unwrap_or(8));
        Ok(Self {
            per_device_eval_batch_size: eval_rows.at_least(1)?,
            per_device_train_batch_size: Number::new(
                "--per_device_train_batch_size",
                batch.per_device_train_batch_size,
            )
            .at_least(1)?,
            gradient_accumulation_steps: Number::new(
                "--gradient_accumulation_steps",
                batch.gradient_accumulation_steps,
            )
            .at_least(1)?,
            batch_meaning: if batch.scale_batch_with_workers.0 {
                BatchMeaning::PerWorker
            } else {
                BatchMeaning::Global
            },
            lanes: Number::new("--lanes", batch.lanes).within(1, 1024)?,
            length: length(batch)?,
            warmup,
            decay,
            peak_learning_rate: Number::new("--learning_rate", given.learning_rate).not_negative()?,
            optimizer: optimizer::parse(given, notes)?,
            tuning: tuning::parse(&flags.tuning)?,
            label_smoothing: Number::new("--label_smoothing_factor", given.label_smoothing_factor)
                .that(|mass| (0.0..1.0).contains(&mass), "a number from 0 up to, but not including, 1")?,
            class_weights: ClassWeights::parse(given.class_weights.as_deref(), labels)?,
            data_seed: given.data_seed.map(|seed| whole(Number::new("--data_seed", seed))).transpose()?,
            seed: whole(seed)?,
        })
    }
}

fn whole(seed: Number<i64>) -> Result<u64, SpecError> {
    u64::try_from(seed.value).map_err(|_| seed.refused("a whole number of 0 or more"))
}

/// `--max_steps` wins over `--num_train_epochs` where it is above 0, as in Hugging Face.
fn length(flags: &BatchFlags) -> Result<RunLength, SpecError> {
    match u64::try_from(flags.max_steps) {
        Ok(updates) if updates > 0 => Ok(RunLength::Updates(updates)),
        _ => Number::new("--num_train_epochs", flags.num_train_epochs)
            .that(|epochs| epochs > 0.0, "a number above 0; or give the number of updates with --max_steps")
            .map(RunLength::Epochs),
    }
}

/// `--warmup_steps` wins over `--warmup_ratio` where it is above 0; below 1 it is itself a ratio (transformers 5).
fn warmup(flags: &OptimizerFlags, notes: &mut Vec<Note>) -> Result<Warmup, SpecError> {
    let ratio = Number::new("--warmup_ratio", flags.warmup_ratio).that(
        |ratio| (0.0..=1.0).contains(&ratio),
        "a share of the run from 0 to 1; for a number of updates use --warmup_steps",
    )?;
    let steps = Number::new("--warmup_steps", flags.warmup_steps);
    let value = steps.that(
        |steps| (0.0..1.0).contains(&steps) || (steps.fract() == 0.0 && (1.0..=1e12).contains(&steps)),
        "a whole number of updates, or a share of the run from 0 up to 1",
    )?;
    if value > 0.0 && ratio > 0.0 {
        notes.push(Note::plain(format!("--warmup_ratio {ratio:?} has no effect: --warmup_steps {value} comes first")));
    }
    Ok(match value {
        0.0 => Warmup::Share(ratio),
        share if share < 1.0 => Warmup::Share(share),
        updates => Warmup::Updates(updates as u64),
    })
}
