//! Where a run goes on: at its first update, from a checkpoint, or after the last update that its ledger has.

use medley_common::identity::Update;
use medley_common::message::{Failure, FailureKind};

use crate::archive::{
    self, ArchiveError, Checkpoint, Found, LEDGER_FILE, OutputDir, Recipe, Recovered, Start, StartRequest, Unfinished,
    recover_for,
};
use crate::run::Past;
use crate::spec::{Criterion, Existing, Measured, Output, Resume, Role, RunSpec};

/// Where training starts.
#[derive(Debug)]
pub struct Origin {
    /// As the archive is told.
    pub place: archive::Origin,
    /// The run's ledger, where it has one already.
    pub recovered: Option<Recovered>,
    /// Where the folder holds this run, complete, after so many updates: only its results are asked for.
    pub complete: Option<Update>,
}

impl Origin {
    /// Nothing was done before.
    #[must_use]
    pub fn fresh() -> Self {
        Self { place: archive::Origin::Fresh, recovered: None, complete: None }
    }

    /// The state on the disk that workers start from; `None` for the initial weights, or the final ones.
    #[must_use]
    pub fn checkpoint(&self) -> Option<&Checkpoint> {
        match &self.place {
            archive::Origin::Fresh => None,
            archive::Origin::Checkpoint(checkpoint) => Some(checkpoint),
            archive::Origin::Ledger(unfinished) => unfinished.checkpoint.as_ref(),
        }
    }

    /// Updates done in that state.
    #[must_use]
    pub fn start(&self) -> Update {
        self.checkpoint().map_or(Update(0), Checkpoint::update)
    }

    /// What was done before; `criterion` says what evaluations decide by.
    #[must_use]
    pub fn past(&self, criterion: Option<&Criterion>) -> Past {
        let known = self.recovered.as_ref().map(|recovered| recovered.history.past()).unwrap_or_default();
        match &self.place {
            archive::Origin::Fresh => Past::default(),
            archive::Origin::Ledger(_) => known,
            archive::Origin::Checkpoint(checkpoint) => {
                let update = checkpoint.update();
                let losses = self.recovered.as_ref().and_then(|recovered| recovered.history.losses(update));
                let mut skipped = known.skipped.clone();
                skipped.retain(|skipped| *skipped <= update);
                let mut measured = match &self.recovered {
                    Some(_) => known.measured.clone(),
                    None => self.measured_before(criterion),
                };
                measured.retain(|measured| measured.update <= update);
                let evaluated = match &self.recovered {
                    Some(recovered) => recovered.history.is_evaluated(update),
                    None => checkpoint.trainer_state().is_evaluated(update),
                };
                // A checkpoint is made after all else that its update brings, but where somebody had to leave.
                Past { measured, update, losses: losses.unwrap_or_default(), skipped, logged: true, evaluated, ..known }
            }
        }
    }

    /// What evaluations measured before a ledger that begins with a checkpoint, as the checkpoint's own log tells;
    /// nothing where there is a ledger, or nothing goes by it.
    #[must_use]
    pub fn measured_before(&self, criterion: Option<&Criterion>) -> Vec<Measured> {
        match (&self.place, &self.recovered, criterion) {
            (archive::Origin::Checkpoint(checkpoint), None, Some(criterion)) => {
                let mut measured = checkpoint.trainer_state().measured(&criterion.metric);
                measured.retain(|measured| measured.update <= checkpoint.update());
                measured
            }
            _ => Vec::new(),
        }
    }

    /// Decides where training starts; refuses what would lose or mix runs. Blocks.
    ///
    /// # Errors
    /// The folder holds what must not be lost, or what is asked for is not there.
    pub fn find(spec: &RunSpec, output: &OutputDir, recipe: &Recipe, notes: &mut Vec<String>) -> Result<Self, Failure> {
        let existing = match (spec.output().existing, &spec.output().resume) {
            (Existing::Keep, _) => archive::Existing::Continue,
            (Existing::Overwrite, Resume::Never) => archive::Existing::Discard,
            (Existing::Overwrite, _) => archive::Existing::Replace,
        };
        let from = match &spec.output().resume {
            Resume::From(path) => Some(path.clone()),
            Resume::IfPresent | Resume::Latest | Resume::Never => None,
        };
        let Found { start, passed_over } =
            output.find_start(&StartRequest { existing, from }, recipe).map_err(archived)?;
        notes.extend(passed_over.iter().map(|passed| format!("warning: passed over {passed}")));
        let dir = spec.output().dir.display();
        match (start, &spec.output().resume) {
            (Start::Fresh, Resume::Latest) => {
                Err(refused(format!("{dir} holds no valid checkpoint; drop --resume_from_checkpoint to start afresh")))
            }
            (Start::Fresh, _) => {
                let replaced = output.foreign_replaced(spec.output().profile).map_err(archived)?;
                if !replaced.is_empty() {
                    notes.push(format!("note: {} in {dir} will be replaced", replaced.join(", ")));
                }
                Ok(Self::fresh())
            }
            // Never came to a checkpoint.
            (Start::Ledger(unfinished), Resume::Never) if unfinished.checkpoint.is_none() => Ok(Self::fresh()),
            (Start::Checkpoint(_) | Start::Ledger(_) | Start::Finished(_), Resume::Never) => Err(refused(format!(
                "{dir} holds an earlier run; use --overwrite_output_dir to replace it, or drop --resume_from_checkpoint \
                 False to go on with it"
            ))),
            (Start::Checkpoint(checkpoint), _) => {
                checkpoint.check_recipe(recipe).map_err(archived)?;
                notes.extend(gone_on_with(spec, Some(&checkpoint)));
                notes.push(format!("resuming from {}", checkpoint.path().display()));
                // A damaged ledger is known before anything starts.
                let recovered = recover_for(&checkpoint).map_err(archived)?;
                Ok(Self { place: archive::Origin::Checkpoint(checkpoint), recovered, complete: None })
            }
            (Start::Ledger(unfinished), _) => {
                let Unfinished { recovered, checkpoint } = &*unfinished;
                if let Some(checkpoint) = checkpoint {
                    checkpoint.check_recipe(recipe).map_err(archived)?;
                }
                notes.extend(gone_on_with(spec, checkpoint.as_ref()));
                notes.push(resuming(spec, recovered.history.last(), checkpoint.as_ref()));
                let recovered = Some(recovered.clone());
                Ok(Self { place: archive::Origin::Ledger(unfinished), recovered, complete: None })
            }
            (Start::Finished(record), _) => {
                let differences: Vec<String> =
                    recipe.differences(&record.recipe).iter().map(ToString::to_string).collect();
                if !differences.is_empty() {
                    return Err(refused(format!(
                        "{dir} holds a complete run of another recipe: {}; use --overwrite_output_dir to replace it",
                        differences.join(", ")
                    )));
                }
                notes.push(format!("note: {dir} holds this run, complete: nothing is left to train"));
                // As above: results are added to a ledger that is whole, or to a new one.
                let recovered = output.ledger().map_err(archived)?;
                notes.extend(recovered.is_none().then(|| lost(spec)));
                Ok(Self { place: archive::Origin::Fresh, recovered, complete: Some(record.update) })
            }
        }
    }
}

/// The note on a complete run without its ledger.
fn lost(spec: &RunSpec) -> String {
    let dir = spec.output().dir.display();
    format!(
        "warning: {dir} has no {LEDGER_FILE} any more: how this run came about cannot be proved; a new one begins with the \
         next result"
    )
}

/// From where a run goes on, in words.
fn resuming(spec: &RunSpec, last: Update, checkpoint: Option<&Checkpoint>) -> String {
    let from = match checkpoint {
        Some(checkpoint) => format!("resuming from {}", checkpoint.path().display()),
        None => "resuming from the initial weights, as there is no checkpoint yet".to_owned(),
    };
    match (spec.placement().role, checkpoint.map_or(Update(0), Checkpoint::update)) {
        (Role::Serve, update) if update < last => {
            format!("{from}, or after update {last} where workers come back that hold it")
        }
        _ => from,
    }
}

/// The note on a run that is gone on with although the flags, read by the letter, ask for something else.
fn gone_on_with(spec: &RunSpec, checkpoint: Option<&Checkpoint>) -> Option<String> {
    let Output { dir, existing, resume, .. } = spec.output();
    let instead = match (existing, resume) {
        (_, Resume::From(other)) if checkpoint.is_none_or(|checkpoint| !checkpoint.path().starts_with(other)) => {
            format!("not with {}", other.display())
        }
        (Existing::Overwrite, Resume::IfPresent) => {
            "to start afresh, add --resume_from_checkpoint False or name another --output_dir".to_owned()
        }
        _ => return None,
    };
    Some(format!("note: {} holds this very run, unfinished, so it is gone on with: {instead}", dir.display()))
}

fn refused(message: String) -> Failure {
    Failure { kind: FailureKind::Config, message }
}

fn archived(error: ArchiveError) -> Failure {
    Failure { kind: error.kind(), message: error.to_string() }
}
