//! A worker of the simulation, and what workers do together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use medley_common::evaluation::Prediction;
use medley_common::identity::{Digest, Known, Rank, RowId};
use medley_common::message::{Command, Form, Held, Hello, Token, UpdateReport};
use medley_common::plan::mix;
use medley_common::save::{Piece, SaveId};
use medley_common::secret::Secret;

use super::fixture::{hello, report};
use super::*;

/// A worker that follows the protocol.
pub(super) struct Worker {
    pid: u32,
    form: Option<Form>,
    /// Whether it is connected with its group.
    connected: bool,
    /// Whether it knows what its group needs to connect.
    knows: bool,
    update: u64,
    through: u64,
    /// Of the learning rate, as it was told last.
    peak: f64,
    /// Lanes of the next update that it has computed.
    kept: Lanes,
    /// As what it is known, and the newest group of the ledger on whose line its state lies.
    known: Option<Known>,
    line: Generation,
    /// Its last reports.
    reports: VecDeque<UpdateReport>,
    /// The save that it keeps a copy of the state for, and the pieces that it is to send.
    pub(super) copy: Option<SaveId>,
    uploads: VecDeque<(SaveId, Piece)>,
    /// Whether it is to hold a shard of its group's state, and whether it does.
    is_sharded: bool,
    is_cut: bool,
    /// Whether it has built its model.
    prepared: bool,
    sessions: u64,
    /// Whether its system has asked it to end.
    leaving: bool,
    pub(super) inbox: VecDeque<Command>,
    pub(super) outbox: VecDeque<Event>,
    /// Its last words are on their way; it says nothing more.
    pub(super) dead: bool,
}

/// What the members of each group have done together. A secret fences a group: coordinators that come back may use the
/// number of one that never stood.
#[derive(Default)]
pub(super) struct Network {
    /// Who has come to connect, by group.
    arrived: BTreeMap<Secret, BTreeSet<Rank>>,
    /// Who has handed over its part of an update.
    handed_over: BTreeMap<(Secret, u64), BTreeSet<Rank>>,
    /// Groups of which a member is dead or has left.
    broken: BTreeSet<Secret>,
    /// Lanes computed, each time they were.
    pub(super) computed: u64,
}

impl Worker {
    pub(super) fn new(pid: u32) -> Self {
        Self {
            pid,
            form: None,
            connected: false,
            knows: false,
            update: 0,
            through: 0,
            peak: 0.0,
            kept: Lanes::new(),
            known: None,
            line: Generation(0),
            reports: VecDeque::new(),
            copy: None,
            uploads: VecDeque::new(),
            is_sharded: false,
            is_cut: false,
            prepared: false,
            sessions: 1,
            leaving: false,
            inbox: VecDeque::new(),
            outbox: [hello(pid)].into(),
            dead: false,
        }
    }

    /// Its session breaks: what was under way is lost, what it holds is kept, and offered in the next one.
    pub(super) fn lose_session(&mut self, pid: u32, network: &mut Network) {
        self.leave(network);
        self.inbox.clear();
        self.outbox.clear();
        self.uploads.clear();
        let held = Held {
            layout: Digest([1; 32]),
            endpoint: "10.0.0.1:1".into(),
            generation: self.line,
            update: Update(self.update),
            kept: self.kept.clone(),
            reports: self.reports.iter().cloned().collect(),
            copy: self.copy,
        };
        let Event::Hello(hello) = hello(pid) else { return };
        let held = (self.prepared && !self.is_sharded).then(|| Box::new(held));
        self.sessions += 1;
        let (known, session) = (self.known.clone(), self.sessions);
        self.outbox.push_back(Event::from(Hello { known, session, held, ..*hello }));
    }

    pub(super) fn ask_to_leave(&mut self) {
        self.leaving = true;
        self.outbox.push_back(Event::Leaving);
    }

    pub(super) fn leave(&mut self, network: &mut Network) {
        let left = self.form.take().map(|form| form.secret);
        network.broken.extend(left);
        self.connected = false;
    }

    /// A piece arrives, beside all else that it does.
    pub(super) fn send_piece(&mut self) {
        if let Some((save, piece)) = self.uploads.pop_front() {
            let parameters = Digest([save.update.0 as u8; 32]);
            self.outbox.push_back(Event::Saved { save, piece, parameters });
        }
    }

    /// Whether it keeps a copy of the state after `update`, and has not been told to let it go.
    pub(super) fn keeps(&self, update: Update) -> bool {
        let forgets = |command: &Command| matches!(command, Command::Forget { update: to } if *to >= update);
        !self.dead && self.copy.is_some_and(|copy| copy.update == update) && !self.inbox.iter().any(forgets)
    }

    /// Obeys one command or goes one step further with its group, if it can.
    pub(super) fn work(&mut self, job: &Job, network: &mut Network) {
        if let Some(command) = self.inbox.pop_front() {
            return self.obey(job, network, command);
        }
        let Some(form) = self.form.clone() else { return };
        let (generation, group, world) = (form.generation, form.secret, form.peers.len());
        let complete = |ranks: Option<&BTreeSet<Rank>>| ranks.is_some_and(|ranks| ranks.len() == world);
        let next = self.update + 1;
        if !self.connected && self.knows && complete(network.arrived.get(&group)) {
            self.connected = true;
            self.is_cut = self.is_sharded;
            assert!(!self.is_cut || form.source.is_none(), "nobody has a state to hand over");
            if form.source.is_some() && form.source != Some(form.rank) {
                (self.update, self.kept) = (form.update.0, Lanes::new());
            }
            assert_eq!(self.update, form.update.0, "a group of different states");
            (self.through, self.line) = (self.update, form.line);
            self.outbox.push_back(Event::Formed { generation });
        } else if self.connected && self.update < self.through {
            let lanes = form.lanes[form.rank.0 as usize].clone();
            let parts = network.handed_over.entry((group, next)).or_default();
            if parts.insert(form.rank) {
                let missing = lanes.iter().filter(|run| !self.kept.contains(run));
                network.computed += missing.map(|run| u64::from(run.end - run.start)).sum::<u64>();
                self.kept = lanes;
            } else if complete(Some(parts)) {
                (self.update, self.kept) = (next, Lanes::new());
                let mut report = report(job, next, lanes.into_iter().flatten());
                report.learning_rate = job.spec.schedule.at(report.update, self.peak);
                // Now fast, now slow.
                let seconds = 0.001 * (1 + mix((u64::from(self.pid) << 8) | (next / 3)) % 6) as f64;
                report.timing.forward_seconds = seconds * report.tokens as f64;
                self.reports.push_back(report.clone());
                if self.reports.len() as u64 > job.patience.window {
                    self.reports.pop_front();
                }
                self.outbox.push_back(Event::Updated { generation, report });
            } else if network.broken.contains(&group) {
                self.leave(network);
                self.outbox.push_back(Event::Disconnected { generation, problem: "a peer is gone".into() });
            }
        } else if !self.connected && network.broken.contains(&group) {
            self.leave(network);
            self.outbox.push_back(Event::Disconnected { generation, problem: "a peer is gone".into() });
        }
    }

    /// Whether all of its group are there.
    fn is_whole(&self, network: &Network) -> bool {
        self.form.as_ref().is_some_and(|form| !network.broken.contains(&form.secret))
    }

    /// It copies the state that is to be saved, unless it has.
    fn hold(&mut self, save: SaveId) {
        if self.copy.is_none_or(|copy| copy.update != save.update) {
            assert_eq!(save.update.0, self.update, "a copy of a state that is not there");
            self.copy = Some(save);
            self.uploads.clear();
        }
    }

    /// It is ordered into a group.
    fn enter(&mut self, form: Form, network: &mut Network) {
        self.leave(network);
        assert!(!self.is_cut, "a shard of another group's state");
        assert!(network.arrived.entry(form.secret).or_default().insert(form.rank), "INV-2: a rank twice");
        if !self.kept.iter().all(|run| form.lanes[form.rank.0 as usize].contains(run)) {
            self.kept = Lanes::new();
        }
        // Groups of even numbers need a token, as those of workers with GPUs do.
        let (generation, world, is_first) = (form.generation, form.peers.len(), form.rank == Rank(0));
        let needs_token = generation.0 % 2 == 0 && world > 1;
        self.knows = is_first || !needs_token;
        if needs_token && is_first {
            let token = Token::new(form.secret.0.to_vec()).unwrap();
            self.outbox.push_back(Event::Token { generation, token });
        }
        self.form = Some(form);
    }

    /// Its model is the best after update 4.
    fn distance(&self) -> f64 {
        self.update.abs_diff(4) as f64
    }

    fn obey(&mut self, job: &Job, network: &mut Network, command: Command) {
        let current = self.form.as_ref().map(|form| form.generation);
        if let Some(generation) = command.work_of() {
            self.line = generation;
            self.known.iter_mut().for_each(Known::employed);
        }
        match command {
            // It has no time to begin anew.
            Command::Welcome(_) if self.leaving && self.prepared => self.dead = true,
            Command::Welcome(welcome) => {
                self.leave(network);
                (self.update, self.line) = (welcome.start.0, Generation(0));
                self.known = Some(Known::named(self.known.take(), welcome.run, welcome.worker));
                self.kept.clear();
                self.reports.clear();
                self.copy = None;
                self.uploads.clear();
                (self.prepared, self.is_sharded, self.is_cut) = (true, welcome.shard_optimizer_state, false);
                let (layout, endpoint) = (Digest([1; 32]), "10.0.0.1:1".into());
                self.outbox.push_back(Event::Prepared { layout, endpoint, notes: Vec::new() });
            }
            Command::Reattach { worker, .. } => {
                assert!(self.prepared, "kept what it never had");
                self.known = Some(Known::named(self.known.take(), job.run, worker));
                self.outbox.extend(self.leaving.then_some(Event::Leaving));
            }
            Command::Form(form) => self.enter(form, network),
            Command::Disband { generation } => {
                self.leave(network);
                let (update, kept) = (Update(self.update), self.kept.clone());
                self.outbox.push_back(Event::StandingBy { generation, update, kept });
            }
            Command::Train { generation, through, peak } if current == Some(generation) => {
                assert!(through.0 > self.through, "a grant that grants nothing");
                (self.through, self.peak) = (through.0, peak);
            }
            // A part of it is gone with a member of the group.
            Command::Save { .. } if self.is_cut && !self.is_whole(network) => {}
            Command::Save { save, piece, .. } => {
                self.hold(save);
                self.uploads.push_back((save, piece));
            }
            Command::Forget { update } => {
                self.copy = self.copy.filter(|copy| copy.update > update);
                self.uploads.retain(|(save, _)| save.update > update);
            }
            Command::Evaluate { generation, split, rows, examples: _ } if current == Some(generation) => {
                assert!(job.rows(split).is_some());
                for row in rows.into_iter().flatten() {
                    let logits = vec![0.0, row as f32, 2.5];
                    let predictions = vec![Prediction {
                        row: RowId(row),
                        logits,
                        loss: Some(f64::from(row) / 3.0 + self.distance()),
                    }];
                    self.outbox.push_back(Event::Predicted { generation, split, predictions });
                }
                self.outbox.push_back(Event::Evaluated { generation, split });
            }
            Command::Token { generation, token } if current == Some(generation) => {
                assert!(!self.knows, "a token that is not needed, or came twice");
                let secret = self.form.as_ref().map(|form| form.secret);
                assert_eq!(Some(token.bytes()), secret.as_ref().map(|secret| &secret.0[..]), "INV-2: of another group");
                self.knows = true;
            }
            // Of a group that it has left by itself.
            Command::Train { .. } | Command::Evaluate { .. } | Command::Token { .. } => {}
            Command::Stop { .. } => self.dead = true,
        }
    }
}
