//! Who takes part.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use medley_common::identity::{Digest, Rank, Update, WorkerId};
use medley_common::message::Hello;

/// A worker that has not left.
#[derive(Debug, Clone)]
pub struct Member {
    /// Who it is; `None` until it has said so.
    pub hello: Option<Hello>,
    /// Its layout fingerprint and collective address, once its model is built.
    pub prepared: Option<(Digest, String)>,
    /// Its rank, once a group is formed.
    pub rank: Option<Rank>,
    /// The last update it reported.
    pub update: Update,
    /// When it was last heard of.
    pub heard: Instant,
}

/// All members, in the order of arrival.
#[derive(Debug, Clone, Default)]
pub struct Roster {
    members: BTreeMap<WorkerId, Member>,
}

impl Roster {
    /// Adds a worker that has said nothing yet.
    pub fn add(&mut self, now: Instant, worker: WorkerId) {
        let member = Member { hello: None, prepared: None, rank: None, update: Update(0), heard: now };
        self.members.insert(worker, member);
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

    /// Members that have said who they are.
    #[must_use]
    pub fn known(&self) -> usize {
        self.members.values().filter(|member| member.hello.is_some()).count()
    }

    /// Members whose model is built.
    #[must_use]
    pub fn prepared(&self) -> usize {
        self.members.values().filter(|member| member.prepared.is_some()).count()
    }

    /// The members of the group, in rank order.
    #[must_use]
    pub fn ranked(&self) -> Vec<WorkerId> {
        let mut ranked: Vec<_> = self.iter().filter_map(|(worker, member)| Some((member.rank?, worker))).collect();
        ranked.sort_unstable();
        ranked.into_iter().map(|(_, worker)| worker).collect()
    }

    /// The member that was silent the longest, and since when.
    #[must_use]
    pub fn quietest(&self) -> Option<(WorkerId, Instant)> {
        self.iter().map(|(worker, member)| (worker, member.heard)).min_by_key(|(_, heard)| *heard)
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

    /// When the first member's silence reaches `limit`.
    #[must_use]
    pub fn expiry(&self, limit: Duration) -> Option<Instant> {
        self.quietest().map(|(_, heard)| heard + limit)
    }
}
