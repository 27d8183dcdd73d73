use medley_common::evaluation::Tally;
use medley_common::identity::Split;

use super::*;
use crate::archive::faults;
use crate::archive::fixture::{cadence, contents, record};
use crate::archive::{LEDGER_FILE, Ledger};

fn setting() -> Setting {
    Setting {
        origin: Origin::Fresh,
        cadence: cadence(),
        train_rows: 11_232,
        trained_parameters: None,
        eval_batch_rows: 8,
        test_rows: Vec::new(),
        labels: Vec::new(),
        inputs: BTreeMap::new(),
        programs: BTreeMap::new(),
        lost: None,
        until: None,
        tracking: Tracking::default(),
    }
}

fn entries() -> Vec<Entry> {
    let log = TrainLog { update: Update(2), epoch: 0.5, loss: 1.0, grad_norm: 2.0, learning_rate: 1e-5, skipped: 0 };
    let tally = Tally { rows: 4, correct: 3, loss_sum: 2.0 };
    let (split, update, predictions) = (Split::Validation, Update(2), Vec::new());
    let report = EvaluationReport { split, update, epoch: 0.5, tally, predictions, labels: Vec::new(), seconds: 2.0 };
    vec![
        Entry::Group(GroupRecord { generation: medley_common::identity::Generation(1), members: Vec::new() }),
        Entry::Update(record(1)),
        Entry::Update(record(2)),
        Entry::Log(log),
        Entry::Evaluation(report, Occasion::Training),
        Entry::Update(record(3)),
    ]
}

/// Carries the entries out on this thread, under its faults; the ledger's text and what was answered.
fn recorded(patience: &Patience) -> (String, Vec<Answer>) {
    let folder = tempfile::tempdir().unwrap();
    let output = OutputDir::open(folder.path()).unwrap();
    let (sender, receiver) = mpsc::channel(16);
    entries().into_iter().for_each(|entry| sender.try_send(entry).unwrap());
    drop(sender);
    let (answer, mut answers) = mpsc::unbounded_channel();
    let place = Place::Run(Box::new(Archive::new(output, contents(None))));
    let (slot, _uploads) = watch::channel(None);
    follow(Scribe::new(place, setting(), slot, answer.clone(), patience.clone()), receiver, &answer, patience);
    drop(answer);
    let path = folder.path().join(LEDGER_FILE);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(Ledger::recover(&path).unwrap().history.last(), Update(3));
    (text, std::iter::from_fn(|| answers.try_recv().ok()).collect())
}

/// A disk that refuses for a while, at whatever change: nothing is lost, nothing is written twice.
#[test]
fn nothing_is_lost_or_doubled_by_a_disk_that_refuses() {
    let quick = Patience::new(|_| {}, || true).brisk();
    let (expected, answers) = recorded(&quick);
    let updates = answers.iter().filter(|answer| matches!(answer, Answer::Recorded(_))).count();
    assert_eq!((answers.len(), updates), (5, 3), "{answers:?}");
    let published = |answer: &Answer| matches!(answer, Answer::Input(Input::Published(Update(2))));
    assert!(answers.iter().any(published), "{answers:?}");
    assert_eq!(expected.lines().count(), 1 + 1 + 3 + 1 + 1);
    for errno in [faults::FULL, faults::ILL] {
        for change in 0.. {
            faults::fail(change, 2, errno);
            let (text, answers) = recorded(&quick);
            if !faults::heal() {
                assert!(change > 5);
                break;
            }
            assert_eq!(text, expected, "errno {errno} at change {change}");
            assert_eq!(answers.iter().filter(|answer| matches!(answer, Answer::Recorded(_))).count(), 3);
        }
    }
}
