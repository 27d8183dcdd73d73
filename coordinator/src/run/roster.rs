//! Who takes part.

use std::collections::BTreeMap;
use std::time::Instant;

use medley_common::identity::{Digest, Rank, Update, WorkerId};
use medley_common::message::{GpuUse, Hello, Lanes};
use medley_common::save::SaveId;

/// A worker that has not left.
#[derive(Debug, Clone)]
pub struct Member {
    /// When it came.
    pub joined: Instant,
    /// Who it is; `None` until it has said so.
    pub hello: Option<Hello>,
    /// Whether it was let in; one that came when the group was full waits for a place.
    pub welcomed: bool,
    /// Its layout fingerprint and collective address, once its model is built.
    pub prepared: Option<(Digest, String)>,
    /// Its rank, while it is in a group.
    pub rank: Option<Rank>,
    /// Updates done in the state that it holds, as far as it has said.
    pub update: Update,
    /// Lanes of the next update whose gradients it keeps.
    pub kept: Lanes,
    /// The save that it keeps a copy of the state for.
    pub copy: Option<SaveId>,
    /// Whether it was put into a group since it began, and so holds a shard, where states are sharded.
    pub in_shards: bool,
    /// Whether it came back, of the newest group or with as much as that holds.
    pub returned: bool,
    /// Whether its system has asked it to end.
    pub leaving: bool,
    /// When it was last heard of.
    pub heard: Instant,
    /// When it was let in: it had nothing to say before.
    pub let_in: Instant,
}

impl Member {
    /// Whether it can be put into a group.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.prepared.is_some() && self.rank.is_none()
    }

    /// Since when its silence counts.
    #[must_use]
    pub fn silent_since(&self) -> Instant {
        self.heard.max(self.let_in)
    }

    /// Whether it computes on a GPU that it does not share with somebody who uses it so.
    #[must_use]
    pub fn is_on(&self, gpu: &GpuUse) -> bool {
        let own = self.hello.as_ref().and_then(|hello| hello.gpu.as_ref());
        own.is_some_and(|own| own.uuid == gpu.uuid && !(own.is_shared && gpu.is_shared))
    }
}

/// All members, in the order of arrival.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    members: BTreeMap<WorkerId, Member>,
}

impl Roster {
    /// Adds a worker that has said nothing yet.
    pub fn add(&mut self, now: Instant, worker: WorkerId) {
        let member = Member {
            joined: now,
            hello: None,
            welcomed: false,
            prepared: None,
            rank: None,
            update: Update(0),
            kept: Lanes::new(),
            copy: None,
            in_shards: false,
            returned: false,
            leaving: false,
            heard: now,
            let_in: now,
        };
        self.members.insert(worker, member);
    }

    /// A worker that came back is in a group, as any other.
    pub fn settle(&mut self, worker: WorkerId) {
        self.members.get_mut(&worker).into_iter().for_each(|member| member.returned = false);
    }

    /// Takes a worker out.
    pub fn remove(&mut self, worker: WorkerId) -> Option<Member> {
        self.members.remove(&worker)
    }

    /// A member; `None` for a worker that has left or was refused.
    #[must_use]
    pub fn get(&self, worker: WorkerId) -> Option<&Member> {
        self.members.get(&worker)
    }

    /// A member, to be changed.
    pub fn get_mut(&mut self, worker: WorkerId) -> Option<&mut Member> {
        self.members.get_mut(&worker)
    }

    /// All members, in the order of arrival.
    pub fn iter(&self) -> impl Iterator<Item = (WorkerId, &Member)> {
        self.members.iter().map(|(worker, member)| (*worker, member))
    }

    /// The members of which `test` holds, in the order of arrival.
    pub fn all(&self, test: impl Fn(&Member) -> bool) -> Vec<WorkerId> {
        self.iter().filter(|(_, member)| test(member)).map(|(worker, _)| worker).collect()
    }

    /// Whether the worker is in the group.
    #[must_use]
    pub fn is_ranked(&self, worker: WorkerId) -> bool {
        self.get(worker).is_some_and(|member| member.rank.is_some())
    }

    /// The members that can be put into one group: not who waits for the GPU of one that is to leave.
    #[must_use]
    pub fn ready(&self) -> Vec<WorkerId> {
        let is_leaver_on = |gpu: &GpuUse| self.members.values().any(|member| member.leaving && member.is_on(gpu));
        let waits = |member: &Member| {
            let gpu = member.hello.as_ref().and_then(|hello| hello.gpu.as_ref());
            !member.leaving && gpu.is_some_and(is_leaver_on)
        };
        self.all(|member| member.is_ready() && !waits(member))
    }

    /// The members of the group, in rank order.
    #[must_use]
    pub fn ranked(&self) -> Vec<WorkerId> {
        let mut ranked: Vec<_> = self.iter().filter_map(|(worker, member)| Some((member.rank?, worker))).collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, worker)| worker).collect()
    }

    /// The member that was silent the longest, and since when. One that waits for a place has nothing to say.
    #[must_use]
    pub fn quietest(&self) -> Option<(WorkerId, Instant)> {
        let due = self.iter().filter(|(_, member)| member.hello.is_none() || member.welcomed);
        due.map(|(worker, member)| (worker, member.silent_since())).min_by_key(|(_, heard)| *heard)
    }

    /// The member that waits for a place the longest, and since when.
    #[must_use]
    pub fn waiting(&self) -> Option<(WorkerId, Instant)> {
        let waiting = self.iter().filter(|(_, member)| member.hello.is_some() && !member.welcomed);
        waiting.map(|(worker, member)| (worker, member.joined)).min_by_key(|(_, joined)| *joined)
    }

    /// Counts the silence of a worker from `now` on, if it was let in.
    pub fn hear(&mut self, now: Instant, worker: WorkerId) {
        self.members
            .get_mut(&worker)
            .filter(|member| member.welcomed)
            .into_iter()
            .for_each(|member| member.let_in = now);
    }

    /// Counts all silences and waits from `now` on.
    pub fn wait_anew(&mut self, now: Instant) {
        self.members.values_mut().for_each(|member| (member.heard, member.joined) = (now, now));
    }

    /// A worker in words: `worker 2 (rank 1, host node7, pid 41)`.
    #[must_use]
    pub fn describe(&self, worker: WorkerId) -> String {
        let Some(member) = self.get(worker) else { return format!("worker {worker}") };
        let mut parts = Vec::new();
        if let Some(rank) = member.rank {
            parts.push(format!("rank {rank}"));
        }
        if let Some(hello) = &member.hello {
            parts.push(format!("host {}, pid {}", hello.host, hello.pid));
        }
        if parts.is_empty() { format!("worker {worker}") } else { format!("worker {worker} ({})", parts.join(", ")) }
    }
}
