//! What is to happen in the simulation, and what has.

use std::collections::BTreeSet;

use medley_common::identity::Split;
use medley_common::plan::mix;

use super::*;

/// What decides, by a seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0) % bound
    }

    pub(super) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

/// What a simulated run came to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct History {
    pub(super) records: Vec<report::UpdateRecord>,
    pub(super) logs: Vec<report::TrainLog>,
    pub(super) evaluations: Vec<(Split, Update, report::EvaluationReport)>,
    pub(super) commits: Vec<(Update, SavePurpose)>,
    /// Saves that were given up, because nobody was left who kept the state.
    pub(super) given_up: BTreeSet<Update>,
    pub(super) outcome: Outcome,
}

#[derive(Default, Clone, Copy)]
pub(super) struct Faults {
    pub(super) stop: bool,
    /// Deaths to come.
    pub(super) deaths: u32,
    /// Workers that will be asked to leave.
    pub(super) leaves: u32,
    /// Checkpoints and departures that operators will order.
    pub(super) orders: u32,
    /// Sessions that will break.
    pub(super) cuts: u32,
    /// Workers that will hang for longer than anybody may be silent.
    pub(super) hangs: u32,
    /// Times that the coordinator will hear nobody for as long.
    pub(super) outages: u32,
    /// Deaths of the coordinator to come.
    pub(super) ends: u32,
    /// One in how many workers dies with its coordinator; none where 0.
    pub(super) die_with_it: u64,
}

/// What a disk that has committed a state says.
pub(super) fn committed(state: SavedState) -> Vec<Input> {
    let update = state.save.update;
    let based = state.purpose.is_checkpoint().then_some(Input::Based(Base { update, artifacts: Vec::new() }));
    based.into_iter().chain([Input::Committed(update)]).collect()
}
