//! `trainer_state.json` in Hugging Face's shape: where a run stands and what it logged.

use std::path::Path;

use medley_common::identity::Update;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::durable;
use super::error::ArchiveError;
use super::json_text::{JsonObject, number, pretty};
use super::manifest::read_text;
use super::results::{Metrics, speed};
use crate::run::report::{EvaluationReport, TrainLog, TrainSummary};
use crate::spec::Measured;

/// The file's name, in checkpoints and beside the final model.
pub const TRAINER_STATE_FILE: &str = "trainer_state.json";

/// `transformers.TrainerState`; what Medley has no use for keeps Hugging Face's value for "none".
///
/// The fields are in the order of their names, as Hugging Face writes them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainerState {
    /// The update of the best checkpoint, where one is chosen by a metric.
    pub best_global_step: Option<u64>,
    /// The metric there.
    pub best_metric: Option<f64>,
    /// The folder of that checkpoint.
    pub best_model_checkpoint: Option<String>,
    /// Epochs done.
    pub epoch: f64,
    /// Updates between evaluations; `null` where none are made during training.
    pub eval_steps: Option<u64>,
    /// Updates done.
    pub global_step: u64,
    /// Always false.
    pub is_hyper_param_search: bool,
    /// Always true.
    pub is_local_process_zero: bool,
    /// Always true.
    pub is_world_process_zero: bool,
    /// What was logged, oldest first.
    pub log_history: Vec<LogEntry>,
    /// Updates between log entries.
    pub logging_steps: u64,
    /// Updates of the whole run.
    pub max_steps: u64,
    /// Tokens computed.
    pub num_input_tokens_seen: u64,
    /// Epochs of the whole run, rounded up.
    pub num_train_epochs: u64,
    /// Updates between checkpoints; `null` where none are written.
    pub save_steps: Option<u64>,
    /// Always 0: not counted.
    pub total_flos: f64,
    /// `--per_device_train_batch_size`.
    pub train_batch_size: u32,
    /// Always `null`.
    pub trial_name: Option<String>,
    /// Always `null`.
    pub trial_params: Option<Value>,
}

/// How long a run is and how often it does what; Hugging Face's names.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Cadence {
    /// Updates of the whole run.
    pub max_steps: u64,
    /// `--num_train_epochs`.
    pub num_train_epochs: f64,
    /// `--per_device_train_batch_size`.
    pub train_batch_size: u32,
    /// Updates between log entries.
    pub logging_steps: u64,
    /// Updates between evaluations, if there are any during training.
    pub eval_steps: Option<u64>,
    /// Updates between checkpoints, if there are any.
    pub save_steps: Option<u64>,
}

/// One entry of the log history: numbers by key, among them `epoch` and `step`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogEntry(pub JsonObject);

impl LogEntry {
    /// What it says that an evaluation measured, by the metric's key; JSON has no infinity and no NaN.
    #[must_use]
    pub fn measured(&self, metric: &str) -> Option<f64> {
        Some(self.0.get(&format!("eval_{metric}"))?.as_f64().unwrap_or(f64::NAN))
    }
}

impl TrainerState {
    /// The state before the first update.
    #[must_use]
    pub fn new(cadence: &Cadence) -> Self {
        Self {
            best_global_step: None,
            best_metric: None,
            best_model_checkpoint: None,
            epoch: 0.0,
            eval_steps: cadence.eval_steps,
            global_step: 0,
            is_hyper_param_search: false,
            is_local_process_zero: true,
            is_world_process_zero: true,
            log_history: Vec::new(),
            logging_steps: cadence.logging_steps,
            max_steps: cadence.max_steps,
            num_input_tokens_seen: 0,
            num_train_epochs: cadence.num_train_epochs.ceil() as u64,
            save_steps: cadence.save_steps,
            total_flos: 0.0,
            train_batch_size: cadence.train_batch_size,
            trial_name: None,
            trial_params: None,
        }
    }

    /// Goes on from a checkpoint's state: its position and history, under this run's cadence.
    #[must_use]
    pub fn resumed(self, cadence: &Cadence) -> Self {
        Self {
            epoch: self.epoch,
            global_step: self.global_step,
            num_input_tokens_seen: self.num_input_tokens_seen,
            log_history: self.log_history,
            ..Self::new(cadence)
        }
    }

    /// Moves on: `update` is applied, `epoch` epochs are done, `tokens` more tokens are computed.
    pub fn advance(&mut self, update: Update, epoch: f64, tokens: u64) {
        self.global_step = update.0;
        self.epoch = epoch;
        self.num_input_tokens_seen = self.num_input_tokens_seen.saturating_add(tokens);
    }

    /// The state as it was after `update` and `epoch` epochs, `tokens` tokens before now, with all that was logged by then.
    #[must_use]
    pub fn back_at(mut self, (update, epoch): (Update, f64), tokens: u64) -> Self {
        self.global_step = update.0;
        self.epoch = epoch;
        self.num_input_tokens_seen = self.num_input_tokens_seen.saturating_sub(tokens);
        let by_then =
            |entry: &LogEntry| entry.0.get("step").and_then(Value::as_u64).is_none_or(|step| step <= update.0);
        self.log_history.retain(by_then);
        self
    }

    /// Says which checkpoint in `folder` is the best so far.
    #[must_use]
    pub fn with_best(self, best: Option<Measured>, folder: &Path) -> Self {
        let path = |best: Measured| folder.join(format!("checkpoint-{}", best.update)).display().to_string();
        Self {
            best_global_step: best.map(|best| best.update.0),
            best_metric: best.map(|best| best.value),
            best_model_checkpoint: best.map(path),
            ..self
        }
    }

    /// Whether the log has an evaluation after `update`; where it has nothing at all, all that was due is taken for made.
    #[must_use]
    pub fn is_evaluated(&self, update: Update) -> bool {
        let is_it = |entry: &LogEntry| {
            let is_of = entry.0.get("step").and_then(Value::as_u64) == Some(update.0);
            is_of && entry.0.keys().any(|key| key.starts_with("eval_"))
        };
        self.log_history.is_empty() || self.log_history.iter().any(is_it)
    }

    /// What the evaluations in the log measured, by a metric's key, in order.
    #[must_use]
    pub fn measured(&self, metric: &str) -> Vec<Measured> {
        let of = |entry: &LogEntry| {
            let update = Update(entry.0.get("step")?.as_u64()?);
            Some(Measured { update, value: entry.measured(metric)? })
        };
        self.log_history.iter().filter_map(of).collect()
    }

    /// Adds an entry to the log.
    pub fn log(&mut self, entry: LogEntry) {
        self.log_history.push(entry);
    }

    /// The file's text.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = pretty(self, "  ");
        text.push(b'\n');
        text
    }

    /// Writes the file into `folder`, all or nothing. Blocks.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn save(&self, folder: &Path) -> Result<(), ArchiveError> {
        durable::replace(&folder.join(TRAINER_STATE_FILE), self.to_bytes())
    }

    /// Reads the file of `folder`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn read(folder: &Path) -> Result<Self, String> {
        let describe = |reason: &dyn std::fmt::Display| format!("{TRAINER_STATE_FILE}: {reason}");
        let bytes = read_text(&folder.join(TRAINER_STATE_FILE)).map_err(|error| describe(&error))?;
        serde_json::from_slice(&bytes).map_err(|error| describe(&error))
    }
}

impl LogEntry {
    /// A line of training.
    #[must_use]
    pub fn of_training(log: &TrainLog) -> Self {
        let mut entry = JsonObject::from([
            ("grad_norm".to_owned(), number(log.grad_norm)),
            ("learning_rate".to_owned(), number(log.learning_rate)),
            ("loss".to_owned(), number(log.loss)),
        ]);
        if log.skipped > 0 {
            entry.insert("skipped_updates".to_owned(), Value::from(log.skipped));
        }
        Self::at(entry, log.epoch, log.update)
    }

    /// An evaluation; steps are batches of `batch_rows` rows, `names` those of the labels. Its numbers alone, no tables.
    #[must_use]
    pub fn of_evaluation(report: &EvaluationReport, batch_rows: u32, names: &[String]) -> Self {
        let mut entry = Metrics::of_evaluation(report, batch_rows, names).values().clone();
        // Hugging Face adds the number of samples after it has logged.
        entry.retain(|key, value| !key.ends_with("_samples") && !value.is_array());
        Self::at(entry, report.epoch, report.update)
    }

    /// The end of training.
    #[must_use]
    pub fn of_summary(summary: &TrainSummary) -> Self {
        let mut entry = speed("train", summary.seconds, summary.rows, summary.updates);
        entry.insert("train_loss".to_owned(), number(summary.mean_loss));
        Self::at(entry, summary.epoch, summary.update)
    }

    /// The same of the best model, under names of its own: `eval_best_loss`.
    #[must_use]
    pub fn of_best(&self) -> Self {
        let name = |key: &String| match key.strip_prefix("eval_") {
            Some(metric) => format!("eval_best_{metric}"),
            None => key.clone(),
        };
        Self(self.0.iter().map(|(key, value)| (name(key), value.clone())).collect())
    }

    fn at(mut entry: JsonObject, epoch: f64, update: Update) -> Self {
        entry.insert("epoch".to_owned(), number(epoch));
        entry.insert("step".to_owned(), Value::from(update.0));
        Self(entry)
    }
}

#[cfg(test)]
#[path = "trainer_state_test.rs"]
mod tests;
