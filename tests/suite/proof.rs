//! What a run did can be proved, and done again.

use medley_tests::{Scratch, binaries};

use crate::RECIPE;
use crate::ledger::updates;

const RUN: &str = "--num_train_epochs 2 --save_steps 5 --logging_steps 3 --do_eval --validation_file dev.jsonl \
    --do_predict --test_file test.jsonl";

/// Flips a bit in the middle of a file.
fn damage(scratch: &Scratch, name: &str) {
    let mut bytes = std::fs::read(scratch.path(name)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(scratch.path(name), bytes).unwrap();
}

#[test]
fn a_run_is_proved_and_a_changed_byte_named() {
    let scratch = Scratch::new(100);
    scratch.run(&format!("train {RECIPE} {RUN} --workers 2")).expect(0);
    let verified = scratch.run("verify out").expect(0);
    for part in ["1 to 26 of 26", "100 x 2 epochs: 200 rows", "5 of 5 intact", "matches: update 26"] {
        assert!(verified.stdout.contains(part), "{part:?} in {}", verified.stdout);
    }
    // Results that are asked for again belong to it as well.
    scratch.run(&format!("train {RECIPE} {RUN} --workers 1")).expect(0);
    scratch.run("verify out").expect(0);
    // Pictures of it are there, and can be drawn again.
    assert!(scratch.read("out/report.html").contains("26 of 26 updates, complete"));
    scratch.run("report out").expect(0).says(&["the page is out/report.html"]);
    assert!(scratch.read("out/report.html").contains("All is as the ledger says"));
    scratch.run("report out other").expect(64).says(&["medley compare RUN RUN"]);
    scratch.run("report out --output train.jsonl").expect(65).says(&["train.jsonl", "is no page", "--output"]);
    scratch.run("report model").expect(65).says(&["ledger.jsonl"]);
    let certificate = scratch.json("out/medley_run.json");
    let inputs = &certificate["content"]["inputs"];
    assert_eq!(inputs["train_file"], scratch.sha256("train.jsonl"));
    assert_eq!(inputs["tokenizer.json"], scratch.sha256("model/tokenizer.json"));
    assert_eq!(inputs["config.json"], scratch.sha256("model/config.json"));
    assert_eq!(inputs["initial_weights_sha256"], scratch.sha256("model/model.safetensors"));
    let files = &certificate["content"]["files"];
    assert_eq!(files["model.safetensors"]["sha256"], scratch.sha256("out/model.safetensors"));
    for program in ["medley", "medley-worker"] {
        let digest = scratch.sha256(binaries().join(program).to_str().unwrap());
        assert_eq!(certificate["content"]["programs"][program], digest);
    }
    // And of the workers wherever they ran, as each of them says.
    let worker = scratch.sha256(binaries().join("medley-worker").to_str().unwrap());
    let hosts = certificate["content"]["hosts"].as_array().unwrap();
    assert!(!hosts.is_empty() && hosts.iter().all(|host| host["program"] == worker), "{hosts:?}");
    for name in [
        "out/ledger.jsonl",
        "out/checkpoint-10/optimizer.safetensors",
        "out/model.safetensors",
        "out/predictions.jsonl",
        "out/medley_run.json",
    ] {
        let whole = std::fs::read(scratch.path(name)).unwrap();
        damage(&scratch, name);
        let found: serde_json::Value =
            serde_json::from_str(&scratch.run("verify out --json").expect(65).stdout).unwrap();
        scratch.run("report out --output wrong.html").expect(65);
        let problems = found["problems"].as_array().unwrap();
        let file = name.trim_start_matches("out/").split('/').next().unwrap();
        assert!(problems.iter().any(|problem| problem["file"] == file), "{name}: {found}");
        std::fs::write(scratch.path(name), whole).unwrap();
    }
}

/// Results are added to a ledger that is whole, or to a new one: a damaged one is refused before anything is computed.
#[test]
fn the_ledger_of_a_complete_run_is_damaged_then_lost() {
    let scratch = Scratch::new(40);
    let train = format!("train {RECIPE} --num_train_epochs 1 --workers 1");
    let evaluate = format!("{train} --do_eval --validation_file dev.jsonl");
    scratch.run(&train).expect(0);
    let whole = scratch.read("out/ledger.jsonl");
    damage(&scratch, "out/ledger.jsonl");
    for again in [&train, &evaluate] {
        let refused = scratch.run(again).expect(65).says(&["ledger.jsonl:", "move it away"]);
        assert!(!refused.stderr.contains("joined"), "{}", refused.stderr);
    }
    std::fs::remove_file(scratch.path("out/ledger.jsonl")).unwrap();
    scratch.run(&train).expect(0).says(&["warning: out has no ledger.jsonl any more"]);
    let lost = scratch.run("verify out").expect(65);
    assert!(lost.stdout.contains("ledger.jsonl: does not exist: what the run did cannot be proved"), "{}", lost.stdout);
    scratch.run(&evaluate).expect(0).says(&["a new one begins with the next result"]);
    let begun = scratch.run("verify out").expect(65);
    for found in ["none of 5", "matches: update 5", "after update 5: what came before is not proved", "1 thing is"] {
        assert!(begun.stdout.contains(found), "{found:?} in {}", begun.stdout);
    }
    scratch.run(&format!("{evaluate} --per_device_eval_batch_size 3")).expect(0);
    scratch.write("out/ledger.jsonl", &whole);
    let other = scratch.run("verify out").expect(65);
    assert!(other.stdout.contains("ledger.jsonl: has not the line"), "{}", other.stdout);
}

/// Between saves, too, all ranks have the same weights, at any number of them, and the ledger has the proof.
#[test]
fn digests_are_taken_when_due_and_are_equal() {
    let digests = |workers| {
        let scratch = Scratch::new(100);
        scratch.run(&format!("train {RECIPE} {RUN} --digest_steps 4 --workers {workers}")).expect(0);
        let table = scratch.run("verify out").expect(0).stdout;
        assert!(table.contains("the digest of the parameters after 6 of them"), "{table}");
        let taken = updates(&scratch).into_iter().filter_map(|(number, update)| Some((number, update.parameters?)));
        let taken: Vec<(u64, String)> = taken.collect();
        assert_eq!(taken.iter().map(|(number, _)| *number).collect::<Vec<_>>(), [4, 8, 12, 16, 20, 24]);
        let saved = scratch.json("out/checkpoint-20/medley.json")["content"]["parameters"].clone();
        assert_eq!(saved, taken[4].1, "the checkpoint's digest is of the same kind");
        let replayed = scratch.run("replay out --from-checkpoint 5 --updates 7 --workers 2").expect(0);
        assert!(replayed.says(&["parameters after 3 of them, the last update 12"]).code == Some(0));
        taken
    };
    assert_eq!(digests(1), digests(3));
}

/// With another number of workers, to the bit; and with other rows not at all.
#[test]
fn updates_are_made_again() {
    let scratch = Scratch::new(100);
    scratch.run(&format!("train {RECIPE} {RUN} --workers 2")).expect(0);
    let before = scratch.read("out/ledger.jsonl");
    scratch
        .run("replay out --from-checkpoint 5 --updates 7 --workers 3")
        .expect(0)
        .says(&["updates 6 to 12, made again, are the ledger's to the bit", "parameters after 1 of them"]);
    scratch.run("replay out --from-checkpoint 0 --updates 2").expect(0).says(&["updates 1 to 2, made again"]);
    assert_eq!(scratch.read("out/ledger.jsonl"), before);
    scratch.run("replay out --from-checkpoint 7 --updates 2").expect(65).says(&["checkpoint-7", "checkpoint-10"]);
    scratch.run("replay out --from-checkpoint 20 --updates 7").expect(65).says(&["through 26"]);
    let rows = scratch.read("train.jsonl");
    scratch.write("train.jsonl", &rows.lines().skip(1).collect::<Vec<_>>().join("\n"));
    scratch.run("replay out --from-checkpoint 5 --updates 2").expect(78).says(&["train_rows_sha256"]);
}
