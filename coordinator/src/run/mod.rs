//! One training run as a pure state machine: inputs and the time go in, actions come out.
//!
//! It reads no clock, no randomness, no disk and no socket (INV-5), so every order of events can be tried in a test.
//! Each phase owns its data; what is done between updates stands in an agenda. The one table of (phase, input) is
//! [`Run::handle`]; the phases' own files only compute.
//!
//! Workers train by grants: they may make updates through a given one, then wait. A grant never passes a boundary,
//! which is an update that something follows (an evaluation, a save, the end), so all workers always come to rest at
//! the same update, and a stop never races with a step.

mod action;
mod admission;
mod agenda;
mod agreement;
mod assignment;
mod ending;
mod evaluating;
mod gathering;
mod job;
mod orders;
mod pace;
mod progress;
mod rebalancing;
mod regrouping;
pub mod report;
mod returning;
mod roster;
mod saving;
mod selecting;
mod sharding;
mod streaming;
mod training;
mod view;
mod waiting;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use medley_common::identity::{Generation, ProcessMark, Update, WorkerId};
use medley_common::lane::LaneTree;
use medley_common::message::{Event, Failure, FailureKind, Lanes};
use medley_common::plan::Plan;

pub use action::{Action, Base, Input, Occasion, SavePurpose, SavedState};
pub use job::{Job, Past, Patience, SplitRows, TrainingJob};
pub use pace::{PhaseSeconds, Slowness};
pub use view::{EvaluationView, PhaseName, RunView, WorkerView};

use action::Task;
use evaluating::Evaluating;
use gathering::{Forming, Gathering};
use pace::Paces;
use progress::Progress;
use regrouping::Disbanding;
use report::{EvaluationReport, Outcome};
use roster::Roster;
use saving::Saving;
use selecting::Selecting;
use training::{Reports, Training};

/// One training run.
#[derive(Debug)]
pub struct Run {
    job: Job,
    plan: Plan,
    tree: LaneTree,
    roster: Roster,
    phase: Phase,
    generation: Generation,
    /// The newest group that is in the ledger.
    standing: Generation,
    /// The lanes of each member of the newest group, those that were lost since included.
    shares: BTreeMap<WorkerId, Lanes>,
    /// Who has left for good since that group stood, under all names: nobody waits for these.
    gone: BTreeSet<WorkerId>,
    /// After how many updates each group started.
    groups: BTreeMap<Generation, Update>,
    /// Reports of updates that are not applied yet, of a group that is gone.
    untold: BTreeMap<Update, Reports>,
    paces: Paces,
    /// Updates done when the newest group was formed.
    grouped_at: Update,
    /// What newcomers start from.
    base: Base,
    agenda: VecDeque<Task>,
    /// The save under way, whatever the phase.
    saving: Option<Saving>,
    progress: Progress,
    stopping: bool,
    /// The names of those that were asked to leave: they may come back under another before they have.
    asked_to_leave: BTreeSet<WorkerId>,
    /// The processes behind names that may still be looked for: one whose session broke may not have heard its own.
    processes: BTreeMap<WorkerId, ProcessMark>,
    /// Whether an operator has asked for a checkpoint that is not under way yet.
    save_asked: bool,
    /// Whether a group has stood in this process.
    formed: bool,
    /// Whether the line of the log that ends with the last update of the past is still to be written.
    overdue: bool,
    /// Whether somebody has come, gone or wants to go since the group was formed: the next rest is for a new one.
    changed: bool,
    /// Groups in a row that broke without a loss, and before anything was done.
    futile: u32,
    /// An evaluation that the change of a group has interrupted.
    interrupted: Option<Evaluating>,
    /// What evaluations have measured, and what follows from it.
    selecting: Selecting,
    /// The newest evaluation, for results that are asked for twice.
    evaluated: Option<EvaluationReport>,
    evaluations: Vec<EvaluationView>,
    /// Results of evaluations that are not in the ledger yet: no update is granted before they are, so that none is
    /// missing to a coordinator that comes back.
    unpublished: u32,
}

/// What the run is doing; each phase owns its data.
#[derive(Debug)]
enum Phase {
    /// Workers arrive and build their models; too few are ready.
    Gathering(Gathering),
    /// Workers connect to each other.
    Forming(Forming),
    /// Updates are made.
    Training(Training),
    /// Nothing can be done before the save under way is.
    Saving,
    /// A split is being predicted.
    Evaluating(Evaluating),
    /// The next rows of a stream are waited for.
    Idle,
    /// Workers leave their group, for another to be formed.
    Disbanding(Disbanding),
    /// Nothing happens any more.
    Finished(Outcome),
}

impl Run {
    /// A run that starts `now` and waits for its workers.
    #[must_use]
    pub fn new(now: Instant, job: Job) -> Self {
        let lengths = job.training.as_ref().map_or_else(Vec::new, |training| training.lengths.clone());
        let past = &job.past;
        let mut run = Self {
            plan: Plan::new(&job.spec, lengths),
            tree: LaneTree::new(job.spec.lanes),
            roster: Roster::default(),
            phase: Phase::Gathering(Gathering { since: now, needed: job.workers, returns: None }),
            generation: past.groups.keys().max().copied().unwrap_or_default(),
            standing: past.groups.keys().max().copied().unwrap_or_default(),
            shares: past.shares.clone(),
            gone: BTreeSet::new(),
            groups: past.groups.clone(),
            untold: BTreeMap::new(),
            paces: Paces::default(),
            grouped_at: past.update,
            base: job.base.clone(),
            agenda: VecDeque::new(),
            saving: None,
            progress: Progress::new(&job),
            stopping: false,
            asked_to_leave: BTreeSet::new(),
            processes: BTreeMap::new(),
            save_asked: false,
            formed: false,
            overdue: job.is_log_overdue(),
            changed: false,
            futile: 0,
            interrupted: None,
            selecting: Selecting::new(&job.past),
            evaluated: None,
            evaluations: Vec::new(),
            unpublished: 0,
            job,
        };
        run.agenda = run.first_agenda();
        run.phase =
            Phase::Gathering(Gathering { since: now, needed: run.job.workers, returns: run.returns_until(now) });
        run
    }

    /// Takes an input in and says what to do about it: the only mutator.
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Action> {
        let mut actions = Vec::new();
        if let Input::From(worker, _) = &input {
            match self.roster.get_mut(*worker) {
                Some(member) => member.heard = now,
                // Left or refused: what it still says does not count.
                None => return actions,
            }
        }
        let waiting = self.roster.all(|member| !member.welcomed);
        match (&self.phase, input) {
            (Phase::Finished(_), _) => {}
            (_, Input::StopRequested) if self.stopping => {}
            (_, Input::StopRequested) => self.stop_requested(now, &mut actions),
            (_, Input::StopAtOnce) => self.finish(self.stopped(), &mut actions),
            (_, Input::CheckpointRequested) => self.checkpoint_requested(now, &mut actions),
            (_, Input::DrainRequested(worker)) => self.drain_requested(now, worker, &mut actions),
            (_, Input::Broken(failure)) => self.broken(failure, &mut actions),
            (_, Input::Elapsed) => self.elapsed(now, &mut actions),
            (_, Input::Overslept) => self.overslept(now),
            (_, Input::Joined(worker)) => self.joined(now, worker),
            (_, Input::Grouped(generation)) => self.grouped(now, generation, &mut actions),
            (_, Input::Left(worker, why)) => self.left(now, worker, &why, &mut actions),
            (_, Input::Based(base)) => self.based(now, base, &mut actions),
            (_, Input::Recorded(update)) => self.recorded(now, update, &mut actions),
            (_, Input::Published(_)) => self.published(now, &mut actions),
            (_, Input::Committed(update)) => self.committed(now, update, &mut actions),
            (_, Input::Offered(rows)) => self.offered(now, rows, &mut actions),
            (_, Input::Exhausted) => self.finish(Outcome::Completed, &mut actions),
            (_, Input::From(worker, event)) => self.reported(now, worker, event, &mut actions),
        }
        self.tend_save(now, &mut actions);
        self.tend_loading(now, &mut actions);
        // Who waited for a place had nothing to say: its silence counts from when it was let in.
        waiting.into_iter().for_each(|worker| self.roster.hear(now, worker));
        actions
    }

    /// What a worker reports, by phase.
    fn reported(&mut self, now: Instant, worker: WorkerId, event: Event, actions: &mut Vec<Action>) {
        if self.is_stale(&event) {
            return;
        }
        if let Some(problem) = self.is_presumptuous(worker, &event) {
            return self.send_away(now, worker, problem, actions);
        }
        match (&self.phase, event) {
            (_, Event::Heartbeat) | (Phase::Finished(_), _) => {}
            (_, Event::Hello(hello)) => self.greeted(now, worker, *hello, actions),
            (_, Event::Prepared { layout, endpoint, notes: _ }) => {
                self.prepared(now, worker, (layout, endpoint), actions);
            }
            (_, Event::Failed(failure)) => self.worker_failed(now, worker, failure, actions),
            (_, Event::Leaving) => self.leaves(now, worker, actions),
            // From the copy that it keeps, whatever group it is in.
            (_, Event::Saved { save, piece, parameters }) => self.saved(worker, (save, piece), parameters, actions),
            (_, Event::Disconnected { problem, .. }) => self.disconnected(now, worker, &problem, actions),
            (Phase::Disbanding(_), Event::StandingBy { update, kept, .. }) => {
                self.stands_by(now, worker, (update, kept), actions);
            }
            (Phase::Disbanding(_), Event::Updated { report, .. }) => self.late_report(worker, report),
            // On their way when the group was dissolved.
            (Phase::Disbanding(_), Event::Token { .. } | Event::Formed { .. }) => {}
            (Phase::Disbanding(_), Event::Predicted { .. } | Event::Evaluated { .. }) => {}
            (Phase::Forming(_), Event::Token { token, .. }) if self.may_tell(worker) => self.pass_on(token, actions),
            (Phase::Forming(_), Event::Formed { .. }) => self.connected(worker, actions),
            (Phase::Training(_), Event::Updated { report, .. }) => self.updated(now, worker, report, actions),
            (Phase::Evaluating(_), Event::Predicted { split, predictions, .. }) => {
                self.predicted(worker, split, predictions, actions);
            }
            (Phase::Evaluating(_), Event::Evaluated { split, .. }) => {
                self.share_evaluated(now, worker, split, actions);
            }
            (Phase::Gathering(_) | Phase::Saving | Phase::Idle, event)
            | (Phase::Forming(_), event @ (Event::Updated { .. } | Event::StandingBy { .. }))
            | (Phase::Forming(_), event @ (Event::Predicted { .. } | Event::Evaluated { .. } | Event::Token { .. }))
            | (Phase::Training(_), event @ (Event::Token { .. } | Event::Formed { .. } | Event::StandingBy { .. }))
            | (Phase::Training(_), event @ (Event::Predicted { .. } | Event::Evaluated { .. }))
            | (Phase::Evaluating(_), event @ (Event::Token { .. } | Event::Formed { .. } | Event::StandingBy { .. }))
            | (Phase::Evaluating(_), event @ Event::Updated { .. }) => {
                self.out_of_turn(worker, &event, actions);
            }
        }
    }

    fn out_of_turn(&mut self, worker: WorkerId, event: &Event, actions: &mut Vec<Action>) {
        self.fail_worker(worker, &format!("reported {} out of turn", name_of(event)), actions);
    }

    /// When [`Input::Elapsed`] is due; `None` only when the run is finished, or everybody is lost while the archive
    /// commits, which tries until the disk lets it (INV-7).
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let silences = [self.roster.quietest(), self.surplus()].into_iter().flatten();
        let silence = silences.map(|(_, since)| since + self.job.patience.heartbeat).min();
        let phase = match &self.phase {
            Phase::Finished(_) => return None,
            Phase::Gathering(_) if self.awaits_disk() => None,
            Phase::Gathering(gathering) => {
                let join = gathering.since + self.job.patience.join;
                Some(gathering.returns.map_or(join, |until| until.min(join)))
            }
            Phase::Disbanding(disbanding) => Some(disbanding.since + self.job.patience.join),
            Phase::Forming(_) | Phase::Training(_) | Phase::Saving | Phase::Evaluating(_) | Phase::Idle => None,
        };
        silence.into_iter().chain(phase).min()
    }

    /// Epochs done; 0 where nothing is trained.
    fn epoch(&self) -> f64 {
        match self.job.training.is_some() || self.selecting.has_loaded() {
            true => self.plan.epoch_at(self.reached()),
            false => 0.0,
        }
    }

    /// Whether an event speaks of a group that is gone (INV-2).
    fn is_stale(&self, event: &Event) -> bool {
        let generation = match event {
            Event::Token { generation, .. }
            | Event::Formed { generation }
            | Event::Updated { generation, .. }
            | Event::Predicted { generation, .. }
            | Event::Evaluated { generation, .. }
            | Event::Disconnected { generation, .. }
            | Event::StandingBy { generation, .. } => *generation,
            Event::Hello(_) | Event::Prepared { .. } | Event::Saved { .. } => return false,
            Event::Leaving | Event::Heartbeat | Event::Failed(_) => return false,
        };
        generation != self.generation
    }

    /// Ends the run because of what a worker did.
    fn fail_worker(&mut self, worker: WorkerId, problem: &str, actions: &mut Vec<Action>) {
        let message = format!("{} {problem}", self.roster.describe(worker));
        self.fail(Failure { kind: FailureKind::Internal, message }, actions);
    }
}

fn name_of(event: &Event) -> &'static str {
    match event {
        Event::Hello(_) => "its name",
        Event::Prepared { .. } => "a built model",
        Event::Token { .. } => "a token",
        Event::Formed { .. } => "a formed group",
        Event::Updated { .. } => "an update",
        Event::Saved { .. } => "a piece of a state",
        Event::Predicted { .. } => "predictions",
        Event::Evaluated { .. } => "an evaluated share",
        Event::Disconnected { .. } => "a broken group",
        Event::StandingBy { .. } => "that it stands by",
        Event::Leaving => "that it leaves",
        Event::Heartbeat => "a heartbeat",
        Event::Failed(_) => "a failure",
    }
}

#[cfg(test)]
#[path = "fixture_test.rs"]
mod fixture;

#[cfg(test)]
#[path = "run_test.rs"]
mod tests;

#[cfg(test)]
#[path = "ending_test.rs"]
mod ending_tests;

#[cfg(test)]
#[path = "orders_test.rs"]
mod orders_tests;

#[cfg(test)]
#[path = "selecting_test.rs"]
mod selecting_tests;

#[cfg(test)]
#[path = "token_test.rs"]
mod token_tests;

#[cfg(test)]
#[path = "regrouping_test.rs"]
mod regrouping_tests;

#[cfg(test)]
#[path = "saving_test.rs"]
mod saving_tests;

#[cfg(test)]
#[path = "returning_test.rs"]
mod returning_tests;

#[cfg(test)]
#[path = "leaving_test.rs"]
mod leaving_tests;

#[cfg(test)]
#[path = "simulated_fate_test.rs"]
mod simulated_fate;

#[cfg(test)]
#[path = "simulated_worker_test.rs"]
mod simulated_worker;

#[cfg(test)]
#[path = "simulated_world_test.rs"]
mod simulated_world;

#[cfg(test)]
#[path = "simulation_test.rs"]
mod simulation;

#[cfg(test)]
#[path = "sharding_test.rs"]
mod sharding_tests;
