//! A run whose rows are counted and whose machine is known: every number that it needs.

use medley_common::identity::Update;
use medley_common::model::ModelConfig;
use medley_common::plan::updates_per_epoch;
use medley_common::schedule::LrSchedule;
use medley_common::spec::TrainSpec;

use super::tuning;
use crate::spec::{BatchMeaning, Cadence, Machine, Note, PlanSummary, RunLength, RunSpec, SpecError, Team, Warmup};

/// The longest run, in updates.
const MOST_UPDATES: f64 = 1e9;

/// What a run comes to, on its data and its machine.
#[derive(Debug, Clone, PartialEq)]
pub struct Bound {
    /// The recipe that every worker follows; without `--do_train` it has no updates.
    pub train: TrainSpec,
    /// After which updates to log, evaluate and save.
    pub cadence: Cadence,
    /// Who computes it.
    pub team: Team,
    /// Everything to tell before the run starts, warnings first.
    pub notes: Vec<Note>,
}

/// Of so many, the rest says nothing new.
const MOST_EVALUATIONS: u64 = 100_000;

impl RunSpec {
    /// Computes what depends on the number of training rows, which are 0 without `--do_train`, and on the machine.
    ///
    /// # Errors
    /// Where there are no rows to train on, an update or the run is too large, or the machine lacks what was asked for.
    pub fn bind(&self, train_rows: u64, machine: &Machine) -> Result<Bound, SpecError> {
        let recipe = self.recipe();
        let team = self.placement().on(machine, recipe.lanes)?;
        let (compute, warnings) = self.compute().on(team.device)?;
        let mut notes: Vec<Note> = self.notes().iter().cloned().chain(warnings).collect();
        let rows_per_update = self.rows_per_update(&team)?;
        let updates_per_epoch = updates_per_epoch(train_rows, rows_per_update);
        let total_updates = self.total_updates(train_rows, updates_per_epoch)?;
        let schedule = self.schedule(total_updates);
        if total_updates > 0 {
            if schedule.decay.has_warmup() && schedule.warmup_updates >= total_updates {
                notes.push(Note::warning(format!(
                    "the warm-up takes {} updates and the run has {total_updates}, so the learning rate never gets \
                     to its peak",
                    schedule.warmup_updates
                )));
            }
            if u64::from(team.workers) > u64::from(rows_per_update).min(train_rows) {
                notes.push(Note::warning(format!(
                    "{} workers share {} rows an update, so some of them have nothing to do",
                    team.workers,
                    u64::from(rows_per_update).min(train_rows)
                )));
            }
        }
        let train = TrainSpec {
            seed: recipe.seed,
            data_seed: recipe.data_seed,
            rows_per_update,
            lanes: recipe.lanes,
            schedule,
            optimizer: recipe.optimizer,
            tuning: recipe.tuning,
            label_smoothing: recipe.label_smoothing,
            class_weights: Vec::new(),
            compute,
        };
        let cadence = self.intervals.bind(updates_per_epoch, total_updates);
        notes.extend(constant_after_all(&train.schedule, &cadence));
        notes.sort_by_key(|note| std::cmp::Reverse(note.kind));
        Ok(Bound { train, cadence, team, notes })
    }

    fn rows_per_update(&self, team: &Team) -> Result<u32, SpecError> {
        let recipe = self.recipe();
        let workers = match recipe.batch_meaning {
            BatchMeaning::Global => 1,
            BatchMeaning::PerWorker => team.workers,
        };
        let rows = u128::from(recipe.per_device_train_batch_size)
            * u128::from(recipe.gradient_accumulation_steps)
            * u128::from(workers);
        u32::try_from(rows).map_err(|_| SpecError::BatchTooLarge { rows })
    }

    fn total_updates(&self, train_rows: u64, updates_per_epoch: u64) -> Result<u64, SpecError> {
        let Some(file) = &self.sources().train_file else { return Ok(0) };
        if train_rows == 0 {
            return Err(SpecError::NoRows { path: file.clone() });
        }
        let (updates, flag) = match self.recipe().length {
            RunLength::Updates(updates) => (updates as f64, "--max_steps"),
            RunLength::Epochs(epochs) => ((epochs * updates_per_epoch as f64).ceil(), "--num_train_epochs"),
        };
        if updates > MOST_UPDATES {
            return Err(SpecError::TooLong { updates, most: MOST_UPDATES, flag });
        }
        Ok(updates as u64)
    }

    fn schedule(&self, total_updates: u64) -> LrSchedule {
        let recipe = self.recipe();
        let warmup_updates = match recipe.warmup {
            Warmup::Updates(updates) => updates,
            Warmup::Share(share) => (total_updates as f64 * share).ceil() as u64,
        };
        LrSchedule { decay: recipe.decay.clone(), peak: recipe.peak_learning_rate, warmup_updates, total_updates }
    }
}

/// Says that evaluations cannot lower the learning rate, however little they improve.
fn constant_after_all(schedule: &LrSchedule, cadence: &Cadence) -> Option<Note> {
    // Neither the one before the first update counts, nor one after the last.
    let without = u64::from(cadence.evaluates_at_start)
        + u64::from(cadence.evaluates_after(Update(cadence.total_updates)) && cadence.total_updates > 0);
    let evaluations = cadence.evaluations().saturating_sub(without).min(MOST_EVALUATIONS);
    let standing = vec![1.0; usize::try_from(evaluations).unwrap_or_default()];
    let falls = || schedule.peak_after(&standing) < schedule.peak;
    (schedule.total_updates > 0 && schedule.decay.wants().is_some() && !falls()).then(|| {
        Note::warning(format!(
            "the learning rate stays as it is: {evaluations} evaluations before the last update are too few for its \
             patience, or min_lr is no lower; evaluate more often, or set them in --lr_scheduler_kwargs"
        ))
    })
}

impl Bound {
    /// The same on a model and on training rows of these labels, which are none without `--do_train`.
    ///
    /// # Errors
    /// The recipe asks for what the model does not have, or for a balance of classes of which one has no rows.
    pub fn on(
        mut self,
        spec: &RunSpec,
        model: &ModelConfig,
        (rows, labels): (&[Option<u32>], &[String]),
    ) -> Result<Self, SpecError> {
        if self.train.schedule.total_updates > 0 {
            tuning::check(&self.train.tuning, model)?;
            self.train.class_weights = spec.recipe().class_weights.on(rows, labels)?;
        }
        Ok(self)
    }

    /// The plan to print before the run starts; `train_rows` as given to [`RunSpec::bind`].
    #[must_use]
    pub fn summary(&self, spec: &RunSpec, train_rows: u64, model: &ModelConfig) -> PlanSummary {
        PlanSummary::new(spec, self, train_rows, model)
    }
}

#[cfg(test)]
#[path = "bound_test.rs"]
mod tests;
