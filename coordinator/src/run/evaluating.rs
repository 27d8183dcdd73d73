//! A split is being predicted: each row exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Instant;

use medley_common::evaluation::{Prediction, Tally};
use medley_common::identity::{Split, WorkerId};
use medley_common::message::Command;
use medley_common::plan::evaluation_shards;

use super::report::EvaluationReport;
use super::{Action, EvaluationView, Occasion, Phase, Run};

/// Workers predict their shares of a split.
#[derive(Debug)]
pub(super) struct Evaluating {
    pub(super) split: Split,
    pub(super) occasion: Occasion,
    since: Instant,
    shares: BTreeMap<WorkerId, Range<u32>>,
    predictions: Vec<Option<Prediction>>,
    done: BTreeSet<WorkerId>,
}

impl Run {
    pub(super) fn evaluate(&mut self, now: Instant, split: Split, occasion: Occasion, actions: &mut Vec<Action>) {
        let update = self.progress.done;
        // The same weights give the same result: it is not computed twice.
        let known = self.evaluated.as_ref().filter(|report| report.split == split && report.update == update);
        if let Some(report) = known.cloned() {
            actions.push(Action::Publish(report, occasion));
            return self.go_on(now, actions);
        }
        let lengths = self.job.rows(split).map_or(&[][..], |rows| &rows.lengths);
        let group = self.roster.ranked();
        let shards = evaluation_shards(lengths, self.job.workers);
        let evaluating = Evaluating {
            split,
            occasion,
            since: now,
            shares: group.iter().copied().zip(shards).collect(),
            predictions: vec![None; lengths.len()],
            done: BTreeSet::new(),
        };
        let generation = self.generation;
        actions.extend(group.into_iter().map(|worker| Action::Order(worker, Command::Evaluate { generation, split })));
        self.phase = Phase::Evaluating(evaluating);
    }

    pub(super) fn predicted(
        &mut self,
        worker: WorkerId,
        split: Split,
        predictions: Vec<Prediction>,
        actions: &mut Vec<Action>,
    ) {
        let labels = self.job.model.num_labels as usize;
        let Phase::Evaluating(evaluating) = &mut self.phase else { return };
        let share = evaluating.shares.get(&worker).cloned().unwrap_or_default();
        for prediction in predictions {
            let row = prediction.row;
            let place = evaluating.predictions.get_mut(row.0 as usize).filter(|_| share.contains(&row.0));
            let problem = match place {
                Some(None) if split != evaluating.split => format!("predicted the {split} split"),
                Some(None) if prediction.logits.len() != labels => {
                    format!(
                        "predicted {} logits for row {row} of the {split} split; expected {labels}",
                        prediction.logits.len()
                    )
                }
                Some(empty @ None) => {
                    *empty = Some(prediction);
                    continue;
                }
                Some(Some(_)) => format!("predicted row {row} of the {split} split twice"),
                None => format!("predicted row {row} of the {split} split, which is not in its share"),
            };
            return self.fail_worker(worker, &problem, actions);
        }
    }

    pub(super) fn share_evaluated(&mut self, now: Instant, worker: WorkerId, split: Split, actions: &mut Vec<Action>) {
        let Phase::Evaluating(evaluating) = &mut self.phase else { return };
        if split != evaluating.split {
            return self.fail_worker(worker, &format!("ended its share of the {split} split out of turn"), actions);
        }
        let share = evaluating.shares.get(&worker).cloned().unwrap_or_default();
        let missing = share.clone().find(|row| evaluating.predictions[*row as usize].is_none());
        if let Some(row) = missing {
            let problem = format!("ended its share of the {split} split without row {row}");
            return self.fail_worker(worker, &problem, actions);
        }
        evaluating.done.insert(worker);
        if evaluating.done.len() < evaluating.shares.len() {
            return;
        }
        let predictions: Vec<Prediction> = evaluating.predictions.drain(..).flatten().collect();
        let (occasion, seconds) = (evaluating.occasion, (now - evaluating.since).as_secs_f64());
        let labels = self.job.rows(split).map_or(&[][..], |rows| &rows.labels);
        let tally = Tally::of(&predictions, labels);
        let (update, epoch) = (self.progress.done, self.epoch());
        let report = EvaluationReport { split, update, epoch, tally, predictions, seconds };
        self.evaluations.push(EvaluationView::of(&report));
        self.evaluated = Some(report.clone());
        actions.push(Action::Publish(report, occasion));
        self.go_on(now, actions);
    }
}
