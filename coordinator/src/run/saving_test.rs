//! A save stands beside the phases: what it waits for, and what becomes of it when its senders are lost.

use medley_common::identity::{Digest, Generation, Update, WorkerId};
use medley_common::message::{Command, Event};
use medley_common::save::{Piece, SaveId};

use super::fixture::{Drive, every, failure, forget, job, receive, report, save, save_id, saved};
use super::*;

fn died(worker: u64) -> Input {
    Input::Left(WorkerId(worker), "it was killed by signal 9".into())
}

/// A run that saves after every second update, and is saving update 2.
fn saving(workers: u32) -> Drive {
    let mut job = job(workers);
    job.training.as_mut().unwrap().cadence.saving = every(2);
    let (mut drive, _) = Drive::formed(job);
    for update in [1, 2] {
        step(&mut drive, &(1..=u64::from(workers)).collect::<Vec<_>>(), update);
    }
    drive
}

/// The members of the group report an update.
fn step(drive: &mut Drive, workers: &[u64], update: u64) -> Vec<Action> {
    let shares: Vec<_> = workers.iter().map(|worker| drive.run.shares[&WorkerId(*worker)].clone()).collect();
    let mut actions = Vec::new();
    for (worker, lanes) in workers.iter().zip(shares) {
        let report = report(&drive.job, update, lanes.into_iter().flatten());
        let generation = drive.run.generation;
        actions.extend(drive.from(*worker, Event::Updated { generation, report }));
    }
    actions
}

/// All of the new group connect.
fn formed(drive: &mut Drive, workers: &[u64]) -> Vec<Action> {
    let generation = drive.run.generation;
    workers.iter().flat_map(|worker| drive.from(*worker, Event::Formed { generation })).collect()
}

fn given_up(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Warning(line) if line.contains("is given up")))
}

fn saves(actions: &[Action]) -> Vec<(u64, SaveId, u32)> {
    let order = |action: &Action| match action {
        Action::Order(worker, Command::Save { save, piece, .. }) => Some((worker.0, *save, piece.index)),
        _ => None,
    };
    actions.iter().filter_map(order).collect()
}

#[test]
fn the_next_save_waits_for_the_one_under_way() {
    let mut drive = saving(2);
    assert_eq!(drive.run.view().saving, Some(Update(2)));
    step(&mut drive, &[1, 2], 3);
    assert_eq!(drive.run.view().phase, PhaseName::Training);
    assert!(saves(&step(&mut drive, &[1, 2], 4)).is_empty());
    assert_eq!(drive.run.view().phase, PhaseName::Saving, "at its own boundary");
    drive.save(2);
    let actions = drive.input(Input::Committed(Update(2)));
    let expected = [receive(4, 2), save((1, 2), 4), save((2, 2), 4)];
    assert_eq!(actions[..5], [vec![forget(1, 2), forget(2, 2)], expected.to_vec()].concat());
    assert_eq!(drive.run.view().phase, PhaseName::Training);
    assert_eq!((drive.run.view().checkpoint, drive.run.view().saving), (Some(Update(2)), Some(Update(4))));
}

/// Whoever keeps the state sends what is missing, at once and whatever becomes of the group.
#[test]
fn pieces_of_the_lost_are_sent_by_the_others() {
    let mut drive = saving(2);
    let actions = drive.input(died(2));
    assert_eq!(saves(&actions), [(1, save_id(2), 1)]);
    drive.from(1, saved(1, 2, 1));
    let actions = drive.from(1, saved(2, 2, 1));
    assert!(matches!(actions[..], [Action::Commit(state)] if state.save == save_id(2)), "{actions:?}");
    assert_eq!(drive.run.view().phase, PhaseName::Forming, "the group is still being dissolved");
}

#[test]
fn what_has_arrived_of_the_lost_is_not_sent_again() {
    let mut drive = saving(3);
    let piece =
        |index| Event::Saved { save: save_id(2), piece: Piece { index, count: 3 }, parameters: Digest([1; 32]) };
    drive.from(3, piece(2));
    assert_eq!(saves(&drive.input(died(3))), []);
    assert_eq!(saves(&drive.input(died(2))), [(1, save_id(2), 1)]);
    drive.from(1, piece(0));
    assert!(matches!(drive.from(1, piece(1))[..], [Action::Commit(_)]));
}

/// Worker 3 has taken over a later state from worker 1, and never had the one that is being saved.
#[test]
fn a_save_is_given_up_when_nobody_keeps_it() {
    let mut drive = saving(2);
    step(&mut drive, &[1, 2], 3);
    drive.input(died(2));
    drive.arrive(3);
    drive.stands_by(1, 3, Vec::new());
    formed(&mut drive, &[1, 3]);
    assert_eq!(drive.run.view().saving, Some(Update(2)));
    assert!(!given_up(&drive.input(died(1))), "worker 1 may come back, as long as no group stands");
    drive.stands_by(3, 3, Vec::new());
    let actions = formed(&mut drive, &[3]);
    assert!(given_up(&actions) && actions.contains(&Action::Discard(save_id(2))), "{actions:?}");
    assert_eq!(drive.run.view().saving, None);
}

/// Where the group has the state still, nothing is given up.
#[test]
fn the_end_is_saved_by_whoever_has_taken_it_over() {
    let (mut drive, _) = Drive::formed(job(2));
    (1..=6).for_each(|update| drop(step(&mut drive, &[1, 2], update)));
    drive.input(died(2));
    drive.arrive(3);
    drive.stands_by(1, 6, Vec::new());
    formed(&mut drive, &[1, 3]);
    drive.input(died(1));
    drive.stands_by(3, 6, Vec::new());
    let actions = formed(&mut drive, &[3]);
    let generation = drive.run.generation;
    assert_eq!(saves(&actions), [(3, SaveId { update: Update(6), generation }, 0)], "{actions:?}");
    assert!(!given_up(&actions) && actions.contains(&Action::Discard(save_id(6))));
}

/// The run goes back behind what was being saved, and saves it when it comes by.
#[test]
fn a_save_that_the_run_goes_back_behind_is_void() {
    let mut drive = saving(2);
    drive.input(died(1));
    drive.input(died(2));
    let actions = drive.arrive(3);
    assert!(given_up(&actions), "{actions:?}");
    formed(&mut drive, &[3]);
    step(&mut drive, &[3], 1);
    let actions = step(&mut drive, &[3], 2);
    assert_eq!(saves(&actions), [(3, SaveId { update: Update(2), generation: Generation(2) }, 0)]);
    // INV-2: of the save that is void.
    assert_eq!(drive.from(3, saved(1, 2, 1)), []);
    let actions = drive.from(
        3,
        Event::Saved {
            save: SaveId { update: Update(2), generation: Generation(2) },
            piece: Piece { index: 1, count: 2 },
            parameters: Digest([1; 32]),
        },
    );
    assert!(matches!(&actions[0], Action::Refuse(WorkerId(3), _)), "nobody has asked for that piece: {actions:?}");
}

/// All are lost while the archive makes the newest state durable: the run does not go back behind it.
#[test]
fn what_is_about_to_be_on_the_disk_is_waited_for() {
    let mut drive = saving(2);
    drive.save(2);
    drive.input(died(1));
    drive.input(died(2));
    assert_eq!(drive.run.deadline(), None, "nobody is waited for but the disk");
    drive.arrive(3);
    drive.input(Input::Based(Base { update: Update(2), artifacts: Vec::new() }));
    let actions = drive.input(Input::Committed(Update(2)));
    assert!(
        matches!(&actions[..], [Action::Order(_, Command::Welcome(welcome))] if welcome.start == Update(2)),
        "{actions:?}"
    );
}

#[test]
fn who_alone_keeps_a_save_goes_when_it_is_done() {
    let mut drive = saving(1);
    drive.from(1, Event::Leaving);
    drive.arrive(2);
    step(&mut drive, &[1], 3);
    let actions = step(&mut drive, &[1], 4);
    assert_eq!(drive.run.view().phase, PhaseName::Saving, "{actions:?}");
    let piece = Piece { index: 0, count: 1 };
    drive.from(1, Event::Saved { save: save_id(2), piece, parameters: Digest([1; 32]) });
    let actions = drive.input(Input::Committed(Update(2)));
    assert_eq!(saves(&actions), [(1, save_id(4), 0)], "what it alone holds");
    drive.from(1, Event::Saved { save: save_id(4), piece, parameters: Digest([1; 32]) });
    let actions = drive.input(Input::Committed(Update(4)));
    assert_eq!(actions[0], forget(1, 4));
    assert!(matches!(actions[1], Action::Order(_, Command::Disband { .. })), "{actions:?}");
}

#[test]
fn a_stop_waits_for_the_save_under_way() {
    let mut drive = saving(2);
    drive.input(Input::StopRequested);
    step(&mut drive, &[1, 2], 3);
    step(&mut drive, &[1, 2], 4);
    assert_eq!(drive.run.view().phase, PhaseName::Saving);
    drive.save(2);
    let actions = drive.input(Input::Committed(Update(2)));
    assert_eq!(saves(&actions).len(), 2, "what was made since");
    drive.save(4);
    let actions = drive.input(Input::Committed(Update(4)));
    let stopped = Outcome::Stopped { update: Update(4), saved: Some(Update(4)) };
    assert_eq!(actions.last(), Some(&Action::Finish(stopped)));
}

#[test]
fn a_rank_with_another_copy_is_named() {
    let mut drive = saving(2);
    drive.from(1, saved(1, 2, 1));
    let actions = drive.from(2, saved(2, 2, 9));
    assert!(failure(&actions).contains("different parameters after update 2"), "{}", failure(&actions));
}

/// A queue of commands has an end: one that has all to send is asked for a few at a time.
#[test]
fn a_single_survivor_is_asked_for_a_few_pieces_at_a_time() {
    let mut job = job(4);
    (job.spec.lanes, job.spec.rows_per_update) = (8, 8);
    job.workers = 8;
    job.training.as_mut().unwrap().cadence.saving = every(1);
    let (mut drive, _) = Drive::formed(job);
    step(&mut drive, &[1, 2, 3, 4, 5, 6, 7, 8], 1);
    let save = save_id(1);
    let mut asked = vec![(1, save, 0)];
    for worker in 2..=8 {
        asked.extend(saves(&drive.input(died(worker))).into_iter().filter(|(sender, ..)| *sender == 1));
    }
    assert_eq!(asked.len(), 4, "{asked:?}");
    let mut done = 0;
    while let Some((_, save, index)) = asked.get(done).copied() {
        let piece = Piece { index, count: 8 };
        let actions = drive.from(1, Event::Saved { save, piece, parameters: Digest([1; 32]) });
        asked.extend(saves(&actions));
        done += 1;
        assert!(asked.len() - done <= 4);
    }
    assert_eq!(done, 8, "all pieces, one after the other");
}

/// All are lost while the trained model is made durable, and nothing is to be predicted: the run is complete.
#[test]
fn a_run_whose_model_is_saved_needs_nobody_to_end() {
    let (mut drive, _) = Drive::formed(job(2));
    (1..=6).for_each(|update| drop(step(&mut drive, &[1, 2], update)));
    assert!(matches!(drive.save(6)[..], [Action::Commit(state)] if state.purpose == SavePurpose::Final));
    drive.input(died(1));
    drive.input(died(2));
    let actions = drive.input(Input::Committed(Update(6)));
    assert!(actions.iter().any(|action| matches!(action, Action::Summarise(..))), "{actions:?}");
    assert_eq!(actions.last(), Some(&Action::Finish(Outcome::Completed)));
    // The same where they are lost when it is done, while they leave their group.
    let (mut drive, _) = Drive::formed(job(2));
    (1..=6).for_each(|update| drop(step(&mut drive, &[1, 2], update)));
    drive.save(6);
    let generation = Generation(1);
    drive.from(1, Event::Disconnected { generation, problem: "its network was away".into() });
    drive.input(Input::Committed(Update(6)));
    drive.input(died(1));
    let actions = drive.input(died(2));
    assert_eq!(actions.last(), Some(&Action::Finish(Outcome::Completed)));
}
