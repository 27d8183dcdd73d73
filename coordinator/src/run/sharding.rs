//! Each rank keeps a shard of the optimizer's state alone (`--shard_optimizer_state`): nobody holds a whole one, and a group
//! that ends takes its state along, but for what is on the disk.
//!
//! So a group that is to change while all of its members are there has its state saved first. One that has lost somebody
//! goes back to the last checkpoint, or to one that is being saved, of which those that are left keep copies. Either way, all
//! who are here begin the next group from the disk.

use medley_common::message::Lanes;

use super::action::Task;
use super::{Action, Phase, Run, SavePurpose};

impl Run {
    /// Whether ranks hold shards: only where something is trained is there a state to share out.
    pub(super) fn has_shards(&self) -> bool {
        self.job.shard_optimizer_state && self.job.training.is_some()
    }

    /// What those hold that have left a group: nothing that another group could go on with.
    pub(super) fn void_shards(&mut self) {
        if !self.has_shards() {
            return;
        }
        let base = self.base.update;
        for worker in self.roster.all(|member| member.in_shards && member.rank.is_none()) {
            if let Some(member) = self.roster.get_mut(worker) {
                (member.update, member.kept) = (base, Lanes::new());
            }
        }
    }

    /// Has those that are ready begin anew who hold a shard of a group that is gone, or an older state than the disk.
    pub(super) fn refresh_shards(&mut self, actions: &mut Vec<Action>) {
        if !self.has_shards() {
            return;
        }
        let base = self.base.update;
        for worker in self.roster.ready() {
            if self.roster.get(worker).is_some_and(|member| member.in_shards || member.update != base) {
                self.welcome(worker, actions);
            }
        }
    }

    /// Whether those that are left keep copies of a state that is newer than the disk's: they begin anew once it is there.
    pub(super) fn awaits_copies(&self) -> bool {
        let update = self.saving.as_ref().map(|saving| saving.save.update).filter(|update| *update > self.base.update);
        self.has_shards() && update.is_some_and(|update| !self.holders(update).is_empty())
    }

    /// Whether all who are here begin anew, and are waited for.
    pub(super) fn is_renewing(&self) -> bool {
        self.selecting.is_loading() || self.formed && self.has_shards()
    }

    /// At rest, before the group changes: whether its state is still to be saved. Then that is under way.
    pub(super) fn saves_shards(&mut self, actions: &mut Vec<Action>) -> bool {
        let is_whole = self.roster.ranked().len() == self.shares.len();
        let newest = self.progress.checkpoint.max(self.base.update);
        let is_due = self.has_shards() && self.progress.done > newest;
        if !is_due || !is_whole {
            return false;
        }
        if self.saving.is_none() {
            self.agenda.retain(|task| *task != Task::Save(SavePurpose::Checkpoint));
            self.save(SavePurpose::Checkpoint, actions);
        }
        self.phase = Phase::Saving;
        true
    }
}
