//! Workers arrive, build their models and connect to each other.

use std::collections::BTreeSet;
use std::time::Instant;

use medley_common::identity::{Digest, Generation, Rank, WorkerId};
use medley_common::message::{Command, Form, Hello, PROTOCOL, Welcome};

use super::report::{GroupRecord, MemberRecord};
use super::{Action, Phase, Run};

/// The group is being connected.
#[derive(Debug, Default)]
pub(super) struct Forming {
    formed: BTreeSet<WorkerId>,
}

impl Run {
    pub(super) fn joined(&mut self, now: Instant, worker: WorkerId, actions: &mut Vec<Action>) {
        self.roster.add(now, worker);
        if !matches!(self.phase, Phase::Gathering) {
            self.refuse(worker, "the group is full".to_owned(), actions);
        }
    }

    pub(super) fn greeted(&mut self, worker: WorkerId, hello: Hello, actions: &mut Vec<Action>) {
        let expected = self.job.workers as usize;
        if hello.protocol != PROTOCOL || hello.version != self.job.version {
            let Hello { version, protocol, .. } = hello;
            let own = &self.job.version;
            let reason = format!(
                "it is medley-worker {version} (protocol {protocol}), the coordinator is medley {own} (protocol \
                 {PROTOCOL}); install the same version on both"
            );
            return self.refuse(worker, reason, actions);
        }
        if self.roster.known() >= expected {
            let reason = format!("the group is full: {expected} of {expected} workers have joined");
            return self.refuse(worker, reason, actions);
        }
        if let Some(member) = self.roster.get_mut(worker) {
            member.hello = Some(hello);
        }
        let welcome = Welcome {
            worker,
            spec: self.job.spec.clone(),
            model: self.job.model.clone(),
            start: self.job.start,
            splits: self.job.splits(),
            artifacts: self.job.artifacts.clone(),
            heartbeat_ms: u64::try_from(self.job.patience.heartbeat_every.as_millis()).unwrap_or(u64::MAX),
        };
        actions.push(Action::Order(worker, Command::Welcome(Box::new(welcome))));
    }

    pub(super) fn prepared(&mut self, worker: WorkerId, layout: Digest, endpoint: String, actions: &mut Vec<Action>) {
        let differs = |(other, member): (WorkerId, &super::roster::Member)| {
            member.prepared.as_ref().filter(|(known, _)| *known != layout).map(|(known, _)| (other, *known))
        };
        let other = self.roster.iter().find_map(differs);
        if let Some((other, known)) = other {
            let other = self.roster.describe(other);
            let problem = format!("lays its parameters out as {layout}, {other} as {known}: they are different builds");
            return self.fail_worker(worker, &problem, actions);
        }
        match self.roster.get_mut(worker) {
            Some(member) if member.hello.is_some() => member.prepared = Some((layout, endpoint)),
            _ => return self.fail_worker(worker, "built a model before it said who it is", actions),
        }
        if self.roster.prepared() == self.job.workers as usize {
            self.form(actions);
        }
    }

    /// Ranks the prepared workers in the order of arrival and connects them.
    fn form(&mut self, actions: &mut Vec<Action>) {
        let late: Vec<WorkerId> =
            self.roster.iter().filter(|(_, member)| member.prepared.is_none()).map(|(worker, _)| worker).collect();
        late.into_iter().for_each(|worker| self.refuse(worker, "the group is full".to_owned(), actions));
        self.generation = Generation(self.generation.0 + 1);
        let group: Vec<(WorkerId, String)> = self
            .roster
            .iter()
            .filter_map(|(worker, member)| Some((worker, member.prepared.as_ref()?.1.clone())))
            .collect();
        let peers: Vec<String> = group.iter().map(|(_, endpoint)| endpoint.clone()).collect();
        for (rank, (worker, _)) in (0..).map(Rank).zip(&group) {
            if let Some(member) = self.roster.get_mut(*worker) {
                member.rank = Some(rank);
                member.update = self.progress.done;
            }
            let form = Form {
                generation: self.generation,
                rank,
                peers: peers.clone(),
                secret: self.secret(),
                lanes: self.tree.assign(self.job.workers),
            };
            actions.push(Action::Order(*worker, Command::Form(form)));
        }
        self.phase = Phase::Forming(Forming::default());
    }

    /// A secret for each generation, so that a member of an old group cannot enter a new one by mistake.
    fn secret(&self) -> [u8; 32] {
        let mut secret = self.job.secret;
        for (byte, generation) in secret.iter_mut().zip(self.generation.0.to_le_bytes()) {
            *byte ^= generation;
        }
        secret
    }

    pub(super) fn formed(&mut self, now: Instant, worker: WorkerId, actions: &mut Vec<Action>) {
        let Phase::Forming(forming) = &mut self.phase else { return };
        forming.formed.insert(worker);
        if forming.formed.len() == self.job.workers as usize {
            actions.push(Action::Group(self.group()));
            self.agenda = self.first_agenda();
            self.progress.begin(now);
            self.go_on(now, actions);
        }
    }

    /// The group that is connected.
    fn group(&self) -> GroupRecord {
        let lanes = self.tree.assign(self.job.workers);
        let members = self.roster.ranked().into_iter().zip(lanes).filter_map(|(worker, lanes)| {
            let hello = self.roster.get(worker)?.hello.as_ref()?;
            let (host, pid, device) = (hello.host.clone(), hello.pid, hello.device.clone());
            Some(MemberRecord { worker, host, pid, device, lanes })
        });
        GroupRecord { generation: self.generation, members: members.collect() }
    }

    pub(super) fn refuse(&mut self, worker: WorkerId, reason: String, actions: &mut Vec<Action>) {
        self.roster.remove(worker);
        actions.push(Action::Refuse(worker, reason));
    }
}
