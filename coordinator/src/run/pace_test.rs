use std::time::Duration;

use medley_common::message::{LaneReport, Timing};

use super::*;

/// What a worker with `lanes` lanes of 100 tokens reports that needs `seconds` a lane to compute.
fn report(update: u64, lanes: u32, seconds: f64) -> UpdateReport {
    let lane = |lane| LaneReport { lane, rows: Vec::new() };
    let (forward_seconds, backward_seconds) = (seconds * f64::from(lanes) / 3.0, seconds * f64::from(lanes) / 1.5);
    let timing = Timing {
        data_seconds: 0.001 * f64::from(lanes),
        forward_seconds,
        backward_seconds,
        wait_seconds: 0.03,
        optimizer_seconds: 0.01,
        ..Timing::default()
    };
    UpdateReport {
        update: Update(update),
        learning_rate: 0.0,
        grad_norm: 1.0,
        skipped: false,
        lanes: (0..lanes).map(lane).collect(),
        losses: Vec::new(),
        tokens: u64::from(lanes) * 100,
        parameters: None,
        timing,
    }
}

/// Notes updates whose reports come at once, but for those of the late worker; `reports` are by worker, from 1.
fn note(paces: &mut Paces, update: u64, reports: Vec<UpdateReport>, late: Option<(u64, Duration)>) -> Vec<Change> {
    let now = Instant::now();
    let reports: Reports = (1..).map(WorkerId).zip(reports).collect();
    for worker in reports.keys() {
        let lag = late.filter(|(late, _)| *late == worker.0).map_or(Duration::ZERO, |(_, lag)| lag);
        paces.arrived(now + lag, *worker, Update(update));
    }
    paces.note(Update(update), &reports)
}

/// A loaded machine makes its workers slow in turn: the log is not flooded, and the status always has it.
#[test]
fn who_is_slow_again_and_again_is_spoken_of_ever_less() {
    let mut paces = Paces::default();
    let mut told = Vec::new();
    let mut slow_spells = 0;
    for update in 1..=600 {
        let is_slow = update % 30 < 15;
        let was_slow = paces.slowness(WorkerId(2)).is_some();
        let reports = vec![report(update, 2, 0.1), report(update, 2, if is_slow { 0.4 } else { 0.1 })];
        let changes = note(&mut paces, update, reports, None);
        let spell = paces.slowness(WorkerId(2)).is_some() && !was_slow;
        slow_spells += u32::from(spell);
        told.extend(changes.iter().filter(|change| matches!(change, Change::Slow(..))).map(|_| slow_spells));
    }
    assert_eq!(slow_spells, 20);
    assert_eq!(told, [1, 2, 4, 8, 16]);
}

#[test]
fn a_slow_worker_is_named_after_five_updates_with_what_is_slow() {
    for workers in [2usize, 3, 6] {
        let mut paces = Paces::default();
        for update in 1..=20 {
            // From update 8 on; it has fewer lanes than the others, and so less to do.
            let slow = if update >= 8 { 0.4 } else { 0.1 };
            let mut reports = vec![report(update, 3, 0.1); workers - 1];
            reports.push(report(update, 2, slow));
            let changes = note(&mut paces, update, reports, None);
            match changes[..] {
                [Change::Slow(worker, Slowness::Compute, times)] if update == 12 => {
                    assert_eq!(worker, WorkerId(workers as u64));
                    assert!((3.5..4.0).contains(&times), "{times}");
                }
                _ => assert_eq!((update == 12, changes), (false, Vec::new())),
            }
        }
        assert_eq!(paces.slowness(WorkerId(workers as u64)), Some(Slowness::Compute));
        assert_eq!(paces.slowness(WorkerId(1)), None, "the others are not fast");
        let phases = paces.phases(WorkerId(1)).unwrap();
        assert!((phases.compute - 0.31).abs() < 1e-9 && (phases.wait - 0.03).abs() < 1e-9, "{phases:?}");
    }
}

#[test]
fn it_is_well_again_once_the_window_is() {
    let mut paces = Paces::default();
    let seconds = |update| if update <= 10 { 0.3 } else { 0.1 };
    let mut changed = Vec::new();
    for update in 1..=30 {
        let reports = vec![report(update, 4, 0.1), report(update, 4, seconds(update))];
        changed.extend(note(&mut paces, update, reports, None).into_iter().map(|change| (update, change)));
    }
    assert!(matches!(changed[..], [(5, Change::Slow(..)), (18, Change::Well(WorkerId(2)))]), "{changed:?}");
}

/// Neither hiccups, nor what is not worth a word, nor a worker whose lanes are empty.
#[test]
fn noise_changes_nothing() {
    let mut paces = Paces::default();
    for update in 1..=200 {
        let hiccup = if update % 3 == 0 { 0.9 } else { 0.1 };
        let other = if update % 4 == 0 { 0.5 } else { 0.12 };
        let reports = vec![report(update, 4, hiccup), report(update, 4, other), report(update, 0, 7.0)];
        assert_eq!(note(&mut paces, update, reports, None), []);
    }
    let mut paces = Paces::default();
    for update in 1..=50 {
        let reports = vec![report(update, 4, 1e-4), report(update, 4, 1e-3)];
        assert_eq!(note(&mut paces, update, reports, None), []);
    }
}

#[test]
fn what_is_slow_is_told_apart() {
    let late = |phase: &dyn Fn(&mut UpdateReport), lag: u64| {
        let mut paces = Paces::default();
        for update in 1..=5 {
            let mut slow = report(update, 4, 0.01);
            phase(&mut slow);
            note(&mut paces, update, vec![report(update, 4, 0.01), slow], Some((2, Duration::from_millis(lag))));
        }
        paces.slowness(WorkerId(2))
    };
    assert_eq!(late(&|_| {}, 0), None);
    assert_eq!(late(&|report| report.timing.data_seconds += 0.2, 0), Some(Slowness::Data));
    assert_eq!(late(&|report| report.timing.optimizer_seconds += 0.2, 0), Some(Slowness::Compute));
    assert_eq!(late(&|_| {}, 200), Some(Slowness::Report));
    assert_eq!(late(&|report| report.timing.wait_seconds += 9.0, 0), None, "it waits for others");
}

/// What a load that passes made slow may stay slow by something else.
#[test]
fn what_makes_one_slow_may_change() {
    let mut paces = Paces::default();
    let mut seen = Vec::new();
    for update in 1..=20 {
        let (seconds, late) = if update <= 6 { (0.1, Some((2, Duration::from_secs(1)))) } else { (4.0, None) };
        note(&mut paces, update, vec![report(update, 2, 0.1), report(update, 2, seconds)], late);
        seen.push(paces.slowness(WorkerId(2)));
    }
    seen.dedup();
    assert_eq!(seen, [None, Some(Slowness::Report), Some(Slowness::Compute)]);
}

#[test]
fn those_that_are_gone_are_forgotten() {
    let mut paces = Paces::default();
    for update in 1..=6 {
        note(&mut paces, update, vec![report(update, 4, 0.1), report(update, 4, 0.5)], None);
    }
    paces.regroup([WorkerId(2), WorkerId(3)].iter());
    assert_eq!((paces.slowness(WorkerId(2)), paces.phases(WorkerId(1))), (Some(Slowness::Compute), None));
    // Alone, it is slower than nobody.
    paces.regroup([WorkerId(2)].iter());
    let changes: Vec<Change> = (7..=17)
        .flat_map(|update| {
            let reports = Reports::from([(WorkerId(2), report(update, 8, 0.5))]);
            paces.note(Update(update), &reports)
        })
        .collect();
    assert_eq!(changes, [Change::Well(WorkerId(2))]);
}
