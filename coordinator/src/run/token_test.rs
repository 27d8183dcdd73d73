//! The token of a group: from rank 0 to all its other members, once, and to nobody else.

use medley_common::message::{Command, Token};

use super::fixture::{Drive, failure, hello, job, prepared};
use super::*;

fn token(byte: u8) -> Token {
    Token::new(vec![byte; 128]).unwrap()
}

fn tells(generation: u64, byte: u8) -> Event {
    Event::Token { generation: Generation(generation), token: token(byte) }
}

/// The orders to these workers to connect with a token.
fn passed(workers: impl IntoIterator<Item = u64>, generation: u64, byte: u8) -> Vec<Action> {
    let order = |worker| {
        let command = Command::Token { generation: Generation(generation), token: token(byte) };
        Action::Order(WorkerId(worker), command)
    };
    workers.into_iter().map(order).collect()
}

/// A run of three workers whose first group is being connected.
fn forming() -> Drive {
    let mut drive = Drive::new(job(3));
    (1..=3).for_each(|worker| drop(drive.arrive(worker)));
    assert!(matches!(drive.run.phase, Phase::Forming(_)));
    drive
}

#[test]
fn rank_0_tells_all_others() {
    let mut drive = forming();
    assert_eq!(drive.from(1, tells(1, 7)), passed([2, 3], 1, 7));
    assert!(!format!("{:?}", drive.run).contains("Token"), "nothing of it is kept");
    for worker in 1..=3 {
        drive.from(worker, Event::Formed { generation: Generation(1) });
    }
    assert!(matches!(drive.run.phase, Phase::Training(_)));
}

#[test]
fn a_token_that_is_told_twice_ends_the_run_by_name() {
    let mut drive = forming();
    drive.from(1, tells(1, 7));
    let actions = drive.from(1, tells(1, 7));
    let said = failure(&actions);
    assert!(said.contains("worker 1 (rank 0") && said.contains("a token out of turn"), "{said}");
}

#[test]
fn the_token_of_another_rank_ends_the_run_by_name() {
    let mut drive = forming();
    let actions = drive.from(2, tells(1, 7));
    let said = failure(&actions);
    assert!(said.contains("worker 2 (rank 1") && said.contains("a token out of turn"), "{said}");
}

#[test]
fn a_token_of_a_group_that_works_ends_the_run_by_name() {
    let (mut drive, _) = Drive::formed(job(2));
    assert!(failure(&drive.from(1, tells(1, 7))).contains("a token out of turn"));
}

#[test]
fn who_is_in_no_group_is_sent_away_with_its_token() {
    let mut drive = forming();
    drive.input(Input::Joined(WorkerId(4)));
    drive.from(4, hello(4));
    let actions = drive.from(4, tells(1, 7));
    assert!(matches!(&actions[..], [Action::Refuse(WorkerId(4), _)]), "{actions:?}");
    assert_eq!(drive.from(1, tells(1, 8)), passed([2, 3], 1, 8), "the group goes on");
}

#[test]
fn the_next_group_has_a_token_of_its_own() {
    let mut drive = forming();
    assert_eq!(drive.from(1, tells(0, 7)), [], "of a group that is gone");
    drive.input(Input::Left(WorkerId(3), "gone".into()));
    assert_eq!(drive.from(1, tells(1, 7)), [], "on its way when the group was dissolved");
    (1..=2).for_each(|worker| drop(drive.stands_by(worker, 0, Lanes::new())));
    drive.arrive(4);
    assert_eq!(drive.run.generation, Generation(2));
    assert_eq!(drive.from(1, tells(1, 7)), []);
    assert_eq!(drive.from(1, tells(2, 9)), passed([2, 4], 2, 9));
}

#[test]
fn a_group_that_needs_no_token_is_asked_for_none() {
    let mut drive = Drive::new(job(1));
    drive.input(Input::Joined(WorkerId(1)));
    drive.from(1, hello(1));
    drive.from(1, prepared(1));
    let actions = drive.from(1, Event::Formed { generation: Generation(1) });
    assert!(matches!(&actions[..], [Action::Order(_, Command::Train { .. })]), "{actions:?}");
}
