//! What the run is doing, as it changes.

use std::time::Instant;

use super::{Driver, Ties};
use crate::display::Event;
use crate::run::PhaseName;

impl Driver {
    /// Tells of a new phase; the meter counts training time alone.
    pub(super) fn watch_phase(&self, ties: &mut Ties) {
        let phase = self.run.phase();
        if ties.phase.replace(phase) != Some(phase) {
            self.display.show(&Event::Phase(phase));
        }
        let training = phase == PhaseName::Training;
        if training && !ties.was_training {
            ties.meter.restart(Instant::now());
        }
        ties.was_training = training;
    }
}
