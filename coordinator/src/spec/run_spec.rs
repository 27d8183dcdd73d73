//! A run as its flags ask for it: checked, and from then on fixed.

use super::cadence::Intervals;
use crate::cli::run_flags::RunFlags;
use crate::spec::{Compute, Note, Output, Placement, Recipe, Role, Sources, SpecError};

/// A run as its flags ask for it. There is no way to make an invalid one, nor to change one.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSpec {
    sources: Sources,
    output: Output,
    recipe: Recipe,
    pub(super) intervals: Intervals,
    compute: Compute,
    placement: Placement,
    notes: Vec<Note>,
}

impl RunSpec {
    /// Checks the flags, each by itself and against the others. `notes` come first among those of the run.
    pub(crate) fn parse(role: Role, flags: &RunFlags, mut notes: Vec<Note>) -> Result<Self, SpecError> {
        let sources = Sources::parse(flags, &mut notes)?;
        Ok(Self {
            output: Output::parse(flags)?,
            recipe: Recipe::parse(flags, &sources.labels, &mut notes)?,
            sources,
            intervals: Intervals::parse(&flags.cadence)?,
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

    /// What makes its result.
    #[must_use]
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
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
