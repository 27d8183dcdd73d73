//! `medley predict` and `medley evaluate`: a run without training whose rows come as a stream, and whose results go to
//! whoever asked instead of an output folder.
//!
//! Rows are read, encoded and offered to the run in chunks, the next one while a chunk is predicted (`feed.rs`). What the
//! run publishes goes to a `Sink`, chunk after chunk (`desk.rs`). So memory is bounded, however long the stream is, and
//! the workers stay: they are those of any run.

mod assembly;
mod desk;
mod feed;
mod lines;
mod reading;
mod scores;
mod table;

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use medley_common::message::{Failure, FailureKind};
use medley_common::secret::Secret;

use crate::archive::{CERTIFICATE_FILE, LEDGER_FILE, OutputDir, RowOrigin};
use crate::cli::{Evaluate, Predict, Source, TrainedModel};
use crate::coordinate::run_assembled;
use crate::dataset::rows::Labels;
use crate::display::Display;
use crate::run::report::{EvaluationReport, Outcome};
use crate::stop_requests::StopRequests;

use assembly::assemble;
use lines::{Form, Lines, Target};
use scores::Scores;

pub use table::Table;

/// Takes predictions in, in the order of the rows.
trait Sink: fmt::Debug + Send {
    /// Takes the next ones.
    ///
    /// # Errors
    /// They cannot be written. A pipe that nobody reads any more ends the stream, and is no failure of it.
    fn take(&mut self, chunk: &Predicted<'_>) -> io::Result<()>;
}

/// A chunk of a stream, predicted.
#[derive(Debug)]
struct Predicted<'a> {
    /// The names of the labels, by id.
    names: &'a [String],
    /// Where its rows come from, by row id within the chunk.
    origins: &'a [RowOrigin],
    /// What the run says of it.
    report: &'a EvaluationReport,
}

/// What a stream is asked for.
#[derive(Debug)]
struct Asked {
    model: TrainedModel,
    source: Source,
    need: Labels,
    sink: Box<dyn Sink>,
    secret: Secret,
}

/// A sink of which its owner keeps a hold.
impl<S: Sink> Sink for Arc<Mutex<S>> {
    fn take(&mut self, chunk: &Predicted<'_>) -> io::Result<()> {
        self.lock().unwrap_or_else(PoisonError::into_inner).take(chunk)
    }
}

/// Predicts rows, and writes them as they come. Must be awaited on the main thread.
pub async fn predict(asked: Predict, secret: Secret, stops: &mut StopRequests) -> Outcome {
    let Predict { model, source, output } = asked;
    if let Some(failure) = output.as_deref().and_then(refused_output) {
        return Outcome::Failed(failure);
    }
    let form = Form::of(&source, output.as_deref());
    let target = match Target::new(output, &source) {
        Ok(target) => target,
        Err(failure) => return Outcome::Failed(failure),
    };
    let lines = Arc::new(Mutex::new(Lines::new(target, form)));
    let sink = Box::new(Arc::clone(&lines));
    let outcome = answer(Asked { model, source, need: Labels::Optional, sink, secret }, stops).await;
    let finished = match &outcome {
        Outcome::Completed => lines.lock().unwrap_or_else(PoisonError::into_inner).finish(),
        Outcome::Stopped { .. } | Outcome::Failed(_) => Ok(()),
    };
    match finished {
        Ok(()) => outcome,
        Err(error) => Outcome::Failed(Failure { kind: FailureKind::Internal, message: error.to_string() }),
    }
}

/// Predicts labelled rows, and answers the table of what that comes to once it is complete. Must be awaited on the main
/// thread.
pub async fn evaluate(asked: Evaluate, secret: Secret, stops: &mut StopRequests) -> (Outcome, Option<Table>) {
    let Evaluate { model, source, json: _, output_dir } = asked;
    let output = match output_dir.map(|dir| open(&dir)).transpose() {
        Ok(output) => output,
        Err(failure) => return (Outcome::Failed(failure), None),
    };
    let batch_rows = model.spec.recipe().per_device_eval_batch_size;
    let scores = Arc::new(Mutex::new(Scores::default()));
    let sink = Box::new(Arc::clone(&scores));
    let outcome = answer(Asked { model, source, need: Labels::Required, sink, secret }, stops).await;
    if outcome != Outcome::Completed {
        return (outcome, None);
    }
    let scores = std::mem::take(&mut *scores.lock().unwrap_or_else(PoisonError::into_inner));
    let (metrics, names) = scores.metrics(batch_rows);
    if let Some(Err(error)) = output.map(|output| metrics.save(&output)) {
        return (Outcome::Failed(Failure { kind: error.kind(), message: error.to_string() }), None);
    }
    (outcome, Some(Table::new(metrics, names)))
}

async fn answer(asked: Asked, stops: &mut StopRequests) -> Outcome {
    let spec = asked.model.spec.clone();
    let display = Display::new(spec.output().console, spec.output().progress);
    run_assembled((&spec, &display), move |machine| assemble(asked, machine), stops).await
}

/// Why predictions cannot go to a file, if they cannot: the certificate of the run there names it by its digest.
fn refused_output(path: &std::path::Path) -> Option<Failure> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(std::path::Path::new("."));
    let is_run = [CERTIFICATE_FILE, LEDGER_FILE].into_iter().any(|name| folder.join(name).exists());
    (is_run && crate::archive::may_replace(folder, path)).then(|| {
        let message = format!("--output {} is a file of the run in {}; name another", path.display(), folder.display());
        Failure { kind: FailureKind::Config, message }
    })
}

/// The folder for results. One that holds a run is refused: its certificate names its results by their digests.
fn open(dir: &std::path::Path) -> Result<OutputDir, Failure> {
    if let Some(own) = [CERTIFICATE_FILE, LEDGER_FILE].into_iter().find(|name| dir.join(name).exists()) {
        let dir = dir.display();
        let message = format!("--output_dir {dir} holds a run and its results ({own}); name another folder");
        return Err(Failure { kind: FailureKind::Config, message });
    }
    OutputDir::open(dir).map_err(|error| Failure { kind: error.kind(), message: error.to_string() })
}
