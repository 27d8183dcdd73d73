//! The rules of the run, one by one: which actions which input brings.

use std::time::Duration;

use medley_common::identity::{Digest, RowId};
use medley_common::message::{ArtifactKind, Command, Hello, UpdateReport};

use super::fixture::{Drive, every, failure, hello, job, prepared, report, rows, save};
use super::*;

fn commit(update: u64, purpose: SavePurpose) -> Action {
    let (layout, parameters) = (Digest([1; 32]), Digest([1; 32]));
    Action::Commit(SavedState { update: Update(update), purpose, layout, parameters })
}

fn train(worker: u64, through: u64) -> Action {
    Action::Order(WorkerId(worker), Command::Train { generation: Generation(1), through: Update(through) })
}

/// The model alone.
fn save_final(worker: u64, update: u64) -> Action {
    let parts = vec![ArtifactKind::Weights];
    Action::Order(WorkerId(worker), Command::Save { generation: Generation(1), update: Update(update), parts })
}

fn evaluate(worker: u64) -> Action {
    let rows = vec![if worker == 1 { 0..2 } else { 2..5 }];
    Action::Order(WorkerId(worker), Command::Evaluate { generation: Generation(1), split: Split::Validation, rows })
}

#[test]
fn a_group_forms_when_all_are_prepared() {
    let mut drive = Drive::new(job(2));
    drive.input(Input::Joined(WorkerId(1)));
    assert!(matches!(&drive.from(1, hello(1))[..], [Action::Order(WorkerId(1), Command::Welcome(_))]));
    assert_eq!(drive.from(1, prepared(1)), []);
    drive.input(Input::Joined(WorkerId(2)));
    drive.from(2, hello(2));
    let actions = drive.from(2, prepared(1));
    let [Action::Order(WorkerId(1), Command::Form(first)), Action::Order(WorkerId(2), Command::Form(second))] =
        &actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!((first.rank.0, second.rank.0), (0, 1));
    assert_eq!(first.lanes, [vec![0..2], vec![2..4]]);
    assert_eq!((first.update, first.source), (Update(0), None));
    assert_eq!((first.peers.len(), &first.secret), (2, &second.secret));
    assert_eq!(drive.from(1, Event::Formed { generation: Generation(1) }), []);
    let actions = drive.input(Input::From(WorkerId(2), Event::Formed { generation: Generation(1) }));
    let [Action::Group(group), orders @ ..] = &actions[..] else { panic!("{actions:?}") };
    let members: Vec<_> = group.members.iter().map(|member| (member.worker.0, member.pid, &member.lanes)).collect();
    assert_eq!((group.generation, members), (Generation(1), vec![(1, 1, &vec![0..2]), (2, 2, &vec![2..4])]));
    assert_eq!(orders, [train(1, 2), train(2, 2)]);
}

#[test]
fn strangers_and_latecomers_are_refused() {
    let mut drive = Drive::new(job(1));
    drive.input(Input::Joined(WorkerId(1)));
    let Event::Hello(old) = hello(1) else { unreachable!() };
    let actions = drive.from(1, Event::Hello(Hello { version: "0.0.9".into(), ..old }));
    let [Action::Refuse(WorkerId(1), reason)] = &actions[..] else { panic!("{actions:?}") };
    assert!(reason.contains("0.0.9") && reason.contains("0.1.0"), "{reason}");
    assert_eq!(drive.from(1, prepared(1)), [], "a refused worker does not exist");
    for worker in [2, 3] {
        drive.input(Input::Joined(WorkerId(worker)));
    }
    drive.from(2, hello(2));
    assert_eq!(drive.from(3, hello(3)), [], "it waits for a place");
    drive.from(2, prepared(1));
    drive.now += Duration::from_secs(4);
    drive.from(2, Event::Heartbeat);
    drive.from(3, Event::Heartbeat);
    drive.now += Duration::from_secs(1);
    let actions = drive.input(Input::Elapsed);
    let [Action::Refuse(WorkerId(3), reason)] = &actions[..] else { panic!("{actions:?}") };
    assert!(reason.contains("1 of 1 workers"), "{reason}");
}

#[test]
fn a_worker_that_leaves_early_frees_its_place() {
    let mut drive = Drive::new(job(1));
    drive.input(Input::Joined(WorkerId(1)));
    drive.from(1, hello(1));
    assert!(matches!(&drive.input(Input::Left(WorkerId(1), "gone".into()))[..], [Action::Notice(_)]));
    drive.input(Input::Joined(WorkerId(2)));
    assert!(matches!(&drive.from(2, hello(2))[..], [Action::Order(WorkerId(2), Command::Welcome(_))]));
}

#[test]
fn another_layout_is_another_build() {
    let mut drive = Drive::new(job(2));
    for worker in [1, 2] {
        drive.input(Input::Joined(WorkerId(worker)));
        drive.from(worker, hello(40 + worker as u32));
    }
    drive.from(1, prepared(1));
    let actions = drive.from(2, prepared(2));
    assert!(failure(&actions).contains("pid 41") && failure(&actions).contains("pid 42"));
}

#[test]
fn grants_keep_a_window_ahead_of_the_slowest() {
    let (mut drive, first) = Drive::formed(job(2));
    assert_eq!(first, [train(1, 2), train(2, 2)]);
    let ahead = report(&drive.job, 1, 0..2);
    assert_eq!(drive.from(1, Event::Updated { generation: Generation(1), report: ahead }), []);
    let behind = report(&drive.job, 1, 2..4);
    let actions = drive.from(2, Event::Updated { generation: Generation(1), report: behind });
    let [Action::Record(record), one, two] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((record.update, record.learning_rate), (Update(1), 0.0));
    assert_eq!((one, two), (&train(1, 3), &train(2, 3)));
    let actions = drive.update(2);
    assert!(matches!(&actions[1], Action::Log(log) if log.update == Update(2)), "{actions:?}");
}

#[test]
fn reports_that_differ_from_the_plan_end_the_run() {
    type Spoil = fn(&mut UpdateReport);
    let wrong: [(Spoil, &str); 5] = [
        (|report| report.learning_rate = 0.5, "learning rate"),
        (|report| report.grad_norm += 1e-9, "gradient norm"),
        (|report| report.lanes[0].rows = vec![RowId(9), RowId(9)], "the plan says"),
        (|report| report.lanes[0].lane = 0, "computed lanes [0, 3]"),
        (|report| report.losses[3] += 0.5, "has losses"),
    ];
    for (spoil, expected) in wrong {
        let (mut drive, _) = Drive::formed(job(2));
        let right = report(&drive.job, 1, 0..2);
        drive.from(1, Event::Updated { generation: Generation(1), report: right });
        let mut spoilt = report(&drive.job, 1, 2..4);
        spoil(&mut spoilt);
        let actions = drive.from(2, Event::Updated { generation: Generation(1), report: spoilt });
        assert!(failure(&actions).contains(expected), "{}", failure(&actions));
        assert!(failure(&actions).contains("rank 1"), "{}", failure(&actions));
    }
}

/// INV-2: what a group that is gone still says does not count.
#[test]
fn stale_generations_are_dropped() {
    let (mut drive, _) = Drive::formed(job(2));
    let old = report(&drive.job, 1, 0..2);
    assert_eq!(drive.from(1, Event::Updated { generation: Generation(0), report: old }), []);
    assert_eq!(drive.run.view().workers[0].update, Update(0));
}

#[test]
fn a_boundary_evaluates_then_saves_then_goes_on() {
    let mut job = job(2);
    job.validation = Some(rows());
    let cadence = &mut job.training.as_mut().unwrap().cadence;
    (cadence.evaluation, cadence.saving) = (every(3), every(3));
    let (mut drive, _) = Drive::formed(job);
    drive.update(1);
    assert!(!drive.update(2).contains(&train(1, 4)), "no grant passes the boundary");
    assert_eq!(drive.update(3)[1..], [evaluate(1), evaluate(2)]);
    assert_eq!(drive.predict(1, 0..2), []);
    let actions = drive.predict(2, 2..5);
    let [Action::Publish(report, Occasion::Training), receive, rest @ ..] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((report.tally.rows, report.tally.correct, report.predictions.len()), (4, 2, 5));
    assert_eq!(receive, &Action::Receive(WorkerId(1), Update(3)));
    assert_eq!(rest, [save(1, 3), save(2, 3)]);
    assert_eq!(drive.save(3), [commit(3, SavePurpose::Checkpoint)]);
    assert_eq!(drive.input(Input::Committed(Update(3))), [train(1, 5), train(2, 5)]);
}

#[test]
fn the_end_saves_summarises_and_gives_the_results() {
    let mut job = job(2);
    job.validation = Some(rows());
    let (mut drive, _) = Drive::formed(job);
    let last = (1..=6).map(|update| drive.update(update)).last().unwrap();
    assert!(last.ends_with(&[save_final(1, 6), save_final(2, 6)]), "{last:?}");
    assert_eq!(drive.save(6), [commit(6, SavePurpose::Final)]);
    let actions = drive.input(Input::Committed(Update(6)));
    let [Action::Summarise(summary), one, two] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((summary.update, summary.rows, summary.updates, summary.epoch), (Update(6), 20, 6, 2.0));
    assert_eq!((one, two), (&evaluate(1), &evaluate(2)));
    drive.predict(1, 0..2);
    let actions = drive.predict(2, 2..5);
    assert!(matches!(actions[0], Action::Publish(_, Occasion::End)));
    assert_eq!(actions.last(), Some(&Action::Finish(Outcome::Completed)));
    assert_eq!(drive.run.deadline(), None);
    assert_eq!(drive.input(Input::StopRequested), []);
}

/// A run that goes on from the checkpoint of `update`.
fn resumed(update: u64) -> Job {
    let past = Past { update: Update(update), logged: true, evaluated: true, ..Past::default() };
    Job { past, base: Base { update: Update(update), artifacts: Vec::new() }, ..job(2) }
}

#[test]
fn a_resumed_run_that_is_done_only_gives_its_results() {
    let (drive, first) = Drive::formed(resumed(6));
    assert_eq!(first, [Action::Receive(WorkerId(1), Update(6)), save_final(1, 6), save_final(2, 6)]);
    assert_eq!(drive.run.view().update, Update(6));
}

#[test]
fn rows_must_come_once_from_their_share() {
    let job = Job { training: None, validation: Some(rows()), ..job(2) };
    for (worker, rows, expected) in [(1, 0..3, "not in its share"), (2, 3..5, "without row 2")] {
        let (mut drive, first) = Drive::formed(job.clone());
        assert_eq!(first, [evaluate(1), evaluate(2)]);
        let actions = drive.predict(worker, rows);
        let failed = actions.iter().find_map(|action| match action {
            Action::Finish(Outcome::Failed(failure)) => Some(failure.message.clone()),
            _ => None,
        });
        assert!(failed.unwrap().contains(expected));
    }
}

/// A client that opens a session and says nothing must not be taken for a worker of the group.
#[test]
fn a_silent_stranger_does_not_end_the_run() {
    let mut drive = Drive::new(job(1));
    drive.input(Input::Joined(WorkerId(7)));
    drive.input(Input::Joined(WorkerId(8)));
    drive.from(8, hello(8));
    let actions = drive.from(8, prepared(1));
    assert!(matches!(&actions[0], Action::Order(WorkerId(8), Command::Form(_))), "{actions:?}");
    let failed = Failure { kind: FailureKind::Internal, message: "boo".into() };
    assert!(matches!(&drive.from(7, Event::Failed(failed))[..], [Action::Notice(_)]));
}
