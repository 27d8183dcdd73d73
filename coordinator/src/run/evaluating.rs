//! A split is being predicted: each row exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Instant;

use medley_common::evaluation::{Prediction, Tally};
use medley_common::identity::{Split, Update, WorkerId};
use medley_common::message::Command;
use medley_common::plan::evaluation_shards;

use super::report::EvaluationReport;
use super::{Action, EvaluationView, Occasion, Phase, Run};

/// Workers predict their shares of a split.
#[derive(Debug)]
pub(super) struct Evaluating {
    pub(super) split: Split,
    pub(super) occasion: Occasion,
    update: Update,
    since: Instant,
    shares: BTreeMap<WorkerId, Vec<Range<u32>>>,
    predictions: Vec<Option<Prediction>>,
    done: BTreeSet<WorkerId>,
}

impl Run {
    pub(super) fn evaluate(&mut self, now: Instant, split: Split, occasion: Occasion, actions: &mut Vec<Action>) {
        let update = self.reached();
        // The same weights give the same result: it is not computed twice.
        let known = self.evaluated.as_ref().filter(|report| report.split == split && report.update == update);
        if let Some(report) = known.cloned() {
            self.publish(report, occasion, actions);
            self.select(occasion, actions);
            return self.go_on(now, actions);
        }
        let lengths = self.job.rows(split).map_or(&[][..], |rows| &rows.lengths);
        // What was predicted before the group changed counts: the weights are the same.
        let begun = self.interrupted.take().filter(|begun| (begun.split, begun.update) == (split, update));
        let (since, predictions) =
            begun.map_or_else(|| (now, vec![None; lengths.len()]), |begun| (begun.since, begun.predictions));
        let missing: Vec<u32> =
            (0..).zip(&predictions).filter(|(_, known)| known.is_none()).map(|(row, _)| row).collect();
        let group = self.roster.ranked();
        let shares: BTreeMap<_, _> = group.into_iter().zip(shares(&missing, lengths, self.shares.len())).collect();
        let generation = self.generation;
        let examples = self.job.rows(split).map_or(&[][..], |rows| &rows.examples);
        let order = |(worker, rows): (&WorkerId, &Vec<Range<u32>>)| {
            let (rows, examples) = (rows.clone(), examples.to_vec());
            Action::Order(*worker, Command::Evaluate { generation, split, rows, examples })
        };
        actions.extend(shares.iter().map(order));
        let done = BTreeSet::new();
        self.phase = Phase::Evaluating(Evaluating { split, occasion, update, since, shares, predictions, done });
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
            let place = evaluating
                .predictions
                .get_mut(row.0 as usize)
                .filter(|_| share.iter().any(|rows| rows.contains(&row.0)));
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
        let missing = share.into_iter().flatten().find(|row| evaluating.predictions[*row as usize].is_none());
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
        let (update, epoch) = (self.reached(), self.epoch());
        let labels = labels.to_vec();
        let report = EvaluationReport { split, update, epoch, tally, predictions, labels, seconds };
        if self.job.is_stream {
            // It has no end: the chunks before are not kept in mind.
            self.evaluations.clear();
        }
        self.evaluations.push(EvaluationView::of(&report));
        self.evaluated = Some(report.clone());
        self.publish(report, occasion, actions);
        self.select(occasion, actions);
        self.go_on(now, actions);
    }

    fn publish(&mut self, report: EvaluationReport, occasion: Occasion, actions: &mut Vec<Action>) {
        self.unpublished += 1;
        actions.push(Action::Publish(report, occasion));
    }
}

/// `rows` in as many shares, with about the same number of tokens each.
fn shares(rows: &[u32], lengths: &[u32], shares: usize) -> Vec<Vec<Range<u32>>> {
    let tokens: Vec<u32> = rows.iter().map(|row| lengths[*row as usize]).collect();
    let shards = evaluation_shards(&tokens, u32::try_from(shares).unwrap_or(u32::MAX));
    shards.into_iter().map(|shard| runs(&rows[shard.start as usize..shard.end as usize])).collect()
}

/// Ascending numbers as ranges.
fn runs(rows: &[u32]) -> Vec<Range<u32>> {
    rows.chunk_by(|row, next| row + 1 == *next).filter_map(|run| Some(*run.first()?..*run.last()? + 1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_hold_every_missing_row_once() {
        assert_eq!(runs(&[1, 2, 3, 7, 9, 10]), [1..4, 7..8, 9..11]);
        let lengths = [5, 5, 50, 5, 5, 5, 5, 5];
        assert_eq!(shares(&[0, 1, 2, 6, 7], &lengths, 2), [vec![0..2], vec![2..3, 6..8]]);
        assert_eq!(shares(&[], &lengths, 2), [vec![], vec![]]);
    }
}
