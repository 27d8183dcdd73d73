//! What can be known of a run before it starts: everything that it reads, and where it goes on. Whatever can be wrong with
//! the input is found here.

use std::path::Path;

use medley_common::identity::{Digest, Split, Update};
use medley_common::message::{Failure, FailureKind};

use crate::archive::{self, ArchiveError, OutputDir, Recipe, SpaceNeed};
use crate::inputs::{INITIAL_WEIGHTS, Inputs};
use crate::model_folder::CONFIG_FILE;
use crate::origin::Origin;
use crate::spec::{Bound, Machine, Note, RunSpec};

/// A run that has been looked into.
#[derive(Debug)]
pub struct Survey {
    /// What it reads.
    pub inputs: Inputs,
    /// What it comes to.
    pub bound: Bound,
    /// Its output folder.
    pub output: OutputDir,
    /// What to tell before it starts.
    pub notes: Vec<String>,
    /// All that decides its weights.
    pub recipe: Recipe,
    /// Where training starts.
    pub origin: Origin,
    /// Whether there is anything left to train.
    pub trains: bool,
    /// Rows of the training split; 0 where nothing is trained.
    pub train_rows: u64,
    /// The room that training needs.
    pub need: SpaceNeed,
}

impl Survey {
    /// Reads everything that the flags name and checks that it fits together; `open` opens the output folder. Blocks;
    /// changes nothing but the download cache, and what `open` does.
    ///
    /// # Errors
    /// The first thing that is wrong, with whose fault it is.
    pub fn of(
        spec: &RunSpec,
        machine: &Machine,
        open: impl FnOnce(&Path) -> Result<OutputDir, ArchiveError>,
    ) -> Result<Self, Failure> {
        spec.sources().check_files().map_err(data)?;
        refuse_own_inputs(spec)?;
        let inputs = Inputs::read(spec)?;
        let train_rows = inputs.splits.get(&Split::Train).map_or(0, |rows| rows.len() as u64);
        let labels: Vec<Option<u32>> =
            inputs.splits.get(&Split::Train).into_iter().flatten().map(|row| row.label).collect();
        let bound = spec.bind(train_rows, machine);
        let bound = bound.and_then(|bound| bound.on(spec, &inputs.model, (&labels, inputs.labels.names())));
        let bound = bound.map_err(config)?;
        spec.check_criterion(&bound.cadence, inputs.labels.names()).map_err(config)?;
        refuse_own_model(spec, &inputs)?;
        let output = open(&spec.output().dir).map_err(archived)?.beside(&spec.tracking().logging_dir);
        let mut notes: Vec<String> = bound.notes.iter().map(Note::to_string).collect();
        notes.extend(inputs.notes.iter().cloned());
        notes.extend(output.warning().map(|warning| format!("warning: {warning}")));
        let trains = spec.sources().train_file.is_some();
        let recipe = recipe(spec, &bound, &inputs);
        let origin = if trains { Origin::find(spec, &output, &recipe, &mut notes)? } else { Origin::fresh() };
        let trains = trains && origin.complete.is_none();
        let need = space_need(spec, &bound, &inputs, &origin);
        if trains {
            output.preflight(&need, origin.checkpoint()).map_err(archived)?;
        }
        Ok(Self { inputs, bound, output, notes, recipe, origin, trains, train_rows, need })
    }
}

/// A row file that the run itself would write over or remove is not an input to begin with.
fn refuse_own_inputs(spec: &RunSpec) -> Result<(), Failure> {
    let dir = &spec.output().dir;
    match spec.sources().files().find(|(_, _, file)| archive::may_replace(dir, file)) {
        None => Ok(()),
        Some((_, flag, file)) => Err(refused(format!(
            "{flag} {} lies in --output_dir {} under a name that Medley writes there, so the run would replace it; \
             move it, or name another --output_dir",
            file.display(),
            dir.display()
        ))),
    }
}

/// Training into the folder that the weights come from would replace them, and a checkpoint of an earlier run goes
/// when another run writes.
fn refuse_own_model(spec: &RunSpec, inputs: &Inputs) -> Result<(), Failure> {
    let dir = &spec.output().dir;
    if spec.sources().train_file.is_some() && archive::may_replace(dir, &inputs.folder.path().join(CONFIG_FILE)) {
        return Err(refused(format!(
            "--output_dir {} holds the model {} that training starts from, and would replace it; name another",
            dir.display(),
            inputs.folder.path().display()
        )));
    }
    Ok(())
}

fn recipe(spec: &RunSpec, bound: &Bound, inputs: &Inputs) -> Recipe {
    let rows = inputs.digests.get("train_rows").copied().unwrap_or(Digest([0; 32]));
    let weights = inputs.digests.get(INITIAL_WEIGHTS).map_or_else(|| "from scratch".to_owned(), Digest::to_string);
    let recipe = Recipe::new(&bound.train, &inputs.model, rows).with(INITIAL_WEIGHTS, weights);
    // Absent where all is read, as it was before there was a choice.
    let recipe = match spec.sources().baseline {
        Some(baseline) => recipe.with(baseline.name(), true),
        None => recipe,
    };
    let Some(criterion) = spec.criterion() else { return recipe };
    // Where evaluations decide, all that decides them is part of the recipe.
    let rows = inputs.digests.get("validation_rows").map(Digest::to_string);
    let settings = criterion.settings().into_iter().chain(bound.cadence.evaluation_settings());
    let recipe = recipe.with("validation_rows_sha256", rows);
    settings.fold(recipe, |recipe, (name, value)| recipe.with(name, value))
}

fn space_need(spec: &RunSpec, bound: &Bound, inputs: &Inputs, origin: &Origin) -> SpaceNeed {
    let done = origin.start().0;
    let saved = (1..=done).filter(|update| bound.cadence.saves_after(Update(*update))).count() as u64;
    SpaceNeed {
        parameter_bytes: 4 * inputs.model.parameters(),
        optimizer_bytes: 4 * inputs.model.parameters() * bound.train.optimizer.kind.memory().len() as u64,
        text_bytes: inputs.files.iter().map(|file| file.bytes().len() as u64).sum(),
        checkpoints: bound.cadence.checkpoints().saturating_sub(saved),
        save_total_limit: spec.output().save_total_limit.and_then(std::num::NonZeroU32::new),
        keeps_best: bound.cadence.evaluations() > 0,
    }
}

fn data(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Data, message: error.to_string() }
}

fn config(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Config, message: error.to_string() }
}

fn refused(message: String) -> Failure {
    Failure { kind: FailureKind::Config, message }
}

fn archived(error: ArchiveError) -> Failure {
    Failure { kind: error.kind(), message: error.to_string() }
}
