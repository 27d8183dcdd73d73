use medley_common::identity::{Generation, Update, WorkerId};
use medley_common::message::{Command, Event};

use super::Job;
use super::action::{Action, Input, SavePurpose};
use super::fixture::{Drive, every, job, save};

fn trains(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Order(_, Command::Train { .. })))
}

fn saves(action: &Action) -> bool {
    matches!(action, Action::Order(_, Command::Save { .. }))
}

/// Asked once or twice: one save, at the next rest, after which training goes on.
#[test]
fn a_checkpoint_that_is_asked_for_is_saved_at_the_next_rest() {
    let (mut drive, _) = Drive::formed(job(2));
    drive.update(1);
    assert_eq!(drive.input(Input::CheckpointRequested), []);
    assert_eq!(drive.input(Input::CheckpointRequested), []);
    assert!(!trains(&drive.update(2)), "workers come to rest");
    let actions = drive.update(3);
    let ordered: Vec<_> = actions.iter().filter(|action| saves(action)).cloned().collect();
    assert_eq!(ordered, [save((1, 2), 3), save((2, 2), 3)]);
    assert!(trains(&actions), "and go on meanwhile: {actions:?}");
    let actions = drive.save(3);
    assert!(matches!(&actions[..], [Action::Commit(state)] if state.purpose == SavePurpose::Checkpoint), "{actions:?}");
    drive.input(Input::Committed(Update(3)));
    assert!(trains(&drive.update(4)), "nothing is left of it");
}

#[test]
fn what_is_saved_anyway_is_not_saved_twice() {
    let mut cadenced = job(2);
    cadenced.training.as_mut().unwrap().cadence.saving = every(2);
    let (mut drive, _) = Drive::formed(cadenced);
    drive.update(1);
    drive.input(Input::CheckpointRequested);
    assert!(drive.update(2).contains(&save((1, 2), 2)));
    // Asked again while that is saved: there is nothing newer.
    assert_eq!(drive.input(Input::CheckpointRequested), []);
    drive.save(2);
    drive.input(Input::Committed(Update(2)));
    assert!(!drive.update(3).iter().any(saves), "nobody rests for it");
    let (mut drive, _) = Drive::formed(Job { training: None, validation: Some(super::fixture::rows()), ..job(2) });
    assert_eq!(drive.input(Input::CheckpointRequested), [], "nothing is trained");
}

/// As if its system had asked it to end; who is asked twice leaves once, and nobody else does.
#[test]
fn a_worker_that_is_drained_leaves_and_the_others_go_on() {
    let (mut drive, _) = Drive::formed(job(2));
    drive.update(1);
    assert_eq!(drive.input(Input::DrainRequested(WorkerId(7))), []);
    for _ in 0..2 {
        assert_eq!(drive.input(Input::DrainRequested(WorkerId(2))), []);
    }
    drive.update(2);
    let actions = drive.update(3);
    assert!(actions.iter().any(|action| matches!(action, Action::Order(_, Command::Disband { .. }))), "{actions:?}");
    drive.stands_by(1, 3, Vec::new());
    let actions = drive.stands_by(2, 3, Vec::new());
    assert!(actions.iter().any(|action| matches!(action, Action::Dismiss(WorkerId(2), _))), "{actions:?}");
    assert!(trains(&drive.from(1, Event::Formed { generation: Generation(2) })));
}

/// One that only waits for a place is sent away at once.
#[test]
fn who_waits_for_a_place_can_be_sent_away() {
    let (mut drive, _) = Drive::formed(job(2));
    drive.input(Input::Joined(WorkerId(3)));
    drive.from(3, super::fixture::hello(3));
    let actions = drive.input(Input::DrainRequested(WorkerId(3)));
    assert!(matches!(&actions[..], [Action::Dismiss(WorkerId(3), _)]), "{actions:?}");
}

/// Lies and noise of those that are not in the group end their own sessions alone.
#[test]
fn who_speaks_out_of_turn_is_sent_away_and_the_run_goes_on() {
    let generation = Generation(1);
    let lies = [
        Event::Formed { generation },
        Event::StandingBy { generation, update: Update(99), kept: Vec::new() },
        Event::Disconnected { generation, problem: "all left".to_owned() },
        super::fixture::prepared(2),
    ];
    let (mut drive, _) = Drive::formed(job(2));
    for (worker, lie) in (3..).zip(lies) {
        drive.input(Input::Joined(WorkerId(worker)));
        let actions = drive.from(worker, lie);
        let [Action::Refuse(_, reason)] = &actions[..] else { panic!("{actions:?}") };
        assert!(reason.contains("out of turn"), "{reason}");
    }
    assert!(trains(&drive.update(1)));
}
