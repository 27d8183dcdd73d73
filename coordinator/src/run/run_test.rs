//! The rules of the run, one by one: which actions which input brings.

use std::time::Duration;

use medley_common::evaluation::Prediction;
use medley_common::identity::{Digest, RowId, Split};
use medley_common::message::{ArtifactKind, Command, GpuUse, Hello, UpdateReport};
use medley_common::save::Piece;

use super::fixture::{Drive, every, failure, forget, hello, job, prepared, receive, report, rows, save, save_id};
use super::*;

fn commit(update: u64, purpose: SavePurpose) -> Action {
    let (layout, parameters) = (Digest([1; 32]), Digest([1; 32]));
    Action::Commit(SavedState { save: save_id(update), purpose, layout, parameters })
}

fn train(worker: u64, through: u64) -> Action {
    Action::Order(
        WorkerId(worker),
        Command::Train { generation: Generation(1), through: Update(through), peak: job(1).spec.schedule.peak },
    )
}

/// The model alone.
fn save_final(worker: u64, update: u64) -> Action {
    let parts = vec![ArtifactKind::Weights];
    let piece = Piece { index: worker as u32 - 1, count: 2 };
    Action::Order(WorkerId(worker), Command::Save { save: save_id(update), parts, piece })
}

fn evaluate(worker: u64) -> Action {
    let rows = vec![if worker == 1 { 0..2 } else { 2..5 }];
    let (generation, split, examples) = (Generation(1), Split::Validation, Vec::new());
    Action::Order(WorkerId(worker), Command::Evaluate { generation, split, rows, examples })
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

/// Equal bytes are a promise for equal programs; who mixes processors or builds is told, and goes on.
#[test]
fn other_builds_and_processors_are_named() {
    let mut drive = Drive::new(job(2));
    for (worker, program) in [(1, Digest([6; 32])), (2, Digest([7; 32]))] {
        drive.input(Input::Joined(WorkerId(worker)));
        let Event::Hello(hello) = hello(worker as u32) else { unreachable!() };
        let processor = format!("processor {worker}");
        drive.from(worker, Event::from(Hello { program, processor, ..*hello }));
        drive.from(worker, prepared(1));
    }
    drive.from(1, Event::Formed { generation: Generation(1) });
    let actions = drive.from(2, Event::Formed { generation: Generation(1) });
    let [Action::Warning(processors), Action::Warning(builds), ..] = &actions[..] else { panic!("{actions:?}") };
    assert!(processors.contains("different processors (processor 1; processor 2)"), "{processors}");
    assert!(builds.contains("pid 1) and worker 2 (rank 1") && builds.contains("different builds"), "{builds}");
}

#[test]
fn strangers_and_latecomers_are_refused() {
    let mut drive = Drive::new(job(1));
    drive.input(Input::Joined(WorkerId(1)));
    let Event::Hello(old) = hello(1) else { unreachable!() };
    let actions = drive.from(1, Event::from(Hello { version: "0.0.9".into(), ..*old }));
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

/// What a worker says that computes on a GPU.
fn gpu_hello(pid: u32, uuid: &str, is_shared: bool) -> Event {
    let Event::Hello(hello) = hello(pid) else { unreachable!() };
    Event::from(Hello { device: "cuda:0".into(), gpu: Some(GpuUse { uuid: uuid.into(), is_shared }), ..*hello })
}

#[test]
fn a_gpu_has_one_worker_unless_both_share_it() {
    let mut drive = Drive::new(Job { on_gpus: true, ..job(2) });
    (1..=5).for_each(|worker| drop(drive.input(Input::Joined(WorkerId(worker)))));
    let is_welcome = |actions: &[Action]| matches!(actions, [Action::Order(_, Command::Welcome(_))]);
    assert!(is_welcome(&drive.from(1, gpu_hello(41, "GPU-a", true))));
    let actions = drive.from(2, gpu_hello(42, "GPU-a", false));
    let [Action::Refuse(WorkerId(2), reason)] = &actions[..] else { panic!("{actions:?}") };
    assert!(reason.contains("pid 41") && reason.contains("LOCAL_RANK"), "{reason}");
    assert!(is_welcome(&drive.from(3, gpu_hello(43, "GPU-a", true))), "both share it");
    drive.from(1, Event::Leaving);
    drive.input(Input::Left(WorkerId(3), "gone".into()));
    assert!(is_welcome(&drive.from(4, gpu_hello(44, "GPU-a", false))), "one that leaves makes room");
    assert!(matches!(&drive.from(5, hello(45))[..], [Action::Refuse(_, reason)] if reason.contains("--device cuda")));
}

#[test]
fn a_run_on_the_cpu_takes_no_gpu() {
    let mut drive = Drive::new(job(1));
    drive.input(Input::Joined(WorkerId(1)));
    let actions = drive.from(1, gpu_hello(41, "GPU-a", false));
    let [Action::Refuse(WorkerId(1), reason)] = &actions[..] else { panic!("{actions:?}") };
    assert!(reason.contains("cuda:0") && reason.contains("float32") && reason.contains("--device cuda"), "{reason}");
}

#[test]
fn a_worker_that_leaves_early_frees_its_place() {
    let mut drive = Drive::new(job(1));
    drive.input(Input::Joined(WorkerId(1)));
    drive.from(1, hello(1));
    assert!(matches!(&drive.input(Input::Left(WorkerId(1), "gone".into()))[..], [Action::Warning(_)]));
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
    let wrong: [(Spoil, &str); 6] = [
        (|report| report.learning_rate = 0.5, "learning rate"),
        (|report| report.grad_norm += 1e-9, "gradient norm"),
        (|report| report.lanes[0].rows = vec![RowId(9), RowId(9)], "the plan says"),
        (|report| report.lanes[0].lane = 0, "computed lanes [0, 3]"),
        (|report| report.losses[3] += 0.5, "has losses"),
        (|report| report.skipped = true, "skipped update 1; worker 1 made it"),
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

#[test]
fn skipped_updates_are_recorded_and_counted() {
    let (mut drive, _) = Drive::formed(Job { past: Past { skipped: vec![Update(0)], ..Past::default() }, ..job(2) });
    let mut update = |number: u64, skipped| {
        let mut last = Vec::new();
        for (worker, lanes) in [(1, 0..2), (2, 2..4)] {
            let report = UpdateReport { skipped, ..report(&drive.job, number, lanes) };
            last = drive.from(worker, Event::Updated { generation: Generation(1), report });
        }
        last
    };
    assert!(matches!(&update(1, true)[0], Action::Record(record) if record.skipped));
    let actions = update(2, false);
    assert!(matches!(&actions[0], Action::Record(record) if !record.skipped));
    assert!(matches!(&actions[1], Action::Log(log) if log.skipped == 2), "{actions:?}");
    assert_eq!(drive.run.view().skipped, 2);
}

/// INV-3: all else may be equal, because gradients and losses are sums.
#[test]
fn a_rank_with_other_parameters_is_named_by_its_digest() {
    let mut job = Job { workers: 3, ..job(3) };
    job.training.as_mut().unwrap().cadence.digest = every(2);
    let lanes = [0..2, 2..3, 3..4];
    for (worker, parameters, expected) in [
        (1, Some(Digest([9; 32])), ["update 2: worker 1 (rank 0", "2 others have 0202"]),
        (3, Some(Digest([9; 32])), ["update 2: worker 3 (rank 2", "2 others have 0202"]),
        (3, None, ["worker 3 (rank 2", "update 2 without a digest"]),
    ] {
        let (mut drive, _) = Drive::formed(job.clone());
        let mut last = Vec::new();
        for (update, (number, lanes)) in [1, 2].into_iter().flat_map(|u| (1..).zip(lanes.clone()).map(move |w| (u, w)))
        {
            let mut report = report(&drive.job, update, lanes);
            assert_eq!(report.parameters.is_some(), update == 2);
            if (number, update) == (worker, 2) {
                report.parameters = parameters;
            }
            last = drive.from(number, Event::Updated { generation: Generation(1), report });
        }
        expected.iter().for_each(|part| assert!(failure(&last).contains(part), "{}", failure(&last)));
    }
    let (mut drive, _) = Drive::formed(job);
    let mut records = Vec::new();
    for update in 1..=4 {
        for (number, lanes) in (1..).zip(lanes.clone()) {
            let report = report(&drive.job, update, lanes);
            records.extend(drive.from(number, Event::Updated { generation: Generation(1), report }));
        }
    }
    let digest = |action: &Action| match action {
        Action::Record(record) => Some(record.parameters.map(|digest| digest.0[0])),
        _ => None,
    };
    assert_eq!(records.iter().filter_map(digest).collect::<Vec<_>>(), [None, Some(2), None, Some(4)]);
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
    assert_eq!(receive, &super::fixture::receive(3, 2));
    assert_eq!(rest, [save((1, 2), 3), save((2, 2), 3), train(1, 5), train(2, 5)], "at once");
    assert_eq!(drive.save(3), [commit(3, SavePurpose::Checkpoint)]);
    assert_eq!(drive.input(Input::Committed(Update(3))), [forget(1, 3), forget(2, 3)]);
}

/// A coordinator that dies over the record of an evaluation makes it again: nobody is past it by then.
#[test]
fn no_update_is_granted_before_the_ledger_has_the_evaluation() {
    let mut job = job(2);
    job.validation = Some(rows());
    job.training.as_mut().unwrap().cadence.evaluation = every(3);
    let (mut drive, _) = Drive::formed(job);
    (1..=3).for_each(|update| drop(drive.update(update)));
    drive.predict(1, 0..2);
    let predictions = (2..5).map(|row| Prediction { row: RowId(row), logits: vec![0.0; 3], loss: None }).collect();
    let (generation, split) = (Generation(1), Split::Validation);
    let mut answer = |event| drive.run.handle(drive.now, Input::From(WorkerId(2), event));
    answer(Event::Predicted { generation, split, predictions });
    let actions = answer(Event::Evaluated { generation, split });
    assert!(matches!(actions[..], [Action::Publish(..)]), "{actions:?}");
    assert_eq!(drive.input(Input::Published(Update(3))), [train(1, 5), train(2, 5)]);
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
    let [_, _, Action::Summarise(summary, _), one, two] = &actions[..] else { panic!("{actions:?}") };
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
    assert_eq!(first, [receive(6, 2), save_final(1, 6), save_final(2, 6)]);
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
    assert!(matches!(&drive.from(7, Event::Failed(failed))[..], [Action::Refuse(WorkerId(7), _)]));
}
