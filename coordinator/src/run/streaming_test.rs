use medley_common::evaluation::Prediction;
use medley_common::example::Example;
use medley_common::identity::{Generation, RowId, Update, WorkerId};
use medley_common::message::{Command, Event};

use super::super::fixture::{Drive, job};
use super::super::report::{EvaluationReport, Outcome};
use super::super::{Input, Job};
use super::*;

/// A job that is a stream.
fn stream(workers: u32) -> Job {
    Job { training: None, is_stream: true, ..job(workers) }
}

/// A chunk of `rows` rows of 5 tokens.
fn chunk(rows: usize) -> SplitRows {
    let example = Example { tokens: vec![2, 9, 3, 9, 3], first_segment: 3, label: None };
    SplitRows { lengths: vec![5; rows], labels: vec![None; rows], examples: vec![example; rows] }
}

/// The worker that is ordered to predict, the rows that it is to, and how many it is told.
fn orders(actions: &[Action]) -> Vec<(u64, Vec<std::ops::Range<u32>>, usize)> {
    let order = |action: &Action| match action {
        Action::Order(worker, Command::Evaluate { split: Split::Test, rows, examples, .. }) => {
            Some((worker.0, rows.clone(), examples.len()))
        }
        _ => None,
    };
    actions.iter().filter_map(order).collect()
}

fn predict(drive: &mut Drive, worker: u64, rows: std::ops::Range<u32>, first_logit: f32) -> Vec<Action> {
    let predict = |row| Prediction { row: RowId(row), logits: vec![first_logit, 0.0, 0.0], loss: None };
    let (generation, split, predictions) = (drive.run.generation, Split::Test, rows.map(predict).collect());
    drive.from(worker, Event::Predicted { generation, split, predictions });
    drive.from(worker, Event::Evaluated { generation, split })
}

fn published(actions: &[Action]) -> &EvaluationReport {
    match actions {
        [Action::Publish(report, Occasion::End)] => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_group_predicts_chunk_after_chunk() {
    let (mut drive, idle) = Drive::formed(stream(2));
    assert_eq!(idle, [], "nothing is to do before rows come");
    assert!(drive.job.splits().is_empty(), "there is nothing to fetch");
    for (number, rows) in [(1, 4), (2, 2)] {
        let actions = drive.input(Input::Offered(chunk(rows)));
        let half = rows as u32 / 2;
        assert_eq!(orders(&actions), [(1, vec![0..half], rows), (2, vec![half..2 * half], rows)]);
        assert_eq!(predict(&mut drive, 1, 0..half, number as f32), []);
        let actions = predict(&mut drive, 2, half..2 * half, number as f32);
        let predictions = &published(&actions).predictions;
        assert_eq!(predictions.len(), rows);
        assert!(predictions.iter().all(|prediction| prediction.logits[0] == number as f32), "of this chunk's own rows");
        assert_eq!(drive.run.view().evaluations.len(), 1, "a stream has no end, and memory has");
    }
    assert_eq!(drive.input(Input::Exhausted).last(), Some(&Action::Finish(Outcome::Completed)));
}

#[test]
fn rows_may_come_before_the_group_stands() {
    let mut drive = Drive::new(stream(1));
    assert_eq!(drive.input(Input::Offered(chunk(3))), []);
    drive.arrive(1);
    let actions = drive.from(1, Event::Formed { generation: Generation(1) });
    assert_eq!(orders(&actions), [(1, vec![0..3], 3)]);
}

#[test]
fn a_stream_without_rows_needs_no_worker() {
    let mut drive = Drive::new(stream(1));
    assert_eq!(drive.input(Input::Exhausted).last(), Some(&Action::Finish(Outcome::Completed)));
}

/// What it had predicted counts; the rest goes to those that are left, who are told the rows again.
#[test]
fn a_loss_within_a_chunk_costs_what_was_not_told() {
    let (mut drive, _) = Drive::formed(stream(2));
    drive.input(Input::Offered(chunk(4)));
    predict(&mut drive, 1, 0..2, 1.0);
    drive.input(Input::Left(WorkerId(2), "it died".to_owned()));
    drive.stands_by(1, 0, Vec::new());
    let actions = drive.from(1, Event::Formed { generation: Generation(2) });
    assert_eq!(orders(&actions), [(1, vec![2..4], 4)]);
    assert_eq!(published(&predict(&mut drive, 1, 2..4, 1.0)).predictions.len(), 4);
}

#[test]
fn a_loss_between_chunks_makes_another_group() {
    let (mut drive, _) = Drive::formed(stream(2));
    drive.input(Input::Left(WorkerId(2), "it died".to_owned()));
    drive.stands_by(1, 0, Vec::new());
    assert_eq!(drive.from(1, Event::Formed { generation: Generation(2) }), []);
    assert_eq!(orders(&drive.input(Input::Offered(chunk(2)))), [(1, vec![0..2], 2)]);
}

#[test]
fn a_stop_waits_for_no_row() {
    let stopped = Some(Action::Finish(Outcome::Stopped { update: Update(0), saved: None }));
    let (mut drive, _) = Drive::formed(stream(1));
    assert_eq!(drive.input(Input::StopRequested).last(), stopped.as_ref());
    let (mut drive, _) = Drive::formed(stream(1));
    drive.input(Input::Offered(chunk(2)));
    assert_eq!(drive.input(Input::StopRequested).last(), stopped.as_ref());
}

/// INV-7: who says nothing between two chunks is replaced as ever.
#[test]
fn a_silent_worker_is_lost_while_rows_are_waited_for() {
    let (drive, _) = Drive::formed(stream(1));
    assert_eq!(drive.run.deadline(), Some(drive.now + drive.job.patience.heartbeat));
}
