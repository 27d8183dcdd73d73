//! How the engine becomes a member of a group.

use medley_common::identity::{Generation, Update};
use medley_common::message::{Event, Failure, FailureKind, Form, Lanes};

use super::handle::Bridle;
use super::{Engine, Output, device_failed, internal, no_room};
use crate::collective::{AbortSwitch, Collective, CollectiveError, Rendezvous};
use crate::ops::Ops;
use crate::trainer::{Handover, HandoverError, TrainerError};

/// The group this worker is a member of.
pub(super) struct Group<B> {
    pub(super) generation: Generation,
    pub(super) lanes: Lanes,
    pub(super) collective: Box<dyn Collective<B>>,
    pub(super) switch: AbortSwitch,
    /// The last update that may be made.
    pub(super) through: Update,
}

impl<O: Ops> Engine<O> {
    /// Connects with the group, and takes its state over where this worker lacks it.
    pub(super) fn form(&mut self, form: &Form, bridle: Bridle) -> Result<(), Failure> {
        self.group = None;
        if self.trainer.is_cut() || form.source.is_some() && self.trainer.is_sharded() {
            let message =
                "a worker that holds a shard of the optimizer's state begins anew before it joins another group";
            return Err(Failure { kind: FailureKind::Internal, message: message.to_owned() });
        }
        let Bridle { switch, told } = bridle;
        let tell = |token| self.report(Event::Token { generation: form.generation, token });
        let rendezvous = Rendezvous { switch: &switch, tell: &tell, told: &told };
        let mut collective = match (self.connect)(&self.listener, form, &self.layout, &rendezvous) {
            Ok(collective) => collective,
            Err(error @ CollectiveError::OutOfMemory { .. }) => return Err(no_room(&error)),
            Err(error) => return self.disconnected(form.generation, &error),
        };
        let lanes = form.lanes.get(form.rank.0 as usize).cloned().unwrap_or_default();
        if let Some(source) = form.source {
            let handover = Handover { is_source: source == form.rank, lanes: &lanes, update: form.update };
            match self.trainer.hand_over(handover, collective.as_mut()) {
                Ok(()) => {}
                Err(HandoverError::Collective(error @ CollectiveError::OutOfMemory { .. })) => {
                    return Err(no_room(&error));
                }
                Err(HandoverError::Collective(error)) => return self.disconnected(form.generation, &error),
                Err(HandoverError::Trainer(TrainerError::Device(error))) => {
                    return Err(device_failed("take the state over", &error));
                }
                Err(error @ HandoverError::Trainer(_)) => return Err(internal(error)),
            }
        }
        let through = self.trainer.update();
        if through != form.update {
            let message = format!("the group starts from update {}, but this worker holds {through}", form.update);
            return Err(Failure { kind: FailureKind::Internal, message });
        }
        let world = u32::try_from(form.peers.len()).unwrap_or(u32::MAX);
        self.trainer.cut(form.rank.0, world).map_err(|error| device_failed("keep a shard of the state", &error))?;
        // How sums travel is of interest where there are any.
        let is_told = form.rank.0 == 0 && self.total > Update(0);
        if let Some(line) = collective.describe().filter(|_| is_told) {
            self.hand_up(Output::Note(line));
        }
        self.group = Some(Group { generation: form.generation, lanes, collective, switch, through });
        self.report(Event::Formed { generation: form.generation });
        Ok(())
    }

    /// The group is no more: the coordinator finds out who was lost, and orders what follows. A device that has failed is no
    /// matter of the group: it fails in the next one as well, and so ends this worker.
    pub(super) fn disconnected(&mut self, generation: Generation, error: &CollectiveError) -> Result<(), Failure> {
        self.group = None;
        if let CollectiveError::Device { problem } = error {
            return Err(Failure { kind: FailureKind::Internal, message: problem.clone() });
        }
        // NCCL says of such a failure no more than that a call of CUDA failed, as it does of much else.
        self.trainer.wait().map_err(|error| device_failed("leave the group", &error))?;
        if !matches!(error, CollectiveError::Aborted) {
            self.report(Event::Disconnected { generation, problem: error.to_string() });
        }
        Ok(())
    }
}
