//! What becomes of workers that are to leave, and of those that take their places.

use std::time::Duration;

use medley_common::identity::{Digest, Known};
use medley_common::message::{Command, GpuUse, Held, Hello, UpdateReport};

use super::fixture::{Drive, hello, job, prepared, report};
use super::*;

/// A run of one worker that has made `update` and is to leave, and somebody who has come to take its place.
fn succeeded(workers: u32, gpu: Option<&str>) -> Drive {
    let mut job = job(workers);
    job.on_gpus = gpu.is_some();
    job.patience.reattach = Duration::from_secs(4);
    let mut drive = Drive::new(job);
    for worker in [1, 2] {
        greet(&mut drive, (worker, worker), &[], None, gpu);
        if worker == 1 {
            drive.from(1, prepared(1));
            drive.from(1, Event::Formed { generation: Generation(1) });
            let made = made(&drive);
            drive.from(1, Event::Updated { generation: Generation(1), report: made });
            drive.input(Input::DrainRequested(WorkerId(1)));
        }
    }
    drive
}

fn made(drive: &Drive) -> UpdateReport {
    report(&drive.job, 1, 0..4)
}

/// A process says who it is, in a session.
fn greet(
    drive: &mut Drive,
    (session, process): (u64, u64),
    names: &[u64],
    held: Option<Held>,
    gpu: Option<&str>,
) -> Vec<Action> {
    drive.input(Input::Joined(WorkerId(session)));
    let Event::Hello(hello) = hello(process as u32) else { unreachable!() };
    let known = Known { run: drive.job.run, names: names.iter().copied().map(WorkerId).collect() };
    let gpu = gpu.map(|uuid| GpuUse { uuid: uuid.into(), is_shared: false });
    let known = Some(known).filter(|known| !known.names.is_empty());
    drive.from(session, Event::from(Hello { known, held: held.map(Box::new), gpu, ..*hello }))
}

/// What the first worker holds.
fn held(drive: &Drive) -> Held {
    Held {
        layout: Digest([1; 32]),
        endpoint: "10.0.0.1:4000".into(),
        generation: Generation(1),
        update: Update(1),
        kept: Lanes::new(),
        reports: vec![made(drive)],
        copy: None,
    }
}

fn forms(actions: &[Action]) -> Vec<(u64, Update)> {
    let form = |action: &Action| match action {
        Action::Order(worker, Command::Form(form)) => Some((worker.0, form.update)),
        _ => None,
    };
    actions.iter().filter_map(form).collect()
}

fn goes(actions: &[Action], worker: u64) -> bool {
    let goes = |action: &Action| match action {
        Action::Dismiss(who, _) | Action::Replace(who, _) | Action::Refuse(who, _) => who.0 == worker,
        _ => false,
    };
    actions.iter().any(goes)
}

/// Its session breaks before it has handed over: it is waited for, and its successor is neither sent away for it nor has
/// the run go back.
#[test]
fn a_leaver_that_comes_back_hands_over_to_its_successor() {
    for is_noticed in [true, false] {
        let mut drive = succeeded(1, None);
        drive.from(2, prepared(1));
        if is_noticed {
            let actions = drive.input(Input::Left(WorkerId(1), "its connection broke".into()));
            assert_eq!(forms(&actions), [], "it alone holds update 1: {actions:?}");
        }
        let back = held(&drive);
        let actions = greet(&mut drive, (11, 1), &[1], Some(back), None);
        assert!(!goes(&actions, 2) && !goes(&actions, 11), "{actions:?}");
        assert_eq!(forms(&actions), [(11, Update(1)), (2, Update(1))]);
    }
}

/// NCCL takes no two ranks on one GPU: what the one that leaves holds is saved, and its successor starts from that.
#[test]
fn a_successor_on_the_same_gpu_waits_until_the_leaver_is_gone() {
    let mut drive = succeeded(1, Some("GPU-1"));
    drive.from(2, prepared(1));
    // The updates that it was granted come first.
    let rest =
        |actions: &[Action]| actions.iter().any(|action| matches!(action, Action::Order(_, Command::Disband { .. })));
    let granted = (2..6).find(|update| {
        let report = report(&drive.job, *update, 0..4);
        rest(&drive.from(1, Event::Updated { generation: Generation(1), report }))
    });
    let last = granted.expect("a rest");
    let actions = drive.stands_by(1, last, Lanes::new());
    assert_eq!(forms(&actions), [(1, Update(last))], "{actions:?}");
    // It may come back, too: that its successor has the GPU by now is no matter.
    let mut drive = succeeded(1, Some("GPU-1"));
    drive.from(2, prepared(1));
    drive.input(Input::Left(WorkerId(1), "its connection broke".into()));
    let back = held(&drive);
    let actions = greet(&mut drive, (11, 1), &[1], Some(back), Some("GPU-1"));
    assert_eq!(forms(&actions), [(11, Update(1))], "{actions:?}");
}

/// One that came before its session broke, and never heard its name, is known by its process.
#[test]
fn a_leaver_that_never_heard_its_name_leaves() {
    let mut drive = succeeded(2, None);
    drive.input(Input::DrainRequested(WorkerId(2)));
    drive.input(Input::Left(WorkerId(2), "its connection broke".into()));
    assert!(goes(&greet(&mut drive, (12, 2), &[], None, None), 12));
    assert!(!goes(&greet(&mut drive, (13, 3), &[], None, None), 13), "another process");
}

/// Who has nothing that is not on the disk is not kept to save it.
#[test]
fn a_leaver_that_holds_nothing_goes_at_once() {
    let mut job = job(2);
    job.min_workers = 2;
    let (mut drive, _) = Drive::formed(job);
    drive.update(1);
    for worker in [1, 2] {
        drive.input(Input::Left(WorkerId(worker), "it died".into()));
    }
    drive.arrive(3);
    assert!(goes(&drive.from(3, Event::Leaving), 3));
}

/// A place is kept for one that may come back: whoever waits for it is not one too many.
#[test]
fn nobody_is_refused_a_place_that_is_kept() {
    let mut job = job(1);
    job.patience.reattach = Duration::from_secs(8);
    let (mut drive, _) = Drive::formed(job);
    let made = report(&drive.job, 1, 0..4);
    drive.from(1, Event::Updated { generation: Generation(1), report: made });
    drive.input(Input::Joined(WorkerId(2)));
    drive.from(2, hello(2));
    drive.input(Input::Left(WorkerId(1), "its connection broke".into()));
    drive.now += Duration::from_secs(6);
    assert_eq!(drive.input(Input::Elapsed), []);
    // A coordinator that was suspended could not hear who came back.
    drive.now += Duration::from_secs(30);
    drive.input(Input::Overslept);
    assert_eq!(drive.input(Input::Elapsed), []);
    drive.now = drive.run.deadline().unwrap();
    let actions = drive.input(Input::Elapsed);
    assert!(matches!(actions.last(), Some(Action::Order(WorkerId(2), Command::Welcome(_)))), "{actions:?}");
    // Nor is it taken for silent, which had nothing to say so far.
    assert_eq!(drive.run.deadline(), Some(drive.now + drive.job.patience.heartbeat));
    assert_eq!(drive.input(Input::Elapsed), []);
}

/// Too few are there for a group in which it could hand over: what it holds is saved.
#[test]
fn a_leaver_saves_where_too_few_are_there_to_take_over() {
    let mut job = job(3);
    job.min_workers = 3;
    let (mut drive, _) = Drive::formed(job);
    for (worker, lanes) in drive.run.shares.clone() {
        let report = report(&drive.job, 1, lanes.into_iter().flatten());
        drive.from(worker.0, Event::Updated { generation: Generation(1), report });
    }
    for worker in [2, 3] {
        drive.input(Input::Left(WorkerId(worker), "it died".into()));
    }
    drive.stands_by(1, 1, Lanes::new());
    assert_eq!(forms(&drive.arrive(4)), []);
    assert_eq!(forms(&drive.from(1, Event::Leaving)), [(1, Update(1)), (4, Update(1))]);
}

/// Who has left had its share all the same.
#[test]
fn what_a_leaver_has_computed_is_recorded_as_its_own() {
    let (mut drive, _) = Drive::formed(job(2));
    drive.from(1, Event::Leaving);
    drive.input(Input::Left(WorkerId(2), "its connection broke".into()));
    assert!(goes(&drive.stands_by(1, 0, Lanes::new()), 1));
    let back = Held { reports: vec![report(&drive.job, 1, 2..4)], ..held(&drive) };
    let actions = greet(&mut drive, (12, 2), &[2], Some(back), None);
    let recorded = actions.iter().find_map(|action| match action {
        Action::Record(record) => Some(record.workers.iter().map(|worker| worker.0).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(recorded, Some(vec![1, 1, 2, 2]), "{actions:?}");
}

/// Words of a session that its process has left behind come late: they end that one, and nothing else.
#[test]
fn late_words_of_a_session_that_is_left_behind_change_nothing() {
    let (mut drive, _) = Drive::formed(job(1));
    let Event::Hello(first) = hello(1) else { unreachable!() };
    drive.input(Input::Joined(WorkerId(5)));
    let late = drive.from(5, Event::from(Hello { session: 0, ..*first }));
    assert_eq!(late, [Action::Close(WorkerId(5))]);
    assert!(drive.run.roster.is_ranked(WorkerId(1)));
}

/// The final model alone is none to go on from: who leaves before the results are there leaves a checkpoint.
#[test]
fn the_last_that_leaves_before_the_results_leaves_a_checkpoint() {
    let mut job = job(1);
    job.validation = Some(super::fixture::rows());
    job.test = Some(super::fixture::rows());
    let (mut drive, _) = Drive::formed(job);
    for update in 1..=6 {
        let report = report(&drive.job, update, 0..4);
        drive.from(1, Event::Updated { generation: Generation(1), report });
    }
    let saved = |drive: &Drive| {
        let piece = medley_common::save::Piece { index: 0, count: 1 };
        let save = drive.run.saving.as_ref().expect("a save").save;
        Event::Saved { save, piece, parameters: Digest([1; 32]) }
    };
    let event = saved(&drive);
    let actions = drive.from(1, event);
    assert!(matches!(&actions[..], [Action::Commit(state)] if state.purpose == SavePurpose::Final), "{actions:?}");
    drive.input(Input::Committed(Update(6)));
    drive.from(1, Event::Leaving);
    drive.predict(1, 0..5);
    let actions = drive.stands_by(1, 6, Lanes::new());
    assert_eq!(forms(&actions), [(1, Update(6))], "{actions:?}");
    drive.from(1, Event::Formed { generation: Generation(2) });
    let event = saved(&drive);
    let actions = drive.from(1, event);
    assert!(matches!(&actions[..], [Action::Commit(state)] if state.purpose == SavePurpose::Checkpoint), "{actions:?}");
}
