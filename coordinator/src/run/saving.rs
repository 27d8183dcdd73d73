//! The state is being saved.

use std::collections::BTreeMap;
use std::time::Instant;

use medley_common::identity::{Digest, Update, WorkerId};
use medley_common::message::{ArtifactKind, Command};

use super::{Action, Phase, Run, SavePurpose, SavedState};

/// Workers save the state, then the archive makes it durable.
#[derive(Debug)]
pub(super) struct Saving {
    pub(super) purpose: SavePurpose,
    digests: BTreeMap<WorkerId, Digest>,
    /// Whether all that is needed has arrived: the rest is the archive's.
    pub(super) committing: bool,
}

impl Run {
    /// Orders every rank to save: rank 0 sends files, the others vouch for them.
    pub(super) fn save(&mut self, purpose: SavePurpose, actions: &mut Vec<Action>) {
        let (generation, update) = (self.generation, self.progress.done);
        let group = self.roster.ranked();
        actions.extend(group.first().map(|worker| Action::Receive(*worker, update)));
        let parts = match purpose {
            SavePurpose::Final => vec![ArtifactKind::Weights],
            SavePurpose::Checkpoint | SavePurpose::CheckpointAndFinal => {
                vec![ArtifactKind::Weights, ArtifactKind::Optimizer]
            }
        };
        let save = |worker| Action::Order(worker, Command::Save { generation, update, parts: parts.clone() });
        actions.extend(group.into_iter().map(save));
        self.phase = Phase::Saving(Saving { purpose, digests: BTreeMap::new(), committing: false });
    }

    pub(super) fn saved(&mut self, worker: WorkerId, update: Update, parameters: Digest, actions: &mut Vec<Action>) {
        let group = self.roster.ranked();
        let done = self.progress.done;
        let Phase::Saving(saving) = &mut self.phase else { return };
        if update != done {
            return self.fail_worker(worker, &format!("saved update {update}; asked for {done}"), actions);
        }
        saving.digests.insert(worker, parameters);
        if saving.digests.len() < group.len() {
            return;
        }
        let (purpose, digests) = (saving.purpose, saving.digests.clone());
        saving.committing = true;
        if self.parameters_differ(update, &digests, actions) {
            return;
        }
        let layout = self.roster.get(worker).and_then(|member| member.prepared.as_ref()).map(|(layout, _)| *layout);
        match layout {
            Some(layout) => actions.push(Action::Commit(SavedState { update, purpose, layout, parameters })),
            None => self.fail_worker(worker, "saved a model that it never built", actions),
        }
    }

    pub(super) fn committed(&mut self, now: Instant, update: Update, actions: &mut Vec<Action>) {
        let Phase::Saving(saving) = &self.phase else { return };
        if update != self.progress.done {
            return;
        }
        if saving.purpose.is_checkpoint() {
            self.progress.checkpoint = update;
        }
        self.progress.saved = update;
        self.go_on(now, actions);
    }
}
