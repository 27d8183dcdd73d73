use std::num::NonZeroU32;

use medley_common::message::Command;

use super::fixture::{Drive, every, job, rows};
use super::*;
use crate::spec::Criterion;

/// Two workers; evaluated and saved after every update, of 6.
fn choosy(load_best: bool, patience: Option<u32>) -> Job {
    let mut job = job(2);
    let training = job.training.as_mut().unwrap();
    (training.cadence.evaluation, training.cadence.saving) = (every(1), every(1));
    let patience = patience.and_then(NonZeroU32::new);
    let metric = "loss".to_owned();
    training.criterion = Some(Criterion { metric, greater_is_better: false, load_best, patience, threshold: 0.0 });
    job.validation = Some(rows());
    job
}

#[test]
fn evaluations_of_the_past_count_so_a_run_that_comes_back_ends_where_it_would_have() {
    let measured = |update, value| crate::spec::Measured { update: Update(update), value };
    let past = Past {
        update: Update(3),
        logged: true,
        evaluated: true,
        measured: vec![measured(1, 0.5), measured(2, 0.7), measured(3, 0.6)],
        ..Past::default()
    };
    let job =
        Job { past: past.clone(), base: Base { update: Update(3), artifacts: Vec::new() }, ..choosy(true, Some(2)) };
    let run = Run::new(std::time::Instant::now(), job.clone());
    assert_eq!(run.end(), Update(3));
    assert_eq!(run.ranking(), [1, 3, 2].map(Update));
    assert!(!run.agenda.iter().any(|task| matches!(task, Task::Evaluate(_, Occasion::Training))), "{:?}", run.agenda);
    assert!(run.agenda.contains(&Task::Summarise), "{:?}", run.agenda);
    let patient = Job { training: choosy(true, Some(3)).training, ..job };
    let run = Run::new(std::time::Instant::now(), patient);
    assert_eq!((run.end(), run.agenda.len()), (Update(6), 0), "it trains on");
}

#[test]
fn an_evaluation_before_the_first_update_is_made_once() {
    let mut job = job(2);
    job.training.as_mut().unwrap().cadence.evaluates_at_start = true;
    job.validation = Some(rows());
    let (_, actions) = Drive::formed(job.clone());
    let evaluates = |actions: &[Action]| {
        actions.iter().filter(|it| matches!(it, Action::Order(_, Command::Evaluate { .. }))).count()
    };
    assert_eq!(evaluates(&actions), 2, "{actions:?}");
    let past = Past { evaluated: true, ..Past::default() };
    let (_, actions) = Drive::formed(Job { past, ..job });
    assert_eq!(evaluates(&actions), 0, "{actions:?}");
    assert!(actions.iter().any(|it| matches!(it, Action::Order(_, Command::Train { .. }))), "{actions:?}");
}
