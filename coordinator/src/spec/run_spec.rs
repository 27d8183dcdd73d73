//! A run as its flags ask for it: checked, and from then on fixed.

use super::cadence::Intervals;
use crate::cli::run_flags::RunFlags;
use crate::spec::{Cadence, Compute, Criterion, Note, Output, Placement, Recipe, Role, Sources, SpecError, Tracking};

/// A run as its flags ask for it. There is no way to make an invalid one, nor to change one.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSpec {
    sources: Sources,
    output: Output,
    tracking: Tracking,
    recipe: Recipe,
    pub(super) intervals: Intervals,
    criterion: Option<Criterion>,
    compute: Compute,
    placement: Placement,
    notes: Vec<Note>,
}

impl RunSpec {
    /// Checks the flags, each by itself and against the others. `notes` come first among those of the run.
    pub(crate) fn parse(role: Role, flags: &RunFlags, mut notes: Vec<Note>) -> Result<Self, SpecError> {
        let sources = Sources::parse(flags, &mut notes)?;
        let recipe = Recipe::parse(flags, &sources.labels, &mut notes)?;
        Ok(Self {
            output: Output::parse(flags)?,
            tracking: Tracking::parse(flags, &mut notes)?,
            sources,
            intervals: Intervals::parse(&flags.cadence)?,
            criterion: Criterion::parse(flags, &recipe.decay)?,
            recipe,
            compute: Compute::parse(&flags.precision, &mut notes)?,
            placement: Placement::parse(role, flags, &mut notes)?,
            notes,
        })
    }

    /// What the run reads, and so which tasks it has.
    #[must_use]
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// Where it writes.
    #[must_use]
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Which trackers it reports to.
    #[must_use]
    pub fn tracking(&self) -> &Tracking {
        &self.tracking
    }

    /// What makes its result.
    #[must_use]
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// How evaluations decide which model is the result, where they do.
    #[must_use]
    pub fn criterion(&self) -> Option<&Criterion> {
        self.criterion.as_ref()
    }

    /// Checks what evaluations decide by against the labels, and against which updates are evaluated and saved.
    ///
    /// # Errors
    /// There is no such metric, or checkpoints that are not evaluated.
    pub fn check_criterion(&self, cadence: &Cadence, labels: &[String]) -> Result<(), SpecError> {
        self.criterion.as_ref().map_or(Ok(()), |criterion| criterion.check(cadence, labels))
    }

    /// What devices are asked to compute in; [`crate::spec::Bound::train`] has what is used.
    #[must_use]
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Who computes it.
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// What to tell before anything starts; [`crate::spec::Bound::notes`] holds these and more.
    #[must_use]
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }
}

#[cfg(test)]
#[path = "run_spec_test.rs"]
mod tests;
