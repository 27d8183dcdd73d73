//! What becomes of workers that come back, and of the run while they do not.

use std::time::Duration;

use medley_common::identity::{Digest, Known, ProcessMark, Rank};
use medley_common::message::{Command, Form, Held, Hello, UpdateReport};
use medley_common::save::SaveId;

use super::fixture::{Drive, every, hello, job, prepared, report, rows};
use super::*;

/// A run that two workers have made through update 3, in group 1, and whose coordinator has died.
fn interrupted() -> Job {
    let past = Past {
        update: Update(3),
        losses: vec![0.5, 0.25, 0.125],
        grad_norm: 1.0 / 3.0,
        logged: true,
        evaluated: true,
        groups: [(Generation(1), Update(0))].into(),
        shares: [(WorkerId(1), vec![0..2]), (WorkerId(2), vec![2..4])].into(),
        ..Past::default()
    };
    let mut job = Job { past, ..job(2) };
    job.patience.reattach = Duration::from_secs(4);
    job
}

/// What a member of group 1 holds: the state after `update`, and the reports of it and of the one before.
fn held(job: &Job, before: u64, update: u64) -> Held {
    let lanes = if before == 1 { 0..2 } else { 2..4 };
    let reports: Vec<UpdateReport> =
        (update.max(2) - 1..=update).map(|update| report(job, update, lanes.clone())).collect();
    Held {
        layout: Digest([1; 32]),
        endpoint: "10.0.0.1:4000".into(),
        generation: Generation(1),
        update: Update(update),
        kept: Lanes::new(),
        reports,
        copy: None,
    }
}

/// A worker that was known by `names` opens another session.
fn known_as(drive: &mut Drive, (worker, names): (u64, &[u64]), run: Digest, held: Option<Held>) -> Vec<Action> {
    drive.input(Input::Joined(WorkerId(worker)));
    let Event::Hello(hello) = hello(worker as u32) else { unreachable!() };
    let known = Some(Known { run, names: names.iter().copied().map(WorkerId).collect() });
    drive.from(worker, Event::from(Hello { known, held: held.map(Box::new), ..*hello }))
}

/// Worker 1 comes back as 11, worker 2 as 12.
fn come_back(drive: &mut Drive, worker: u64, held: Held) -> Vec<Action> {
    let run = drive.job.run;
    known_as(drive, (worker, &[worker % 10]), run, Some(held))
}

fn forms(actions: &[Action]) -> Vec<(u64, Form)> {
    let form = |action: &Action| match action {
        Action::Order(worker, Command::Form(form)) => Some((worker.0, form.clone())),
        _ => None,
    };
    actions.iter().filter_map(form).collect()
}

fn is_reattached(actions: &[Action], worker: u64) -> bool {
    let order = |action: &Action| matches!(action, Action::Order(to, Command::Reattach { worker, .. }) if to == worker);
    actions.iter().any(|action| order(action) && matches!(action, Action::Order(to, _) if to.0 == worker))
}

/// What any of them has applied is applied, though the ledger had never heard of it.
#[test]
fn what_the_ledger_lacks_is_in_the_reports() {
    let mut drive = Drive::new(interrupted());
    let (first, second) = (held(&drive.job, 1, 5), held(&drive.job, 2, 4));
    let actions = come_back(&mut drive, 11, first);
    assert!(is_reattached(&actions, 11) && forms(&actions).is_empty(), "it waits for the other: {actions:?}");
    let actions = come_back(&mut drive, 12, second);
    let recorded = actions.iter().filter_map(|action| match action {
        Action::Record(record) => Some((record.update.0, record.workers.iter().map(|worker| worker.0).collect())),
        _ => None,
    });
    assert_eq!(recorded.collect::<Vec<(u64, Vec<u64>)>>(), [(4, vec![1, 1, 2, 2]), (5, vec![1, 1, 2, 2])]);
    let formed = forms(&actions);
    let [(11, first), (12, second)] = &formed[..] else { panic!("{formed:?}") };
    assert_eq!((first.generation, first.update, first.source), (Generation(2), Update(5), Some(Rank(0))));
    assert_eq!(second.rank, Rank(1));
}

#[test]
fn a_newcomer_does_not_throw_the_run_back_before_its_holders_can_come() {
    let mut drive = Drive::new(interrupted());
    drive.input(Input::Joined(WorkerId(11)));
    assert_eq!(drive.from(11, hello(11)), [], "the places are kept");
    let until = drive.run.deadline().unwrap();
    assert_eq!(until - drive.now, Duration::from_secs(4));
    drive.now = until;
    let actions = drive.input(Input::Elapsed);
    let [Action::Warning(line), Action::Order(WorkerId(11), Command::Welcome(_))] = &actions[..] else {
        panic!("{actions:?}")
    };
    assert!(line.contains("2 of the last group did not come back within 4 s"), "{line}");
    assert_eq!(drive.from(11, prepared(1)), [], "one of two, and nobody holds more than the disk");
    let actions = drive.arrive(12);
    assert!(actions.iter().any(|action| matches!(action, Action::Rewind(Update(0), _))), "{actions:?}");
}

/// One that is left goes on, after a while.
#[test]
fn those_that_come_back_go_on_without_the_others() {
    let mut drive = Drive::new(interrupted());
    let second = held(&drive.job, 2, 3);
    come_back(&mut drive, 12, second);
    drive.now = drive.run.deadline().unwrap();
    let formed = forms(&drive.input(Input::Elapsed));
    let [(12, form)] = &formed[..] else { panic!("{formed:?}") };
    assert_eq!((form.update, form.source), (Update(3), None));
}

#[test]
fn a_state_off_the_line_is_of_no_use() {
    let job = interrupted();
    let whole = held(&job, 1, 4);
    // Later than the start of a later group, and without the report of what the ledger lacks.
    let other = Past { groups: [(Generation(1), Update(0)), (Generation(2), Update(2))].into(), ..job.past.clone() };
    let silent = Held { reports: Vec::new(), ..whole.clone() };
    let ahead = Held { update: Update(9), ..whole.clone() };
    for (job, held) in [
        (Job { past: other, ..job.clone() }, whole.clone()),
        (job.clone(), silent),
        (job.clone(), ahead),
        (Job { training: None, validation: Some(rows()), ..job.clone() }, whole.clone()),
    ] {
        let mut drive = Drive::new(job);
        let actions = come_back(&mut drive, 11, held);
        assert!(!is_reattached(&actions, 11), "{actions:?}");
    }
    let mut drive = Drive::new(job);
    assert!(is_reattached(&come_back(&mut drive, 11, whole), 11));
}

/// Taken over in a group that died with its coordinator: it lies on the line of the group that the ledger has.
#[test]
fn a_state_taken_over_in_a_group_that_no_ledger_has_is_of_use() {
    let mut drive = Drive::new(interrupted());
    let (source, newcomer) = (held(&drive.job, 1, 5), Held { reports: Vec::new(), ..held(&drive.job, 2, 5) });
    let run = drive.job.run;
    let actions = known_as(&mut drive, (14, &[3, 4]), run, Some(newcomer));
    assert!(!is_reattached(&actions, 14), "nobody has told of updates 4 and 5 yet: {actions:?}");
    let actions = come_back(&mut drive, 11, source);
    assert!(is_reattached(&actions, 11) && is_reattached(&actions, 14), "{actions:?}");
    let mut drive = Drive::new(interrupted());
    let stray = Held { generation: Generation(0), reports: Vec::new(), ..held(&drive.job, 2, 3) };
    assert!(!is_reattached(&known_as(&mut drive, (14, &[2]), run, Some(stray)), 14), "of no line that is known");
}

/// Each coordinator gives another name; the ledger has one of a group that stood before.
#[test]
fn who_is_back_under_a_third_name_is_waited_for_no_longer() {
    let mut drive = Drive::new(interrupted());
    let (first, second) = (held(&drive.job, 1, 3), held(&drive.job, 2, 3));
    let run = drive.job.run;
    known_as(&mut drive, (21, &[1, 11]), run, Some(first));
    let actions = known_as(&mut drive, (22, &[2, 12, 13]), run, Some(second));
    assert_eq!(forms(&actions).len(), 2, "{actions:?}");
    // One that has lost all it held, or has not built its model again yet, is back as well.
    let mut drive = Drive::new(interrupted());
    let second = held(&drive.job, 2, 3);
    known_as(&mut drive, (21, &[1, 11]), run, None);
    let actions = known_as(&mut drive, (22, &[2]), run, Some(second));
    assert_eq!(forms(&actions).len(), 1, "{actions:?}");
    // What another run has called it says nothing here.
    let mut drive = Drive::new(interrupted());
    let second = held(&drive.job, 2, 3);
    known_as(&mut drive, (21, &[1]), Digest([8; 32]), None);
    assert_eq!(forms(&known_as(&mut drive, (22, &[2]), run, Some(second))), [], "the other may still come");
}

#[test]
fn who_holds_another_run_is_refused_by_name() {
    let mut drive = Drive::new(interrupted());
    let other = held(&drive.job, 1, 3);
    let fetched = Held { generation: Generation(0), update: Update(0), reports: Vec::new(), ..other.clone() };
    let actions = known_as(&mut drive, (12, &[2]), Digest([8; 32]), Some(fetched));
    assert!(!actions.iter().any(|action| matches!(action, Action::Refuse(..))), "it has made nothing: {actions:?}");
    let actions = known_as(&mut drive, (11, &[1]), Digest([8; 32]), Some(other));
    let [Action::Refuse(WorkerId(11), reason)] = &actions[..] else { panic!("{actions:?}") };
    assert!(reason.contains("holds update 3 of another run, 080808080808"), "{reason}");
    assert!(reason.contains("start the worker again to take part"), "{reason}");
}

/// What the last update brings is done once, whether or not the coordinator died over it.
#[test]
fn what_was_left_undone_is_done() {
    let mut job = interrupted();
    let training = job.training.as_mut().unwrap();
    (training.cadence.logging, training.cadence.evaluation) = (every(3), every(3));
    job.validation = Some(rows());
    for (logged, evaluated) in [(false, false), (true, false), (true, true)] {
        (job.past.logged, job.past.evaluated) = (logged, evaluated);
        let mut drive = Drive::new(job.clone());
        let (first, second) = (held(&job, 1, 3), held(&job, 2, 3));
        come_back(&mut drive, 11, first);
        let actions = come_back(&mut drive, 12, second);
        let log = actions.iter().find_map(|action| match action {
            Action::Log(log) => Some((log.update, log.loss, log.grad_norm)),
            _ => None,
        });
        assert_eq!(log, (!logged).then_some((Update(3), 0.875 / 3.0, 1.0 / 3.0)));
        drive.from(11, Event::Formed { generation: Generation(2) });
        let actions = drive.from(12, Event::Formed { generation: Generation(2) });
        let evaluates = |action: &Action| matches!(action, Action::Order(_, Command::Evaluate { .. }));
        assert_eq!(actions.iter().any(evaluates), !evaluated, "{actions:?}");
    }
}

/// A connection that broke, with nobody dead: the state is back before the run has gone to the disk for it.
#[test]
fn a_broken_session_is_no_loss_of_state() {
    let mut job = job(1);
    job.patience.reattach = Duration::from_secs(4);
    let (mut drive, _) = Drive::formed(job);
    for update in [1, 2] {
        let report = report(&drive.job, update, 0..4);
        drive.from(1, Event::Updated { generation: Generation(1), report });
    }
    let actions = drive.input(Input::Left(WorkerId(1), "its connection broke".into()));
    assert!(matches!(actions.last(), Some(Action::Notice(line)) if line.contains("hold update 2")), "{actions:?}");
    let reports = vec![report(&drive.job, 3, 0..4)];
    let back = Held { update: Update(3), reports, ..held(&drive.job, 1, 3) };
    let actions = come_back(&mut drive, 2, back);
    assert!(is_reattached(&actions, 2), "{actions:?}");
    assert!(actions.iter().any(|action| matches!(action, Action::Record(record) if record.update == Update(3))));
    assert_eq!(forms(&actions)[0].1.update, Update(3));
}

/// The coordinator died over a save that training had left behind: those that came back keep the state, and send it.
#[test]
fn a_save_under_way_is_taken_up_again() {
    let mut job = interrupted();
    job.training.as_mut().unwrap().cadence.saving = every(2);
    let kept = |generation| Some(SaveId { update: Update(2), generation: Generation(generation) });
    for (copies, senders) in [([kept(1), kept(1)], 2), ([None, kept(1)], 1), ([None, None], 0)] {
        let mut drive = Drive::new(job.clone());
        for (worker, copy) in (11..).zip(copies) {
            let held = Held { copy, ..held(&job, worker - 10, 3) };
            come_back(&mut drive, worker, held);
        }
        drive.from(11, Event::Formed { generation: Generation(2) });
        let actions = drive.from(12, Event::Formed { generation: Generation(2) });
        let is_save = |action: &&Action| matches!(action, Action::Order(_, Command::Save { .. }));
        assert_eq!(actions.iter().filter(is_save).count(), senders, "{actions:?}");
        let save = SaveId { update: Update(2), generation: Generation(2) };
        assert_eq!(actions.contains(&Action::Receive(save, senders as u32)), senders > 0);
        let notice =
            |action: &Action| matches!(action, Action::Warning(line) if line.contains("save of update 2 is given up"));
        assert_eq!(actions.iter().any(notice), senders == 0, "{actions:?}");
        assert!(matches!(actions.last(), Some(Action::Order(_, Command::Train { .. }))), "training goes on");
    }
}

/// INV-2: a copy of what the run has gone back behind is of no use.
#[test]
fn a_copy_off_the_line_is_let_go() {
    let mut job = interrupted();
    job.training.as_mut().unwrap().cadence.saving = every(2);
    job.past.groups = [(Generation(1), Update(0)), (Generation(2), Update(1))].into();
    let mut drive = Drive::new(job.clone());
    let copy = Some(SaveId { update: Update(2), generation: Generation(1) });
    let held = Held { copy, generation: Generation(2), ..held(&job, 1, 3) };
    let actions = come_back(&mut drive, 11, held);
    assert!(actions.contains(&super::fixture::forget(11, 2)), "{actions:?}");
}

/// Its session broke, and nobody has noticed: it is the same process all the same, and its GPU is its own.
#[test]
fn who_comes_back_before_its_loss_is_noticed_has_its_gpu() {
    let mut job = interrupted();
    job.on_gpus = true;
    let mut drive = Drive::new(job);
    let gpu = |uuid: &str| Some(medley_common::message::GpuUse { uuid: uuid.into(), is_shared: false });
    let mut open = |session: u64, process: u64, uuid: &str| {
        drive.input(Input::Joined(WorkerId(session)));
        let Event::Hello(hello) = hello(1) else { unreachable!() };
        let known = Some(Known { run: drive.job.run, names: vec![WorkerId(1)] });
        let held = Some(Box::new(held(&drive.job, 1, 3)));
        drive.from(session, Event::from(Hello { process: ProcessMark(process), known, held, gpu: gpu(uuid), ..*hello }))
    };
    assert!(is_reattached(&open(11, 7, "GPU-1"), 11));
    let actions = open(12, 7, "GPU-1");
    assert!(is_reattached(&actions, 12), "{actions:?}");
    assert!(actions.contains(&Action::Close(WorkerId(11))), "were that its newer session, it would hang: {actions:?}");
    let actions = open(13, 8, "GPU-1");
    let [Action::Refuse(WorkerId(13), reason)] = &actions[..] else { panic!("another process is not: {actions:?}") };
    assert!(reason.contains("worker 12"), "{reason}");
}

/// A run that is to stop, and whose only worker's session broke unnoticed, saves what that comes back with.
#[test]
fn who_comes_back_before_its_loss_is_noticed_saves_a_run_that_stops() {
    let (mut drive, _) = Drive::formed(job(1));
    let made = report(&drive.job, 1, 0..4);
    drive.from(1, Event::Updated { generation: Generation(1), report: made.clone() });
    drive.input(Input::StopRequested);
    let held = Some(Box::new(Held { reports: vec![made], ..held(&drive.job, 1, 1) }));
    drive.input(Input::Joined(WorkerId(11)));
    let Event::Hello(hello) = hello(1) else { unreachable!() };
    let known = Some(Known { run: drive.job.run, names: vec![WorkerId(1)] });
    let actions = drive.from(11, Event::from(Hello { known, held, ..*hello }));
    assert!(actions.contains(&Action::Close(WorkerId(1))), "{actions:?}");
    assert_eq!(forms(&actions)[0].1.update, Update(1), "{actions:?}");
}

/// One that was asked to leave alone has what another, which still leaves its group, may take over: it stays until then.
#[test]
fn who_was_to_leave_stays_while_others_leave_their_group() {
    let (mut drive, _) = Drive::formed(job(2));
    drive.update(1);
    drive.input(Input::DrainRequested(WorkerId(1)));
    let made = report(&drive.job, 2, 0..2);
    drive.from(1, Event::Updated { generation: Generation(1), report: made.clone() });
    drive.input(Input::Left(WorkerId(1), "its connection broke".into()));
    let reports = vec![report(&drive.job, 1, 0..2), made];
    let back = Held { update: Update(2), reports, ..held(&drive.job, 1, 2) };
    let actions = come_back(&mut drive, 11, back);
    assert!(is_reattached(&actions, 11), "{actions:?}");
    let actions = drive.stands_by(2, 1, Lanes::new());
    let recorded = |action: &Action| matches!(action, Action::Record(record) if record.update == Update(2));
    assert!(actions.iter().any(recorded), "{actions:?}");
    let formed = forms(&actions);
    assert_eq!(
        formed.iter().map(|(worker, form)| (*worker, form.source)).collect::<Vec<_>>(),
        [(11, Some(Rank(0))), (2, Some(Rank(0)))]
    );
}

/// What only one that leaves has told of is recorded before it goes.
#[test]
fn what_a_leaver_alone_has_reported_is_recorded() {
    let mut drive = Drive::new(interrupted());
    let (first, second) = (held(&drive.job, 1, 4), held(&drive.job, 2, 3));
    come_back(&mut drive, 11, first);
    let actions = drive.from(11, Event::Leaving);
    let recorded = |action: &Action| matches!(action, Action::Record(record) if record.update == Update(4));
    assert!(actions.iter().any(recorded), "{actions:?}");
    let actions = come_back(&mut drive, 12, second);
    assert_eq!(forms(&actions).len(), 2, "it hands its state over before it goes: {actions:?}");
}

/// The last of the newcomers makes room for the one that alone holds what the run has come to.
#[test]
fn a_newcomer_makes_room_for_the_only_holder() {
    let mut job = job(1);
    job.patience.reattach = Duration::from_secs(4);
    let (mut drive, _) = Drive::formed(job);
    let made = report(&drive.job, 1, 0..4);
    drive.from(1, Event::Updated { generation: Generation(1), report: made });
    drive.input(Input::Left(WorkerId(1), "its connection broke".into()));
    drive.now = drive.run.deadline().unwrap();
    drive.input(Input::Elapsed);
    drive.input(Input::Joined(WorkerId(2)));
    let actions = drive.from(2, hello(2));
    assert!(matches!(&actions[..], [Action::Order(WorkerId(2), Command::Welcome(_))]), "{actions:?}");
    let back = Held { reports: vec![report(&drive.job, 1, 0..4)], ..held(&drive.job, 1, 1) };
    let actions = come_back(&mut drive, 11, back);
    assert!(actions.iter().any(|action| matches!(action, Action::Dismiss(WorkerId(2), _))), "{actions:?}");
    assert_eq!(forms(&actions)[0].1.update, Update(1));
}

/// Its session breaks before it has left: under its next name it is let go, unless it alone holds the state.
#[test]
fn who_was_to_leave_leaves_under_another_name() {
    for workers in [1, 2] {
        let (mut drive, _) = Drive::formed(job(workers));
        let share = if workers == 1 { 0..4 } else { 0..2 };
        drive.input(Input::DrainRequested(WorkerId(1)));
        let made = report(&drive.job, 1, share.clone());
        drive.from(1, Event::Updated { generation: Generation(1), report: made.clone() });
        if workers == 2 {
            let made = report(&drive.job, 1, 2..4);
            drive.from(2, Event::Updated { generation: Generation(1), report: made });
        }
        drive.input(Input::Left(WorkerId(1), "its connection broke".into()));
        let back = Held { reports: vec![made], ..held(&drive.job, 1, 1) };
        let mut actions = come_back(&mut drive, 11, back);
        if workers == 2 {
            actions.extend(drive.stands_by(2, 1, Lanes::new()));
        }
        let leaves = actions.iter().any(|action| matches!(action, Action::Dismiss(WorkerId(11), _)));
        assert_eq!(leaves, workers == 2, "{actions:?}");
        let group: Vec<u64> = forms(&actions).into_iter().map(|(worker, _)| worker).collect();
        assert_eq!(group, [if workers == 1 { 11 } else { 2 }], "alone, it saves before it goes: {actions:?}");
    }
}
