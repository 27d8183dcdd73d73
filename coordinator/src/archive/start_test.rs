use std::fs;

use medley_common::identity::Update;
use medley_common::message::FailureKind;

use super::*;
use crate::archive::fixture::{
    CONTINUE, DISCARD, REPLACE, Writing, begin, begun, checkpoint_of, contents, facts, names, newest, patience, recipe,
    resume, saved, trained,
};
use crate::archive::{Archive, MANIFEST_FILE, Metrics, ModelSource, Origin, WEIGHTS_FILE};
use crate::run::report::TrainSummary;

fn from(path: &Path, existing: Existing) -> StartRequest {
    StartRequest { existing, from: Some(path.to_owned()) }
}

fn reopen(begun: Writing, folder: &Path) -> OutputDir {
    drop(begun);
    OutputDir::open(folder).unwrap()
}

/// The kinds of a ledger's records.
fn kinds(ledger: &Path) -> Vec<String> {
    let lines = fs::read_to_string(ledger).unwrap();
    let kind = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["kind"].as_str().unwrap().into();
    lines.lines().map(kind).collect()
}

fn finished(begun: &mut Writing) {
    trained(begun, 4, &[2, 4]);
    let checkpoint = newest(begun.archive.output().path());
    begun.archive.export(&mut begun.ledger, &ModelSource::Checkpoint(&checkpoint), facts()).unwrap();
    let summary = TrainSummary { update: Update(4), epoch: 1.0, mean_loss: 0.5, rows: 128, updates: 4, seconds: 2.0 };
    Metrics::of_training(&summary, 128, None).save(begun.archive.output()).unwrap();
}

#[test]
fn an_empty_folder_starts_afresh() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("lost+found")).unwrap();
    let output = OutputDir::open(folder.path()).unwrap();
    assert_eq!(output.find_start(&CONTINUE, &recipe()).unwrap().start, Start::Fresh);
}

#[test]
fn a_foreign_folder_is_refused_by_name_and_kept_when_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["notes.txt", "all_results.json"] {
        fs::write(folder.path().join(name), "{}").unwrap();
    }
    fs::create_dir(folder.path().join("checkpoint-500")).unwrap();
    let output = OutputDir::open(folder.path()).unwrap();
    let error = output.find_start(&CONTINUE, &recipe()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "output_dir {} is not empty (it holds all_results.json, checkpoint-500, notes.txt) and has no valid \
             checkpoint to resume from; checkpoint-500: has no medley.json, so Medley did not write or finish it; \
             give --overwrite_output_dir to start afresh in it (files of names that it does not write stay), or choose another \
             --output_dir",
            folder.path().display()
        )
    );
    assert_eq!(output.find_start(&REPLACE, &recipe()).unwrap().start, Start::Fresh);
    let begun = begin(output, &Origin::Fresh, None);
    assert_eq!(begun.removed, [""; 0].map(PathBuf::from));
    let expected = [".medley.lock", "all_results.json", "checkpoint-500", "ledger.jsonl", "notes.txt"];
    assert_eq!(names(folder.path()), expected);
}

/// Its workers may hold what it has made; where none does, it goes back to its start.
#[test]
fn a_run_without_a_checkpoint_goes_on_after_its_ledger() {
    let (folder, mut begun) = begun(None);
    trained(&mut begun, 3, &[]);
    begun.archive.stage((Update(3), 1), &patience()).unwrap();
    // As after a death amid the export.
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    let output = reopen(begun, folder.path());
    for request in [&CONTINUE, &REPLACE] {
        let Start::Ledger(found) = output.find_start(request, &recipe()).unwrap().start else { panic!("not found") };
        assert_eq!((found.recovered.history.last(), found.checkpoint), (Update(3), None));
    }
    assert_eq!(output.find_start(&DISCARD, &recipe()).unwrap().start, Start::Fresh);
    let other = recipe().with("precision", "bf16");
    assert_eq!(output.find_start(&REPLACE, &other).unwrap().start, Start::Fresh, "another recipe's run goes");
    assert!(output.find_start(&CONTINUE, &other).is_err(), "a file that may be anybody's");
    drop(output);
    let begun = resume(folder.path(), None);
    assert_eq!(begun.ledger.last(), Update(0));
    assert_eq!(kinds(begun.ledger.path()), ["run", "update", "update", "update", "rewind"]);
    assert_eq!(names(folder.path()), [".medley.lock", "config.json", "ledger.jsonl"]);
    // A ledger that nobody can read is told of, and begun anew.
    let path = begun.ledger.path().to_owned();
    let output = reopen(begun, folder.path());
    fs::remove_file(folder.path().join("config.json")).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("\"update\":2", "\"update\":7", 1)).unwrap();
    let found = output.find_start(&CONTINUE, &recipe()).unwrap();
    assert_eq!((found.start, found.passed_over.len()), (Start::Fresh, 1));
}

#[test]
fn the_newest_valid_checkpoint_is_resumed_and_later_ones_go() {
    let (folder, mut begun) = begun(None);
    trained(&mut begun, 7, &[2, 4, 6]);
    fs::write(folder.path().join("checkpoint-6").join(WEIGHTS_FILE), "cut").unwrap();
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    let output = reopen(begun, folder.path());
    let found = output.find_start(&CONTINUE, &recipe()).unwrap();
    assert_eq!(checkpoint_of(found.start).update(), Update(4));
    assert_eq!(found.passed_over[0].to_string(), "checkpoint-6: model.safetensors has 3 bytes instead of 15");
    assert!(folder.path().join("checkpoint-6").exists(), "looking changes nothing");

    drop(output);
    let begun = resume(folder.path(), None);
    assert_eq!(begun.removed, [folder.path().join("checkpoint-6")]);
    assert_eq!(begun.ledger.last(), Update(4));
    assert_eq!(begun.ledger.history().rewound(), (1, 3));
    let expected = [".medley.lock", "checkpoint-2", "checkpoint-4", "ledger.jsonl", "notes.txt"];
    assert_eq!(names(folder.path()), expected);
}

#[test]
fn only_damaged_checkpoints_refuse_the_folder() {
    let (folder, mut begun) = begun(None);
    trained(&mut begun, 2, &[2]);
    fs::write(folder.path().join("checkpoint-2").join(MANIFEST_FILE), "{}").unwrap();
    let output = reopen(begun, folder.path());
    let error = output.find_start(&CONTINUE, &recipe()).unwrap_err();
    assert_eq!(error.kind(), FailureKind::Data);
    let error = error.to_string();
    assert!(error.contains("(it holds checkpoint-2, ledger.jsonl)"), "{error}");
    assert!(error.contains("; checkpoint-2: medley.json is not a manifest"), "{error}");
}

#[test]
fn a_complete_run_is_found_and_overwritten_only_when_told() {
    let (folder, mut begun) = begun(None);
    finished(&mut begun);
    fs::write(folder.path().join("notes.txt"), "mine").unwrap();
    let output = reopen(begun, folder.path());
    let Start::Finished(record) = output.find_start(&CONTINUE, &recipe()).unwrap().start else {
        panic!("not finished")
    };
    assert_eq!((record.update, record.epoch), (Update(4), 10.0));
    assert_eq!(record.recipe, recipe());

    let before = names(folder.path());
    assert_eq!(output.find_start(&REPLACE, &recipe()).unwrap().start, Start::Fresh);
    assert_eq!(names(folder.path()), before, "nothing is lost before the new run begins");
    let begun = begin(output, &Origin::Fresh, None);
    assert_eq!(begun.removed.len(), before.len() - 2, "all but the lock and the notes: {:?}", begun.removed);
    assert_eq!(names(folder.path()), [".medley.lock", "ledger.jsonl", "notes.txt"]);
}

#[test]
fn a_complete_run_whose_model_is_damaged_is_resumed() {
    let (folder, mut begun) = begun(None);
    finished(&mut begun);
    fs::remove_file(folder.path().join("vocab.txt")).unwrap();
    let output = reopen(begun, folder.path());
    let found = output.find_start(&CONTINUE, &recipe()).unwrap();
    assert_eq!(checkpoint_of(found.start).update(), Update(4));
    assert!(found.passed_over[0].to_string().starts_with("medley_run.json: vocab.txt: No such file"));
}

#[test]
fn going_back_within_a_folder_makes_it_incomplete() {
    let (folder, mut begun) = begun(None);
    finished(&mut begun);
    let output = reopen(begun, folder.path());
    let request = from(&folder.path().join("checkpoint-2"), Existing::Continue);
    let Start::Checkpoint(checkpoint) = output.find_start(&request, &recipe()).unwrap().start else {
        panic!("not resumed")
    };
    let begun = begin(output, &Origin::Checkpoint(checkpoint.clone()), None);
    assert_eq!(begun.removed, ["medley_run.json", "checkpoint-4"].map(|name| folder.path().join(name)));
    assert_eq!(begun.ledger.last(), Update(2));
    let output = reopen(begun, folder.path());
    assert_eq!(checkpoint_of(output.find_start(&CONTINUE, &recipe()).unwrap().start), *checkpoint);
}

#[test]
fn another_folders_checkpoint_brings_its_ledger() {
    let (elsewhere, mut other) = begun(None);
    trained(&mut other, 3, &[2]);
    let path = elsewhere.path().join("checkpoint-2");

    let (folder, mut own) = begun(None);
    trained(&mut own, 1, &[1]);
    let output = reopen(own, folder.path());
    let error = output.find_start(&from(&path, Existing::Continue), &recipe()).unwrap_err();
    assert!(matches!(error, ArchiveError::AnotherRun { .. }), "{error}");
    let found = output.find_start(&from(&path, Existing::Replace), &recipe()).unwrap();
    let Start::Checkpoint(checkpoint) = found.start else { panic!("{found:?}") };
    let begun = begin(output, &Origin::Checkpoint(checkpoint), None);
    assert_eq!(begun.ledger.last(), Update(2));
    assert_eq!(kinds(begun.ledger.path()), ["run", "update", "update", "checkpoint", "update", "rewind"]);
    assert_eq!(names(folder.path()), [".medley.lock", "ledger.jsonl"]);
    assert_eq!(kinds(other.ledger.path()).len(), 5, "the source stays as it is");

    let foreign = tempfile::tempdir().unwrap();
    fs::write(foreign.path().join("notes.txt"), "mine").unwrap();
    let output = OutputDir::open(foreign.path()).unwrap();
    let error = output.find_start(&from(&path, Existing::Continue), &recipe()).unwrap_err();
    assert!(matches!(error, ArchiveError::Occupied { .. }), "{error}");
    let error = output.find_start(&from(foreign.path(), Existing::Continue), &recipe()).unwrap_err();
    assert!(matches!(error, ArchiveError::InvalidCheckpoint { .. }), "{error}");
}

/// A command with `--overwrite_output_dir` that is typed again after a stop, by a person or by a scheduler.
#[test]
fn an_unfinished_run_of_the_same_recipe_is_not_replaced_by_itself() {
    let (folder, mut begun) = begun(None);
    trained(&mut begun, 5, &[2, 4]);
    let output = reopen(begun, folder.path());
    let start = |request: &StartRequest, recipe: &Recipe| output.find_start(request, recipe).unwrap().start;
    assert_eq!(checkpoint_of(start(&REPLACE, &recipe())).update(), Update(4));
    assert_eq!(start(&REPLACE, &recipe().with("precision", "bf16")), Start::Fresh, "another recipe's run goes");
    assert_eq!(start(&DISCARD, &recipe()), Start::Fresh);

    let (elsewhere, mut other) = self::begun(None);
    trained(&mut other, 6, &[1, 6]);
    for existing in [Existing::Continue, Existing::Replace] {
        let earlier = from(&elsewhere.path().join("checkpoint-1"), existing);
        assert_eq!(checkpoint_of(start(&earlier, &recipe())).update(), Update(4));
    }
    let later = from(&elsewhere.path().join("checkpoint-6"), Existing::Replace);
    assert!(matches!(start(&later, &recipe()), Start::Checkpoint(other) if other.update() == Update(6)));
}

#[test]
fn another_recipe_begins_nothing() {
    let (folder, mut begun) = begun(None);
    trained(&mut begun, 3, &[2]);
    let checkpoint = newest(begun.archive.output().path());
    let output = reopen(begun, folder.path());
    let mut other = contents(None);
    other.identity.recipe = other.identity.recipe.with("precision", "bf16");
    let error = Archive::new(output, other).begin(&Origin::Checkpoint(Box::new(checkpoint))).unwrap_err();
    assert!(error.to_string().contains("precision was \"float32\", now \"bf16\""), "{error}");
    assert_eq!(kinds(&folder.path().join(LEDGER_FILE)).len(), 5);
}

#[test]
fn saving_goes_on_after_a_resume() {
    let (folder, mut begun) = begun(Some(1));
    trained(&mut begun, 3, &[2]);
    let checkpoint = newest(begun.archive.output().path());
    let output = reopen(begun, folder.path());
    let mut begun = begin(output, &Origin::Checkpoint(Box::new(checkpoint)), Some(1));
    trained(&mut begun, 4, &[]);
    assert_eq!(saved(&mut begun, 4).removed, [folder.path().join("checkpoint-2")]);
}
