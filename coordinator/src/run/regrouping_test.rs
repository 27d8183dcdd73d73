//! How a run goes on when its group changes.

use medley_common::identity::{Digest, Generation, Rank, Update, WorkerId};
use medley_common::message::{Artifact, ArtifactKind, Command, Event, Failure, FailureKind, Form};
use medley_common::save::{Piece, SaveId};

use super::fixture::{Drive, every, failure, forget, job, report, rows};
use super::report::Outcome;
use super::{Action, Base, Input, Job, SavePurpose};

/// The forms that are ordered, by worker.
fn forms(actions: &[Action]) -> Vec<(u64, Form)> {
    let form = |action: &Action| match action {
        Action::Order(worker, Command::Form(form)) => Some((worker.0, form.clone())),
        _ => None,
    };
    actions.iter().filter_map(form).collect()
}

fn disband(worker: u64, generation: u64) -> Action {
    Action::Order(WorkerId(worker), Command::Disband { generation: Generation(generation) })
}

fn died(worker: u64) -> Input {
    Input::Left(WorkerId(worker), "it was killed by signal 9".into())
}

fn notice(action: &Action) -> &str {
    match action {
        Action::Notice(line) | Action::Warning(line) => line,
        other => panic!("{other:?}"),
    }
}

fn updated(drive: &Drive, update: u64, lanes: impl IntoIterator<Item = u32>) -> Event {
    Event::Updated { generation: drive.run.generation, report: report(&drive.job, update, lanes) }
}

#[test]
fn the_lost_lanes_of_the_same_update_are_redone() {
    let (mut drive, _) = Drive::formed(job(2));
    drive.update(1);
    let actions = drive.input(died(2));
    assert!(notice(&actions[0]).contains("rank 1, host node7, pid 2"), "{actions:?}");
    assert!(notice(&actions[0]).contains("training update 2") && notice(&actions[0]).contains("signal 9"));
    assert_eq!(actions[1..], [disband(1, 1)]);
    let formed = forms(&drive.stands_by(1, 1, vec![0..2]));
    let [(1, form)] = &formed[..] else { panic!("{formed:?}") };
    assert_eq!((form.generation, form.update, form.source), (Generation(2), Update(1), None));
    assert_eq!(form.lanes, [vec![0..2, 2..4]], "what it has is a run of its own");
    drive.from(1, Event::Formed { generation: Generation(2) });
    let event = updated(&drive, 2, 0..4);
    let actions = drive.from(1, event);
    let Action::Record(record) = &actions[0] else { panic!("{actions:?}") };
    assert_eq!((record.update, record.attempt, &record.workers), (Update(2), 2, &vec![WorkerId(1); 4]));
}

/// An update is applied by all or by none: who has not, takes it over from who has.
#[test]
fn an_update_that_one_survivor_has_applied_is_applied() {
    let (mut drive, _) = Drive::formed(job(3));
    let event = updated(&drive, 1, 0..2);
    assert_eq!(drive.from(1, event), [], "two reports are missing");
    drive.input(died(3));
    drive.stands_by(1, 1, Vec::new());
    let actions = drive.stands_by(2, 0, vec![2..3]);
    let Action::Record(record) = &actions[0] else { panic!("{actions:?}") };
    assert_eq!((record.update, record.workers.len(), record.attempt), (Update(1), 4, 2));
    let formed = forms(&actions);
    let [(1, first), (2, second)] = &formed[..] else { panic!("{formed:?}") };
    assert_eq!((first.source, first.update, second.rank), (Some(Rank(0)), Update(1), Rank(1)));
    assert_eq!(first.lanes, [vec![0..2], vec![2..4]], "what worker 2 has kept is of the update before");
}

/// The one that applied an update may be the one that dies: then nobody has.
#[test]
fn an_update_that_only_the_dead_have_applied_is_redone() {
    let (mut drive, _) = Drive::formed(job(2));
    let event = updated(&drive, 1, 0..2);
    drive.from(1, event);
    drive.input(died(1));
    let actions = drive.stands_by(2, 0, vec![2..4]);
    let formed = forms(&actions);
    let [(2, form)] = &formed[..] else { panic!("{actions:?}") };
    assert_eq!((form.update, &form.lanes), (Update(0), &vec![vec![0..2, 2..4]]));
    assert_eq!(drive.run.view().update, Update(0));
}

#[test]
fn a_newcomer_takes_part_from_the_next_rest() {
    let (mut drive, _) = Drive::formed(job(2));
    drive.update(1);
    drive.input(died(2));
    drive.stands_by(1, 1, vec![0..2]);
    drive.from(1, Event::Formed { generation: Generation(2) });
    let actions = drive.arrive(3);
    assert!(matches!(&actions[..], [Action::Order(WorkerId(3), Command::Welcome(_))]), "{actions:?}");
    let event = updated(&drive, 2, 0..4);
    let actions = drive.from(1, event);
    assert!(!actions.iter().any(|action| matches!(action, Action::Order(..))), "no new grant: {actions:?}");
    let event = updated(&drive, 3, 0..4);
    let actions = drive.from(1, event);
    assert_eq!(actions.last(), Some(&disband(1, 2)));
    let formed = forms(&drive.stands_by(1, 3, Vec::new()));
    let [(1, first), (3, _)] = &formed[..] else { panic!("{formed:?}") };
    assert_eq!((first.source, first.update), (Some(Rank(0)), Update(3)));
    assert_eq!(first.lanes, [vec![0..2], vec![2..4]]);
}

#[test]
fn where_all_are_lost_the_run_goes_back_to_what_is_on_the_disk() {
    let mut job = job(2);
    job.training.as_mut().unwrap().cadence.saving = every(2);
    let (mut drive, _) = Drive::formed(job);
    drive.update(1);
    drive.update(2);
    drive.save(2);
    let artifacts = vec![Artifact { kind: ArtifactKind::Weights, file_name: "model.safetensors".into(), bytes: 9 }];
    drive.input(Input::Based(Base { update: Update(2), artifacts: artifacts.clone() }));
    drive.input(Input::Committed(Update(2)));
    drive.update(3);
    drive.input(died(1));
    let actions = drive.input(died(2));
    assert!(notice(actions.last().unwrap()).contains("0 of 1 are ready"), "{actions:?}");
    let actions = drive.arrive(3);
    let [Action::Order(_, Command::Welcome(welcome)), Action::Warning(_), Action::Rewind(Update(2), _), ..] =
        &actions[..]
    else {
        panic!("{actions:?}")
    };
    assert_eq!((welcome.start, &welcome.artifacts), (Update(2), &artifacts));
    assert_eq!(forms(&actions)[0].1.update, Update(2));
    drive.from(3, Event::Formed { generation: Generation(2) });
    let event = updated(&drive, 3, 0..4);
    let actions = drive.from(3, event);
    assert!(matches!(&actions[0], Action::Record(record) if record.update == Update(3)), "{actions:?}");
}

#[test]
fn silence_is_a_loss_and_the_silent_is_replaced() {
    let (mut drive, _) = Drive::formed(job(2));
    drive.now += std::time::Duration::from_secs(4);
    drive.from(1, Event::Heartbeat);
    drive.now = drive.run.deadline().unwrap();
    let actions = drive.input(Input::Elapsed);
    let Action::Replace(WorkerId(2), reason) = &actions[0] else { panic!("{actions:?}") };
    assert!(reason.contains("not heard of for 5.0 s"), "{reason}");
    assert!(notice(&actions[1]).contains("pid 2"));
    assert_eq!(drive.from(2, Event::Heartbeat), [], "what it says when it wakes does not count");
}

/// Nobody is heard: it is the coordinator that is cut off, and whoever comes back goes on with what it holds.
#[test]
fn who_is_silent_with_all_others_may_come_back() {
    let mut job = job(2);
    job.patience.reattach = std::time::Duration::from_secs(5);
    let (mut drive, _) = Drive::formed(job);
    drive.update(1);
    drive.now += std::time::Duration::from_secs(1);
    drive.from(2, Event::Heartbeat);
    drive.now = drive.run.deadline().unwrap();
    assert_eq!(drive.input(Input::Elapsed)[0], Action::Part(WorkerId(1)));
    drive.now = drive.run.deadline().unwrap();
    let actions = drive.input(Input::Elapsed);
    assert_eq!(actions[0], Action::Part(WorkerId(2)));
    let waits = |action: &Action| matches!(action, Action::Notice(line) if line.contains("hold update 1 to come back"));
    assert!(actions.iter().any(waits), "{actions:?}");
    assert_eq!(drive.run.deadline(), Some(drive.now + std::time::Duration::from_secs(5)));
}

/// A coordinator that was suspended could not hear anybody.
#[test]
fn silence_does_not_count_while_the_coordinator_itself_sleeps() {
    let (mut drive, _) = Drive::formed(job(2));
    drive.now += std::time::Duration::from_secs(60);
    assert_eq!(drive.input(Input::Overslept), []);
    assert_eq!(drive.input(Input::Elapsed), []);
    assert_eq!(drive.run.deadline(), Some(drive.now + std::time::Duration::from_secs(5)));
    drive.now = drive.run.deadline().unwrap();
    let actions = drive.input(Input::Elapsed);
    assert!(matches!(actions[0], Action::Replace(..)), "{actions:?}");
}

#[test]
fn a_group_that_breaks_again_and_again_ends_the_run() {
    let (mut drive, _) = Drive::formed(job(2));
    let broken = |drive: &Drive| Event::Disconnected { generation: drive.run.generation, problem: "reset".into() };
    for _ in 0..3 {
        let event = broken(&drive);
        assert_eq!(drive.from(1, event.clone()).len(), 2, "both leave");
        assert_eq!(drive.from(2, event), []);
        drive.stands_by(1, 0, Vec::new());
        drive.stands_by(2, 0, Vec::new());
    }
    let event = broken(&drive);
    let actions = drive.from(1, event);
    assert!(failure(&actions).contains("cannot stay connected") && failure(&actions).contains("reset"));
}

#[test]
fn a_worker_that_wants_to_go_goes_at_the_next_rest() {
    let (mut drive, _) = Drive::formed(job(2));
    assert_eq!(drive.from(2, Event::Leaving), []);
    drive.update(1);
    let actions = drive.update(2);
    assert_eq!(actions[actions.len() - 2..], [disband(1, 1), disband(2, 1)]);
    drive.stands_by(1, 2, Vec::new());
    let actions = drive.stands_by(2, 2, Vec::new());
    assert!(matches!(&actions[1], Action::Dismiss(WorkerId(2), _)), "{actions:?}");
    assert_eq!(forms(&actions)[0].1.lanes, [vec![0..4]]);
}

#[test]
fn the_last_worker_goes_when_its_state_is_saved() {
    let (mut drive, _) = Drive::formed(job(1));
    drive.from(1, Event::Leaving);
    let event = updated(&drive, 1, 0..4);
    drive.from(1, event);
    let event = updated(&drive, 2, 0..4);
    let actions = drive.from(1, event);
    assert_eq!(actions.last(), Some(&disband(1, 1)));
    let formed = forms(&drive.stands_by(1, 2, Vec::new()));
    assert_eq!(formed.len(), 1, "it saves, in a group of its own");
    let actions = drive.from(1, Event::Formed { generation: Generation(2) });
    assert!(matches!(&actions[1], Action::Order(_, Command::Save { .. })), "{actions:?}");
    let save = SaveId { update: Update(2), generation: Generation(2) };
    let piece = Piece { index: 0, count: 1 };
    let actions = drive.from(1, Event::Saved { save, piece, parameters: Digest([1; 32]) });
    assert!(matches!(&actions[..], [Action::Commit(state)] if state.purpose == SavePurpose::Checkpoint));
    assert_eq!(drive.input(Input::Committed(Update(2))), [forget(1, 2), disband(1, 2)]);
    let actions = drive.stands_by(1, 2, Vec::new());
    assert!(matches!(&actions[1], Action::Dismiss(WorkerId(1), _)), "{actions:?}");
    assert!(notice(&actions[2]).contains("0 of 1 are ready"));
}

/// A newcomer that does not hold the state yet takes it over from the one that wants to go.
#[test]
fn who_leaves_hands_over_first() {
    let (mut drive, _) = Drive::formed(job(1));
    drive.from(1, Event::Leaving);
    assert!(matches!(&drive.arrive(2)[..], [Action::Order(_, Command::Welcome(_))]), "its place is free");
    for update in [1, 2] {
        let event = updated(&drive, update, 0..4);
        drive.from(1, event);
    }
    let formed = forms(&drive.stands_by(1, 2, Vec::new()));
    let [(1, first), (2, _)] = &formed[..] else { panic!("{formed:?}") };
    assert_eq!((first.source, first.update), (Some(Rank(0)), Update(2)));
    drive.from(1, Event::Formed { generation: Generation(2) });
    let actions = drive.from(2, Event::Formed { generation: Generation(2) });
    assert_eq!(actions, [disband(1, 2), disband(2, 2)]);
    drive.stands_by(1, 2, Vec::new());
    let actions = drive.stands_by(2, 2, Vec::new());
    assert!(matches!(&actions[1], Action::Dismiss(WorkerId(1), _)), "{actions:?}");
    assert_eq!(forms(&actions)[0].0, 2);
}

#[test]
fn predicted_rows_are_not_predicted_again() {
    let (mut drive, _) = Drive::formed(Job { training: None, validation: Some(rows()), ..job(2) });
    drive.predict(1, 0..2);
    drive.input(died(2));
    drive.stands_by(1, 0, Vec::new());
    let actions = drive.from(1, Event::Formed { generation: Generation(2) });
    let [Action::Order(WorkerId(1), Command::Evaluate { rows, .. })] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(*rows, [2..5]);
    let actions = drive.predict(1, 2..5);
    assert!(matches!(&actions[0], Action::Publish(report, _) if report.predictions.len() == 5));
    assert_eq!(actions.last(), Some(&Action::Finish(Outcome::Completed)));
}

#[test]
fn a_death_while_the_archive_commits_does_not_repeat_the_save() {
    let mut job = job(2);
    job.training.as_mut().unwrap().cadence.saving = every(2);
    let (mut drive, _) = Drive::formed(job);
    drive.update(1);
    drive.update(2);
    drive.save(2);
    assert_eq!(drive.input(died(1))[1..], [disband(2, 1)], "nothing is asked for again");
    let formed = forms(&drive.stands_by(2, 2, Vec::new()));
    assert_eq!(formed.len(), 1);
    let actions = drive.from(2, Event::Formed { generation: Generation(2) });
    assert!(matches!(&actions[..], [Action::Order(_, Command::Train { through: Update(4), .. })]), "{actions:?}");
    assert_eq!(drive.input(Input::Committed(Update(2))), [forget(2, 2)]);
}

#[test]
fn a_worker_that_fails_by_itself_costs_no_run() {
    let (mut drive, _) = Drive::formed(job(2));
    let failed = |kind| Event::Failed(Failure { kind, message: "out of memory".into() });
    let actions = drive.from(2, failed(FailureKind::Internal));
    assert!(notice(&actions[0]).contains("out of memory"), "{actions:?}");
    assert_eq!(actions[1], disband(1, 1));
    // A newcomer that cannot read its files is no reason to end a run that works; one of the group is.
    drive.input(Input::Joined(WorkerId(3)));
    drive.from(3, super::fixture::hello(3));
    assert!(matches!(&drive.from(3, failed(FailureKind::Data))[..], [Action::Warning(_)]));
    let actions = drive.from(1, failed(FailureKind::Data));
    assert!(failure(&actions).contains("out of memory"));
}

#[test]
fn too_few_workers_are_waited_for_but_not_for_ever() {
    let (mut drive, _) = Drive::formed(Job { min_workers: 2, ..job(2) });
    drive.input(died(2));
    let actions = drive.stands_by(1, 0, vec![0..2]);
    assert!(notice(actions.last().unwrap()).contains("1 of 2 are ready"), "{actions:?}");
    for _ in 0..20 {
        drive.now += std::time::Duration::from_secs(3);
        drive.from(1, Event::Heartbeat);
    }
    let actions = drive.input(Input::Elapsed);
    assert!(failure(&actions).contains("1 of 2 workers") && failure(&actions).contains("--min_workers"));
    assert!(
        matches!(actions.last(), Some(Action::Finish(Outcome::Failed(failure))) if failure.kind == FailureKind::Lost)
    );
}

/// What a survivor holds is saved by a stop, though it is too few to go on.
#[test]
fn a_stop_saves_what_too_few_workers_hold() {
    let (mut drive, _) = Drive::formed(Job { min_workers: 2, ..job(2) });
    drive.update(1);
    drive.input(died(2));
    drive.stands_by(1, 1, vec![0..2]);
    let formed = forms(&drive.input(Input::StopRequested));
    assert_eq!(formed.len(), 1, "it forms a group of its own");
    let actions = drive.from(1, Event::Formed { generation: Generation(2) });
    assert!(matches!(actions.last(), Some(Action::Order(_, Command::Save { .. }))), "{actions:?}");
}

#[test]
fn a_disk_that_refuses_for_good_ends_the_run() {
    let (mut drive, _) = Drive::formed(job(2));
    (1..=6).for_each(|update| drop(drive.update(update)));
    let failed = Failure { kind: FailureKind::Internal, message: "write model.safetensors: File too large".into() };
    assert!(failure(&drive.input(Input::Broken(failed))).contains("File too large"));
}
