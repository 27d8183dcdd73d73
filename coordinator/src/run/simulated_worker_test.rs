//! A worker of the simulation, and what workers do together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use medley_common::evaluation::Prediction;
use medley_common::identity::{Digest, Rank, RowId};
use medley_common::message::{Command, Form};
use medley_common::plan::mix;

use super::fixture::{hello, report};
use super::*;

/// A worker that follows the protocol.
pub(super) struct Worker {
    pid: u32,
    form: Option<Form>,
    /// Whether it is connected with its group.
    connected: bool,
    update: u64,
    through: u64,
    /// Lanes of the next update that it has computed.
    kept: Lanes,
    pub(super) inbox: VecDeque<Command>,
    pub(super) outbox: VecDeque<Event>,
    /// Its last words are on their way; it says nothing more.
    pub(super) dead: bool,
}

/// What the members of each group have done together.
#[derive(Default)]
pub(super) struct Network {
    /// Who has come to connect, by generation.
    arrived: BTreeMap<Generation, BTreeSet<Rank>>,
    /// Who has handed over its part of an update.
    handed_over: BTreeMap<(Generation, u64), BTreeSet<Rank>>,
    /// Groups of which a member is dead or has left.
    broken: BTreeSet<Generation>,
    /// Lanes computed, each time they were.
    pub(super) computed: u64,
}

impl Worker {
    pub(super) fn new(pid: u32) -> Self {
        Self {
            pid,
            form: None,
            connected: false,
            update: 0,
            through: 0,
            kept: Lanes::new(),
            inbox: VecDeque::new(),
            outbox: [hello(pid)].into(),
            dead: false,
        }
    }

    pub(super) fn leave(&mut self, network: &mut Network) {
        let left = self.form.take().map(|form| form.generation);
        network.broken.extend(left);
        self.connected = false;
    }

    /// Obeys one command or goes one step further with its group, if it can.
    pub(super) fn work(&mut self, job: &Job, network: &mut Network) {
        if let Some(command) = self.inbox.pop_front() {
            return self.obey(job, network, command);
        }
        let Some(form) = self.form.clone() else { return };
        let (generation, world) = (form.generation, form.peers.len());
        let complete = |ranks: Option<&BTreeSet<Rank>>| ranks.is_some_and(|ranks| ranks.len() == world);
        let next = self.update + 1;
        if !self.connected && complete(network.arrived.get(&generation)) {
            self.connected = true;
            if form.source.is_some() && form.source != Some(form.rank) {
                (self.update, self.kept) = (form.update.0, Lanes::new());
            }
            assert_eq!(self.update, form.update.0, "a group of different states");
            self.through = self.update;
            self.outbox.push_back(Event::Formed { generation });
        } else if self.connected && self.update < self.through {
            let lanes = form.lanes[form.rank.0 as usize].clone();
            let parts = network.handed_over.entry((generation, next)).or_default();
            if parts.insert(form.rank) {
                let missing = lanes.iter().filter(|run| !self.kept.contains(run));
                network.computed += missing.map(|run| u64::from(run.end - run.start)).sum::<u64>();
                self.kept = lanes;
            } else if complete(Some(parts)) {
                (self.update, self.kept) = (next, Lanes::new());
                let mut report = report(job, next, lanes.into_iter().flatten());
                // Now fast, now slow.
                let seconds = 0.001 * (1 + mix((u64::from(self.pid) << 8) | (next / 3)) % 6) as f64;
                report.timing.forward_seconds = seconds * report.tokens as f64;
                self.outbox.push_back(Event::Updated { generation, report });
            } else if network.broken.contains(&generation) {
                self.leave(network);
                self.outbox.push_back(Event::Disconnected { generation, problem: "a peer is gone".into() });
            }
        } else if !self.connected && network.broken.contains(&generation) {
            self.leave(network);
            self.outbox.push_back(Event::Disconnected { generation, problem: "a peer is gone".into() });
        }
    }

    fn obey(&mut self, job: &Job, network: &mut Network, command: Command) {
        let current = self.form.as_ref().map(|form| form.generation);
        match command {
            Command::Welcome(welcome) => {
                self.update = welcome.start.0;
                let (layout, endpoint) = (Digest([1; 32]), "10.0.0.1:1".into());
                self.outbox.push_back(Event::Prepared { layout, endpoint, notes: Vec::new() });
            }
            Command::Form(form) => {
                self.leave(network);
                assert!(network.arrived.entry(form.generation).or_default().insert(form.rank), "INV-2: a rank twice");
                if !self.kept.iter().all(|run| form.lanes[form.rank.0 as usize].contains(run)) {
                    self.kept = Lanes::new();
                }
                self.form = Some(form);
            }
            Command::Disband { generation } => {
                self.leave(network);
                let (update, kept) = (Update(self.update), self.kept.clone());
                self.outbox.push_back(Event::StandingBy { generation, update, kept });
            }
            Command::Train { generation, through } if current == Some(generation) => {
                assert!(through.0 > self.through, "a grant that grants nothing");
                self.through = through.0;
            }
            Command::Save { generation, update, .. } if current == Some(generation) => {
                assert_eq!(update.0, self.update, "a save away from rest");
                self.outbox.push_back(Event::Saved { generation, update, parameters: Digest([update.0 as u8; 32]) });
            }
            Command::Evaluate { generation, split, rows } if current == Some(generation) => {
                assert!(job.rows(split).is_some());
                for row in rows.into_iter().flatten() {
                    let logits = vec![0.0, row as f32, 2.5];
                    let predictions = vec![Prediction { row: RowId(row), logits, loss: Some(f64::from(row) / 3.0) }];
                    self.outbox.push_back(Event::Predicted { generation, split, predictions });
                }
                self.outbox.push_back(Event::Evaluated { generation, split });
            }
            // Of a group that it has left by itself.
            Command::Train { .. } | Command::Save { .. } | Command::Evaluate { .. } => {}
            Command::Stop { .. } => self.dead = true,
        }
    }
}
