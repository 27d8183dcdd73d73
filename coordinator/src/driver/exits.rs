//! What the end of a local worker's process means.

use std::time::{Duration, Instant};

use medley_common::identity::WorkerId;

use super::{Driver, Ties, internal};
use crate::launch::{Succession, WorkerExit, describe};
use crate::run::Input;

impl Ties {
    /// Time has passed: whose connection broke is gone, where its process has not said more by now.
    pub(super) fn elapsed(&mut self, now: Instant) -> Vec<Input> {
        let gone: Vec<WorkerId> =
            self.leaving.iter().filter(|(_, (until, _))| *until <= now).map(|(worker, _)| *worker).collect();
        let left = |worker| self.leaving.remove(&worker).map(|(_, why)| Input::Left(worker, why));
        gone.into_iter().filter_map(left).chain([Input::Elapsed]).collect()
    }
}

impl Driver {
    /// A local worker's process has ended: this tells more than its broken connection.
    pub(super) fn exited(&mut self, exit: &WorkerExit, ties: &mut Ties) -> Vec<Input> {
        let why = format!("its process {}", describe(&exit.status));
        let known = ties.pids.iter().find(|(_, (pid, _))| *pid == exit.pid).map(|(worker, _)| *worker);
        let mut inputs = Vec::new();
        if let Some(worker) = known {
            ties.leaving.remove(&worker);
            ties.pids.remove(&worker);
            inputs.push(Input::Left(worker, why.clone()));
        } else {
            self.display.line(&format!("a worker (pid {}) ended before it could join: {why}", exit.pid));
        }
        if ties.stopping {
            return inputs;
        }
        let was_useful = known.is_some_and(|worker| ties.useful.remove(&worker));
        match self.local.succeed(exit, was_useful, Instant::now()) {
            // Nobody is left who could go on, and nobody else starts workers here: what they held is saved.
            Succession::Left if self.local.is_empty() => inputs.push(Input::StopRequested),
            Succession::Left => {}
            Succession::Restarts(Duration::ZERO) => self.display.line("starting another worker in its place"),
            Succession::Restarts(pause) => {
                self.display.line(&format!("starting another worker in its place in {:.1} s", pause.as_secs_f64()));
            }
            Succession::GivenUp if self.local.is_empty() => inputs.push(internal(format!(
                "the last worker (pid {}) is gone: {why}; it was started as often as --max_restarts allows",
                exit.pid
            ))),
            Succession::GivenUp => {
                self.display.line("no other worker is started in its place: --max_restarts allows no more");
            }
        }
        inputs
    }
}
