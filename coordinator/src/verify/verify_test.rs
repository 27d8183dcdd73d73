use std::fs;
use std::path::PathBuf;

use medley_common::identity::{Digest, Generation, Split, Update, WorkerId};
use medley_common::plan::Plan;
use medley_common::schedule::{Decay, LrSchedule};
use medley_common::spec::TrainSpec;
use tempfile::TempDir;

use super::*;
use crate::archive::fixture::{AGREED, contents, facts, identity, spec, staged, state};
use crate::archive::{
    Archive, Begun, Evaluated, Ledger, LogEntry, ModelSource, Origin, OutputDir, RewindRecord, RunContents,
    RunIdentity, TrainerState,
};
use crate::run::Occasion;
use crate::run::report::{GroupRecord, MemberRecord, UpdateRecord};
use crate::spec::{Criterion, Measured};

/// 50 rows, 8 an update: 7 updates an epoch; 14 updates; 4 lanes.
fn small() -> RunIdentity {
    let schedule = LrSchedule { decay: Decay::linear(), peak: 1e-3, warmup_updates: 3, total_updates: 14 };
    let train = TrainSpec { rows_per_update: 8, lanes: 4, schedule, ..spec() };
    RunIdentity { train, lengths: (0..50).map(|row| 5 + row % 9).collect(), ..identity() }
}

fn true_record(update: u64) -> UpdateRecord {
    let identity = small();
    let mut plan = Plan::new(&identity.train, identity.lengths.clone());
    let (update, epoch) = (Update(update), plan.epoch_at(Update(update)));
    UpdateRecord {
        update,
        attempt: 1,
        epoch,
        learning_rate: identity.train.schedule.at(update, identity.train.schedule.peak),
        loss: 1.0 / update.0 as f64,
        grad_norm: 0.5,
        skipped: false,
        lanes: plan.update(update).lanes,
        workers: [1, 1, 2, 2].map(WorkerId).to_vec(),
        tokens: 70,
        parameters: None,
    }
}

/// Two workers share the lanes.
fn group() -> GroupRecord {
    let member = |worker, lanes| MemberRecord {
        worker: WorkerId(worker),
        host: "node7".to_owned(),
        pid: 4,
        device: "cpu".to_owned(),
        processor: "EPYC, avx512f".to_owned(),
        threads: 1,
        program: Digest([6; 32]),
        lanes,
    };
    GroupRecord { generation: Generation(1), members: vec![member(1, vec![0..2]), member(2, vec![2..4])] }
}

/// A complete run that once went back from update 9 to 8; `spoil` may change what it records.
pub(crate) fn run(spoil: impl Fn(&mut UpdateRecord)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let contents = RunContents { identity: small(), ..contents(None) };
    let archive = Archive::new(OutputDir::open(folder.path()).unwrap(), contents);
    let Begun { mut ledger, .. } = archive.begin(&Origin::Fresh).unwrap();
    ledger.append(Record::Group(group())).unwrap();
    let make = |ledger: &mut Ledger, update| {
        let mut record = true_record(update);
        spoil(&mut record);
        ledger.append(Record::Update(record)).unwrap();
    };
    (1..=9).for_each(|update| make(&mut ledger, update));
    let back = RewindRecord { to: Update(8), reason: "all workers were lost".to_owned() };
    ledger.append(Record::Rewind(back)).unwrap();
    archive.commit(&mut ledger, &staged(&archive, Update(8)), &AGREED, &state(Update(8))).unwrap();
    (9..=14).for_each(|update| make(&mut ledger, update));
    TrainerState::new(&crate::archive::fixture::cadence()).save(folder.path()).unwrap();
    archive.export(&mut ledger, &ModelSource::Staged(&staged(&archive, Update(14))), facts()).unwrap();
    folder
}

/// What is wrong with a run.
fn problems(folder: &Path) -> Vec<String> {
    verify(folder).unwrap().problems.iter().map(ToString::to_string).collect()
}

/// All files of a run but its lock.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false if path.ends_with(".medley.lock") => {}
            false => found.push(path),
        }
    }
    found.sort();
    found
}

#[test]
fn a_true_run_is_proved() {
    let folder = run(|_| {});
    let verdict = verify(folder.path()).unwrap();
    assert!(verdict.holds(), "{verdict}");
    let found = |name| verdict.checks.iter().find(|check| check.name == name).unwrap().found.as_str();
    assert_eq!(found("updates"), "1 to 14 of 14, each applied once; 1 made again after 1 rewinds");
    assert_eq!(found("rows"), "50 x 2 epochs: 100 rows, each exactly once an epoch");
    assert_eq!(found("checkpoints"), "1 of 1 intact");
    assert_eq!(found("outputs"), "4 of 4 intact");
    assert!(found("certificate").starts_with("matches: update 14"));
}

/// Whatever byte of whatever file is changed, it is found, and the file named.
#[test]
fn any_changed_byte_is_found() {
    let folder = run(|_| {});
    let files = files(folder.path());
    assert_eq!(files.len(), 12, "{files:?}");
    for path in files {
        let whole = fs::read(&path).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap();
        let stride = (whole.len() / 400).max(1);
        for place in (0..whole.len()).step_by(stride) {
            let mut changed = whole.clone();
            changed[place] ^= 1 << (place % 8);
            fs::write(&path, changed).unwrap();
            let problems = problems(folder.path());
            assert!(problems.iter().any(|problem| problem.contains(name)), "{name} at {place}: {problems:?}");
        }
        fs::remove_file(&path).unwrap();
        let found = verify(folder.path()).map(|verdict| verdict.holds());
        assert!(!found.unwrap_or(false), "{name} is gone");
        fs::write(&path, whole).unwrap();
    }
    assert_eq!(problems(folder.path()), [""; 0]);
}

/// Not damaged, but untrue: whoever wrote it sealed it as well.
#[test]
fn what_is_not_as_planned_is_named_with_its_line() {
    type Spoil = fn(&mut UpdateRecord);
    let lies: [(Spoil, &str); 6] = [
        (|record| record.lanes.swap(0, 3), "lane 0 does not have the rows of the plan"),
        (|record| record.lanes[0].clone_from(&true_record(3).lanes[0]), "which its epoch has had already"),
        (|record| record.learning_rate += 1e-18, "the schedule says"),
        (|record| record.workers[2] = WorkerId(7), "worker 7 is not of the group"),
        (|record| record.attempt = 0, "in which attempt"),
        (
            |record| record.skipped = true,
            "update 5 is skipped with gradient norm 0.5, in a run that computes in float32",
        ),
    ];
    for (spoil, what) in lies {
        let folder = run(|record| {
            if record.update == Update(5) {
                spoil(record);
            }
        });
        let problems = problems(folder.path());
        let named = problems.iter().any(|problem| problem.starts_with("ledger.jsonl:7: ") && problem.contains(what));
        assert!(named, "{what}: {problems:?}");
    }
}

#[test]
fn what_is_saved_must_be_what_the_update_has_left() {
    let digested =
        |update, digest| run(move |record| record.parameters = (record.update == Update(update)).then_some(digest));
    let verdict = verify(digested(8, AGREED.parameters).path()).unwrap();
    assert!(verdict.holds() && verdict.to_string().contains("the digest of the parameters after 1 of them"));
    for update in [8, 14] {
        let problems = problems(digested(update, Digest([9; 32])).path());
        assert!(problems[0].contains(&format!("were saved after update {update}")), "{problems:?}");
    }
}

#[test]
fn an_incomplete_run_is_proved_as_far_as_it_came() {
    let folder = run(|_| {});
    let lines = fs::read_to_string(folder.path().join(LEDGER_FILE)).unwrap();
    let kept: String = lines.split_inclusive('\n').take(6).collect();
    fs::write(folder.path().join(LEDGER_FILE), kept).unwrap();
    let cut = problems(folder.path());
    assert!(cut.iter().any(|problem| problem.starts_with("ledger.jsonl: has not the line")), "{cut:?}");
    for name in ["medley_run.json", "checkpoint-8/medley.json"] {
        fs::remove_file(folder.path().join(name)).unwrap();
    }
    let verdict = verify(folder.path()).unwrap();
    assert!(verdict.holds(), "{verdict}");
    let text = verdict.to_string();
    assert!(text.contains("1 to 4 of 14") && text.contains("none: the run is not complete"), "{text}");
    assert!(serde_json::to_string(&verdict).unwrap().contains("\"problems\":[]"));
}

#[test]
fn a_folder_without_a_ledger_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let another_programs = folder.path().join("checkpoint-8");
    fs::create_dir(another_programs).unwrap();
    let refused = verify(folder.path()).unwrap_err().to_string();
    assert!(refused.contains("ledger.jsonl does not exist; name the --output_dir of a run"), "{refused}");
}

/// What else there is of the run is still held together.
#[test]
fn a_ledger_that_is_gone_is_the_one_thing_wrong() {
    let folder = run(|_| {});
    fs::remove_file(folder.path().join(LEDGER_FILE)).unwrap();
    let found = problems(folder.path());
    assert_eq!(found, ["ledger.jsonl: does not exist: what the run did cannot be proved; put back a copy"]);
    fs::write(folder.path().join("config.json"), "{ }").unwrap();
    let found = problems(folder.path());
    assert!(found.iter().any(|problem| problem.starts_with("config.json: has been changed")), "{found:?}");
}

#[test]
fn a_learning_rate_that_evaluations_have_lowered_is_known_from_them() {
    let decay = Decay::of("reduce_lr_on_plateau", vec![0.0, 0.5, 0.0, 1e-4, 0.0, 0.0, 0.0, 1e-8]).unwrap();
    let mut identity = small();
    identity.train.schedule = LrSchedule { decay, warmup_updates: 0, ..identity.train.schedule };
    let metric = "loss".to_owned();
    identity.criterion =
        Some(Criterion { metric, greater_is_better: false, load_best: false, patience: None, threshold: 0.0 });
    let evaluation = |update, loss: f64, occasion| {
        let entry = LogEntry([("eval_loss".to_owned(), loss.into())].into());
        Record::Evaluation(Evaluated { update: Update(update), split: Split::Validation, occasion, entry })
    };
    let record = |update, learning_rate| Record::Update(UpdateRecord { learning_rate, ..true_record(update) });
    let told = |identity: &RunIdentity, records: &[Record]| {
        let mut updates = Updates::new(identity.clone());
        let mut verdict = Verdict { checks: Vec::new(), problems: Vec::new() };
        updates.take(1, &Record::Group(group()), &mut verdict);
        (2..).zip(records).for_each(|(line, record)| updates.take(line, record, &mut verdict));
        verdict.problems.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let during = Occasion::Training;
    let lowered = |rate: f64| {
        vec![
            record(1, 1e-3),
            evaluation(1, 0.5, during),
            record(2, 1e-3),
            evaluation(2, 0.6, during),
            // Of a model that is not this one.
            evaluation(2, 0.7, Occasion::End),
            record(3, rate),
        ]
    };
    assert_eq!(told(&identity, &lowered(5e-4)), [""; 0]);
    let problems = told(&identity, &lowered(1e-3));
    assert!(problems[0].contains("update 3 has learning rate 1e-3; the schedule says 5e-4"), "{problems:?}");
    // What was undone lowers nothing.
    let back = Record::Rewind(RewindRecord { to: Update(1), reason: "all workers were lost".to_owned() });
    let mut again = lowered(5e-4);
    again.extend([back, record(2, 1e-3), evaluation(2, 0.4, during), record(3, 1e-3)]);
    assert_eq!(told(&identity, &again), [""; 0]);
    // A ledger that was begun anew goes by what was measured before it.
    let measured = [(1, 0.5), (2, 0.6)].map(|(update, value)| Measured { update: Update(update), value });
    let anew = RunIdentity { start: Update(2), measured: measured.to_vec(), ..identity };
    assert_eq!(told(&anew, &[record(3, 5e-4)]), [""; 0]);
    assert_eq!(told(&anew, &[evaluation(2, 0.6, during), record(3, 5e-4)]), [""; 0], "made again, it counts once");
    assert_eq!(told(&anew, &[record(3, 1e-3)]).len(), 1);
}
