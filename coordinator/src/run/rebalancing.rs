//! Lanes move away from slow workers (`--rebalance`), without a change in the result.
//!
//! Shares are weighed by measured speed whenever a group is formed. One is formed for that alone where the new shares
//! would be done in less than [`GAIN`] of the time of the present ones, at most every so many updates: what a new group
//! costs must be worth it, and small differences must not move lanes to and fro.

use medley_common::identity::WorkerId;
use medley_common::message::Lanes;

use super::assignment::{assign, duration};
use super::{Action, Run};

/// The part of the present time that new shares may take, to be worth a new group.
const GAIN: f64 = 0.85;

impl Run {
    /// How fast each worker of `group` is, beside the others; all the same where that does not count, or is not known.
    pub(super) fn speeds(&self, group: &[WorkerId]) -> Vec<f64> {
        let speed = |worker: &WorkerId| self.job.rebalance.and(self.paces.speed(*worker));
        let mut known: Vec<f64> = group.iter().filter_map(speed).collect();
        known.sort_by(f64::total_cmp);
        // A newcomer is taken for one of the others.
        let usual = known.get(known.len() / 2).copied().unwrap_or(1.0);
        group.iter().map(|worker| speed(worker).unwrap_or(usual)).collect()
    }

    /// Has the group changed at its next rest where other shares would be done notably sooner.
    pub(super) fn rebalance(&mut self, actions: &mut Vec<Action>) {
        let Some(every) = self.job.rebalance else { return };
        let group = self.roster.ranked();
        let is_known = group.iter().all(|worker| self.paces.speed(*worker).is_some());
        if self.changed || !is_known || self.progress.done.0 < self.grouped_at.0 + every {
            return;
        }
        let speeds = self.speeds(&group);
        let present: Vec<Lanes> =
            group.iter().map(|worker| self.shares.get(worker).cloned().unwrap_or_default()).collect();
        let better = assign(self.tree, &vec![Lanes::new(); group.len()], &speeds);
        let [present, soon] = [&present, &better].map(|shares| duration(shares, &speeds));
        if soon < GAIN * present {
            let percent = 100.0 * (1.0 - soon / present);
            let line = format!("lanes are shared anew by speed: updates are expected to take {percent:.0} % less time");
            actions.push(Action::Notice(line));
            self.changed = true;
        }
    }
}
