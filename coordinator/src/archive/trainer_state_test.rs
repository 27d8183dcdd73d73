use medley_common::evaluation::Tally;
use medley_common::identity::Split;

use super::*;
use crate::archive::fixture::cadence;

fn state() -> TrainerState {
    let mut state = TrainerState::new(&cadence());
    state.advance(Update(500), 500.0 / 351.0, 45_000);
    let log = TrainLog {
        update: Update(500),
        epoch: 500.0 / 351.0,
        loss: 1.0625,
        grad_norm: 2.5,
        learning_rate: 3e-5,
        skipped: 0,
    };
    state.log(LogEntry::of_training(&log));
    let tally = Tally { rows: 4, correct: 3, loss_sum: 2.0 };
    let report = EvaluationReport {
        split: Split::Validation,
        update: Update(500),
        epoch: 1.5,
        tally,
        predictions: vec![],
        labels: vec![],
        seconds: 2.0,
    };
    state.log(LogEntry::of_evaluation(&report, 8, &[]));
    let summary =
        TrainSummary { update: Update(500), epoch: 1.5, mean_loss: 0.5, rows: 16_000, updates: 500, seconds: 100.0 };
    state.log(LogEntry::of_summary(&summary));
    state
}

#[test]
fn the_text_is_hugging_faces() {
    let text = String::from_utf8(state().to_bytes()).unwrap();
    let expected = r#"{
  "best_global_step": null,
  "best_metric": null,
  "best_model_checkpoint": null,
  "epoch": 1.4245014245014245,
  "eval_steps": null,
  "global_step": 500,
  "is_hyper_param_search": false,
  "is_local_process_zero": true,
  "is_world_process_zero": true,
  "log_history": [
    {
      "epoch": 1.4245014245014245,
      "grad_norm": 2.5,
      "learning_rate": 0.00003,
      "loss": 1.0625,
      "step": 500
    },
    {
      "epoch": 1.5,
      "eval_accuracy": 0.75,
      "eval_loss": 0.5,
      "eval_runtime": 2.0,
      "eval_samples_per_second": 0.0,
      "eval_steps_per_second": 0.0,
      "step": 500
    },
    {
      "epoch": 1.5,
      "step": 500,
      "train_loss": 0.5,
      "train_runtime": 100.0,
      "train_samples_per_second": 160.0,
      "train_steps_per_second": 5.0
    }
  ],
  "logging_steps": 500,
  "max_steps": 3510,
  "num_input_tokens_seen": 45000,
  "num_train_epochs": 10,
  "save_steps": 500,
  "total_flos": 0.0,
  "train_batch_size": 16,
  "trial_name": null,
  "trial_params": null
}
"#;
    assert_eq!(text, expected);
}

#[test]
fn it_reads_back() {
    let folder = tempfile::tempdir().unwrap();
    let state = state();
    state.save(folder.path()).unwrap();
    assert_eq!(TrainerState::read(folder.path()), Ok(state));
    std::fs::write(folder.path().join(TRAINER_STATE_FILE), "{").unwrap();
    assert!(TrainerState::read(folder.path()).unwrap_err().starts_with("trainer_state.json: "));
}

#[test]
fn a_resume_keeps_history_and_takes_the_new_cadence() {
    let resumed = state().resumed(&Cadence { logging_steps: 10, ..cadence() });
    assert_eq!((resumed.global_step, resumed.log_history.len(), resumed.logging_steps), (500, 3, 10));
    assert_eq!(resumed.num_input_tokens_seen, 45_000);
}

/// A checkpoint that is committed while training goes on tells of its own update, not of later ones.
#[test]
fn it_goes_back_to_an_update() {
    let mut later = state();
    later.advance(Update(502), 502.0 / 351.0, 180);
    later.log(LogEntry(JsonObject::from([("step".to_owned(), Value::from(502))])));
    assert_eq!(later.back_at((Update(500), 500.0 / 351.0), 180), state());
}

#[test]
fn skipped_updates_are_counted_in_the_log() {
    let log = TrainLog { update: Update(8), epoch: 0.5, loss: 1.0, grad_norm: 2.0, learning_rate: 0.1, skipped: 2 };
    let entry = LogEntry::of_training(&log).0;
    assert_eq!((&entry["skipped_updates"], &entry["step"]), (&Value::from(2), &Value::from(8)));
    assert!(!LogEntry::of_training(&TrainLog { skipped: 0, ..log }).0.contains_key("skipped_updates"));
}

#[test]
fn numbers_that_json_lacks_are_null() {
    let mut state = TrainerState::new(&cadence());
    let log = TrainLog {
        update: Update(1),
        epoch: 0.5,
        loss: f64::NAN,
        grad_norm: f64::INFINITY,
        learning_rate: 0.0,
        skipped: 0,
    };
    state.log(LogEntry::of_training(&log));
    let text = String::from_utf8(state.to_bytes()).unwrap();
    assert!(text.contains("\"loss\": null") && text.contains("\"grad_norm\": null"), "{text}");
    assert!(serde_json::from_str::<TrainerState>(&text).is_ok());
}
