//! The state is saved in pieces, while training goes on.
//!
//! Every rank keeps a copy of the state after one update and sends a piece of each file of it. The copies are kept until
//! all is on the disk, so what is lost with a worker is sent by another one, in whatever group. A save is given up when
//! nobody is left who keeps a copy, and the run has left that state. One save is under way at a time.

use std::collections::BTreeMap;
use std::time::Instant;

use medley_common::identity::{Digest, Update, WorkerId};
use medley_common::message::{ArtifactKind, Command};
use medley_common::save::{Piece, SaveId};

use super::action::Task;
use super::roster::Member;
use super::{Action, Phase, Run, SavePurpose, SavedState};

/// Pieces that one worker is asked for at a time: its queue of commands has an end, and a single survivor may have all to
/// send.
const AT_ONCE: usize = 4;

/// A save under way.
#[derive(Debug)]
pub(super) struct Saving {
    pub(super) save: SaveId,
    purpose: SavePurpose,
    pieces: Vec<Place>,
    /// What each sender says of the parameters.
    digests: BTreeMap<WorkerId, Digest>,
    /// Whether all has arrived: the rest is the archive's.
    committing: bool,
}

/// Where a piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Missing,
    /// This worker sends it.
    Ordered(WorkerId),
    Arrived,
}

impl Run {
    /// Has every rank of the group, which is at rest, keep the state and send a piece of it.
    pub(super) fn save(&mut self, purpose: SavePurpose, actions: &mut Vec<Action>) {
        let save = SaveId { update: self.progress.done, generation: self.generation };
        let group = self.roster.ranked();
        for worker in &group {
            self.roster.get_mut(*worker).into_iter().for_each(|member| member.copy = Some(save));
        }
        self.begin_save(save, purpose, group.len(), actions);
    }

    fn begin_save(&mut self, save: SaveId, purpose: SavePurpose, senders: usize, actions: &mut Vec<Action>) {
        let pieces = vec![Place::Missing; senders.max(1)];
        actions.push(Action::Receive(save, count(&pieces)));
        self.saving = Some(Saving { save, purpose, pieces, digests: BTreeMap::new(), committing: false });
        self.order_pieces(actions);
    }

    /// The save that a coordinator before this one died over, once the first group stands: those that came back keep it.
    pub(super) fn resume_save(&mut self, actions: &mut Vec<Action>) {
        let Some(training) = &self.job.training else { return };
        let between = self.progress.saved.0 + 1..self.progress.done.0;
        let copies = self.roster.iter().filter_map(|(_, member)| member.copy);
        if let Some(update) = copies.map(|copy| copy.update).filter(|update| between.contains(&update.0)).max() {
            let save = SaveId { update, generation: self.generation };
            self.begin_save(save, SavePurpose::Checkpoint, self.holders(update).len(), actions);
        } else if let Some(due) = between.rev().map(Update).find(|update| training.cadence.saves_after(*update)) {
            actions.push(Action::Warning(given_up(due)));
        }
    }

    /// Those that keep a copy of the state after `update`, the ranks of the group first.
    pub(super) fn holders(&self, update: Update) -> Vec<WorkerId> {
        let keeps = |member: &Member| member.copy.is_some_and(|copy| copy.update == update);
        let mut holders = self.roster.all(keeps);
        holders.sort_by_key(|worker| {
            let rank = self.roster.get(*worker).and_then(|member| member.rank);
            (rank.is_none(), rank, *worker)
        });
        holders
    }

    /// Has the pieces that nobody sends be sent, by those that have the least to send.
    fn order_pieces(&mut self, actions: &mut Vec<Action>) {
        let Some(update) = self.saving.as_ref().map(|saving| saving.save.update) else { return };
        let holders = self.holders(update);
        let Some(saving) = &mut self.saving else { return };
        let (save, count) = (saving.save, count(&saving.pieces));
        let parts = match saving.purpose {
            SavePurpose::Final => vec![ArtifactKind::Weights],
            SavePurpose::Checkpoint | SavePurpose::CheckpointAndFinal => {
                vec![ArtifactKind::Weights, ArtifactKind::Optimizer]
            }
        };
        for place in &mut saving.pieces {
            if matches!(place, Place::Ordered(worker) if !holders.contains(worker)) {
                *place = Place::Missing;
            }
        }
        for index in 0..count {
            if saving.pieces.get(index as usize) != Some(&Place::Missing) {
                continue;
            }
            let load =
                |worker: &&WorkerId| saving.pieces.iter().filter(|place| **place == Place::Ordered(**worker)).count();
            let free = |worker: &&WorkerId| load(worker) < AT_ONCE;
            let Some(worker) = holders.iter().min_by_key(load).filter(free).copied() else { return };
            saving.pieces[index as usize] = Place::Ordered(worker);
            let (parts, piece) = (parts.clone(), Piece { index, count });
            actions.push(Action::Order(worker, Command::Save { save, parts, piece }));
        }
    }

    /// Whether a worker speaks of a piece of the save under way that another was asked for, or nobody.
    pub(super) fn is_uncalled_for(&self, worker: WorkerId, save: SaveId, piece: Piece) -> bool {
        let under_way = self.saving.as_ref().filter(|saving| saving.save == save && !saving.committing);
        under_way.is_some_and(|saving| {
            let place = saving.pieces.get(piece.index as usize).filter(|_| piece.count == count(&saving.pieces));
            !matches!(place, Some(Place::Arrived)) && place != Some(&Place::Ordered(worker))
        })
    }

    /// A piece has arrived, as its sender says.
    pub(super) fn saved(
        &mut self,
        worker: WorkerId,
        (save, piece): (SaveId, Piece),
        parameters: Digest,
        actions: &mut Vec<Action>,
    ) {
        // Of who keeps it no more.
        if self.is_uncalled_for(worker, save, piece) {
            return;
        }
        // Of a save that is over.
        let Some(saving) = self.saving.as_mut().filter(|saving| saving.save == save && !saving.committing) else {
            return;
        };
        let Some(place) = saving.pieces.get_mut(piece.index as usize) else { return };
        *place = Place::Arrived;
        saving.digests.insert(worker, parameters);
        let (digests, purpose) = (saving.digests.clone(), saving.purpose);
        let is_whole = saving.pieces.iter().all(|place| *place == Place::Arrived);
        saving.committing = is_whole;
        if self.parameters_differ(save.update, &digests, actions) || !is_whole {
            return;
        }
        let layout = self.roster.get(worker).and_then(|member| member.prepared.as_ref()).map(|(layout, _)| *layout);
        match layout {
            Some(layout) => actions.push(Action::Commit(SavedState { save, purpose, layout, parameters })),
            None => self.fail_worker(worker, "saved a model that it never built", actions),
        }
    }

    pub(super) fn committed(&mut self, now: Instant, update: Update, actions: &mut Vec<Action>) {
        let is_it = |saving: &&mut Saving| saving.committing && saving.save.update == update;
        let Some(purpose) = self.saving.as_mut().filter(is_it).map(|saving| saving.purpose) else { return };
        self.saving = None;
        if purpose.is_checkpoint() {
            self.progress.checkpoint = update;
        }
        self.progress.saved = update;
        if let Phase::Gathering(gathering) = &mut self.phase {
            gathering.since = now;
            self.reform(now, actions);
        }
    }

    /// Looks after the save under way and the copies that workers keep, whatever has happened.
    pub(super) fn tend_save(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Finished(_)) {
            return;
        }
        if self.is_moving() {
            self.give_up_orphan(actions);
        } else if matches!(self.phase, Phase::Training(_) | Phase::Evaluating(_) | Phase::Saving) {
            self.renew_orphan(actions);
        }
        if self.saving.as_ref().is_some_and(|saving| !saving.committing) {
            self.order_pieces(actions);
        }
        self.free_copies(actions);
        if self.saving.is_none() && matches!(self.phase, Phase::Saving) {
            self.go_on(now, actions);
        }
    }

    /// The save, if nobody keeps a copy of what has not all arrived.
    fn orphan(&self) -> Option<(SaveId, SavePurpose)> {
        let saving = self.saving.as_ref().filter(|saving| !saving.committing)?;
        self.holders(saving.save.update).is_empty().then_some((saving.save, saving.purpose))
    }

    /// Saves anew what nobody keeps a copy of, if the group, which is at rest, has that state; or gives it up.
    pub(super) fn renew_orphan(&mut self, actions: &mut Vec<Action>) {
        match self.orphan() {
            Some((save, purpose)) if save.update == self.progress.done && !self.roster.ranked().is_empty() => {
                actions.push(Action::Discard(save));
                self.save(purpose, actions);
            }
            Some(_) => self.give_up_orphan(actions),
            None => {}
        }
    }

    fn give_up_orphan(&mut self, actions: &mut Vec<Action>) {
        if let Some((save, _)) = self.orphan() {
            self.saving = None;
            actions.push(Action::Warning(given_up(save.update)));
            actions.push(Action::Discard(save));
        }
    }

    /// The run goes back to `update`: what was to be saved of later ones is void, and made again when it comes by.
    pub(super) fn unsave_after(&mut self, update: Update, actions: &mut Vec<Action>) {
        if let Some(saving) = self.saving.take_if(|saving| saving.save.update > update) {
            actions.push(Action::Warning(given_up(saving.save.update)));
            actions.push(Action::Discard(saving.save));
        }
        self.free(|copy| copy.update > update, actions);
    }

    /// What a worker that comes back keeps is taken note of, if it is of the run's line.
    pub(super) fn take_copy(&mut self, worker: WorkerId, copy: Option<SaveId>, actions: &mut Vec<Action>) {
        let Some(copy) = copy else { return };
        if copy.update > self.progress.saved && self.is_on_line(copy.generation, copy.update) {
            self.roster.get_mut(worker).into_iter().for_each(|member| member.copy = Some(copy));
        } else {
            actions.push(Action::Order(worker, Command::Forget { update: copy.update }));
        }
    }

    /// Copies of no use go. What those keep that came back to the first group is decided when that stands.
    pub(super) fn free_copies(&mut self, actions: &mut Vec<Action>) {
        if self.formed {
            let wanted = self.saving.as_ref().map(|saving| saving.save.update);
            self.free(|copy| Some(copy.update) != wanted, actions);
        }
    }

    fn free(&mut self, test: impl Fn(SaveId) -> bool, actions: &mut Vec<Action>) {
        for worker in self.roster.all(|member| member.copy.is_some_and(&test)) {
            let copy = self.roster.get_mut(worker).and_then(|member| member.copy.take());
            let forget = |copy: SaveId| Action::Order(worker, Command::Forget { update: copy.update });
            actions.extend(copy.map(forget));
        }
    }

    /// Whether the state after all updates is being saved.
    pub(super) fn is_being_saved(&self) -> bool {
        self.saving.as_ref().is_some_and(|saving| saving.save.update == self.progress.done)
    }

    /// Whether all that a save consists of has arrived, and the archive makes it durable.
    pub(super) fn is_committing(&self) -> bool {
        self.saving.as_ref().is_some_and(|saving| saving.committing)
    }

    /// Whether the run can do nothing before the disk has.
    pub(super) fn awaits_disk(&self) -> bool {
        let gathers = matches!(self.phase, Phase::Gathering(_));
        self.awaits_commit() || (gathers && (self.selecting.awaits_choice() || self.awaits_copies()))
    }

    /// Whether the newest state that is left is about to be on the disk: the run does not go back behind it.
    fn awaits_commit(&self) -> bool {
        let newest = self.saving.as_ref().filter(|saving| saving.committing).map(|saving| saving.save.update);
        let holds = |member: &Member, update| member.is_ready() && member.update >= update;
        let waits = matches!(self.phase, Phase::Gathering(_));
        waits && newest.is_some_and(|update| self.roster.all(|member| holds(member, update)).is_empty())
    }

    /// Whether all that was trained is on the disk, and nothing is left to do that needs workers.
    pub(super) fn needs_nobody(&self) -> bool {
        let needs_somebody = |task: &Task| matches!(task, Task::Evaluate(..) | Task::Save(_));
        let is_saved = self.saving.is_none() && self.progress.done <= self.progress.saved;
        is_saved && self.is_over() && !self.agenda.iter().any(needs_somebody)
    }

    /// Whether those that keep what is being saved all want to go.
    pub(super) fn leavers_hold_the_save(&self) -> bool {
        let Some(saving) = &self.saving else { return false };
        let holders = self.holders(saving.save.update);
        let leaving = |worker: &WorkerId| self.roster.get(*worker).is_some_and(|member| member.leaving);
        !holders.is_empty() && holders.iter().all(leaving)
    }
}

fn count(pieces: &[Place]) -> u32 {
    u32::try_from(pieces.len()).unwrap_or(u32::MAX)
}

fn given_up(update: Update) -> String {
    format!("the save of update {update} is given up: nobody is left who holds that state")
}
