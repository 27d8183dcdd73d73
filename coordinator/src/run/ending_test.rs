//! How runs end before their work is done.

use std::time::Duration;

use medley_common::identity::{Generation, Update};
use medley_common::message::{Command, Event, Failure, FailureKind};

use super::fixture::{Drive, every, failure, job, receive, report, rows, save, saved};
use super::report::Outcome;
use super::{Action, Input, Occasion};

#[test]
fn a_stop_saves_where_the_grants_end() {
    let (mut drive, _) = Drive::formed(job(2));
    drive.update(1);
    assert_eq!(drive.input(Input::StopRequested), [], "update 3 is granted");
    assert!(matches!(&drive.update(2)[..], [Action::Record(_), Action::Log(_)]));
    let actions = drive.update(3);
    assert_eq!(actions[1..], [receive(3, 2), save((1, 2), 3), save((2, 2), 3)]);
    drive.save(3);
    let actions = drive.input(Input::Committed(Update(3)));
    assert_eq!(actions.last(), Some(&Action::Finish(Outcome::Stopped { update: Update(3), saved: Some(Update(3)) })));
}

#[test]
fn who_will_not_wait_says_so() {
    let (mut drive, _) = Drive::formed(job(2));
    drive.input(Input::StopRequested);
    assert_eq!(drive.input(Input::StopRequested), [], "asked again is asked once");
    let actions = drive.input(Input::StopAtOnce);
    assert_eq!(actions.last(), Some(&Action::Finish(Outcome::Stopped { update: Update(0), saved: None })));
}

#[test]
fn ranks_with_other_parameters_end_the_run() {
    let (mut drive, _) = Drive::formed(job(2));
    (1..=6).for_each(|update| drop(drive.update(update)));
    drive.from(1, saved(1, 6, 1));
    let actions = drive.from(2, saved(2, 6, 2));
    assert!(failure(&actions).contains("rank 1") && failure(&actions).contains("different parameters"));
}

#[test]
fn a_run_does_not_wait_for_workers_for_ever() {
    let mut drive = Drive::new(job(2));
    assert_eq!(drive.run.deadline(), Some(drive.now + Duration::from_secs(60)));
    drive.now += Duration::from_secs(60);
    let actions = drive.input(Input::Elapsed);
    assert!(failure(&actions).contains("0 of 2 workers"));
}

#[test]
fn a_diverged_run_says_so() {
    let (mut drive, _) = Drive::formed(job(1));
    let mut nan = report(&drive.job, 1, 0..4);
    nan.losses[0] = f32::NAN;
    let actions = drive.from(1, Event::Updated { generation: Generation(1), report: nan });
    assert!(failure(&actions).contains("diverged"), "{}", failure(&actions));
}

/// The resumed run starts after the boundary: an evaluation that is due there is made before the stop.
#[test]
fn a_stop_at_a_boundary_makes_the_evaluation_that_is_due() {
    let mut job = job(1);
    job.validation = Some(rows());
    job.training.as_mut().unwrap().cadence.evaluation = every(2);
    let (mut drive, _) = Drive::formed(job);
    drive.input(Input::StopRequested);
    let mut actions = Vec::new();
    for update in [1, 2] {
        let report = report(&drive.job, update, 0..4);
        actions = drive.from(1, Event::Updated { generation: Generation(1), report });
    }
    assert!(matches!(actions.last(), Some(Action::Order(_, Command::Evaluate { .. }))), "{actions:?}");
    let actions = drive.predict(1, 0..5);
    assert!(matches!(&actions[0], Action::Publish(_, Occasion::Training)), "{actions:?}");
    assert_eq!(actions.last(), Some(&save((1, 1), 2)));
}

/// Every rank computes the same gradient: nobody would fare better.
#[test]
fn a_worker_whose_gradient_is_no_number_ends_the_run() {
    let (mut drive, _) = Drive::formed(job(2));
    let failed = Failure { kind: FailureKind::Diverged, message: "update 3: NaN".into() };
    let actions = drive.from(2, Event::Failed(failed));
    assert!(failure(&actions).contains("rank 1") && failure(&actions).contains("update 3: NaN"));
}
