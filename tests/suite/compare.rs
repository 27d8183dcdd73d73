//! Runs side by side.

use medley_tests::Scratch;
use rustix::process::Signal;
use serde_json::Value;

use crate::RECIPE;

const RUN: &str = "--num_train_epochs 1 --do_eval --validation_file dev.jsonl --evaluation_strategy steps --eval_steps 5 \
    --save_steps 5";

#[test]
fn runs_are_laid_side_by_side() {
    let scratch = Scratch::new(100);
    let command = |out: &str, more: &str| {
        let recipe = RECIPE.replace("_dir out", &format!("_dir {out}"));
        format!("train {recipe} {RUN} {more}")
    };
    scratch.run(&command("one", "--workers 1 --do_predict --test_file test.jsonl")).expect(0);
    scratch.run(&command("other", "--workers 2 --learning_rate 1e-4 --validation_file test.jsonl")).expect(0);
    let mut running = scratch.start(&command("cut", "--workers 2 --num_train_epochs 400"));
    running.wait_for("saved cut/checkpoint-5");
    running.signal(Signal::INT);
    running.end().expect(75);

    let found = scratch.run("compare one other cut").expect(0).says(&["the page is comparison.html"]).stdout;
    let lines: Vec<&str> = found.lines().collect();
    let head: Vec<&str> = lines[0].split("  ").map(str::trim).filter(|head| !head.is_empty()).collect();
    assert_eq!(head[..5], ["run", "learning_rate", "max_steps", "warmup_steps", "test accuracy"], "{found}");
    let row = |name: &str| {
        let line = lines.iter().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {found}"));
        line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect::<Vec<_>>()
    };
    let (one, other) = (row("one "), row("other "));
    assert!(one[4].contains(" to ") && one.contains(&"13 of 13"), "{found}");
    assert_eq!((other[1], other[2], other[4]), ("0.0001", "13", "-"), "{found}");
    let certificate = scratch.json("one/medley_run.json");
    let digest = certificate["content"]["parameters"].as_str().unwrap();
    assert_eq!(one.last(), Some(&&digest[..12]));
    assert_eq!(row("cut ").last(), Some(&"-"), "it has no model yet");
    for note in ["note: cut is not complete: update ", "note: their validation files differ"] {
        assert!(found.contains(note), "{note}: {found}");
    }
    let page = scratch.read("comparison.html");
    assert!(page.contains("<b>other</b>: 13 of 13 updates, complete") && page.contains("class=\"legend\""));

    let json: Value = serde_json::from_str(&scratch.run("compare one other --json").expect(0).stdout).unwrap();
    assert_eq!(json["differing_settings"], serde_json::json!(["learning_rate"]));
    let results = scratch.json("one/all_results.json");
    assert_eq!(json["runs"][0]["results"], results);
    assert_eq!(
        (&json["runs"][1]["workers"], &json["runs"][1]["state"]),
        (&serde_json::json!([2, 2]), &"complete".into())
    );
}

#[test]
fn what_is_no_comparison_is_refused() {
    let scratch = Scratch::new(20);
    scratch.run(&format!("train {RECIPE} --num_train_epochs 1 --workers 1")).expect(0);
    scratch.run("compare out").expect(64).says(&["medley report RUN draws one"]);
    scratch.run("compare out model/../out").expect(64).says(&["are the same folder"]);
    scratch.run("compare out model").expect(65).says(&["model is not the folder of a run", "--output_dir"]);
    scratch.run("compare out gone").expect(65).says(&["gone: there is no such folder"]);
    std::fs::create_dir(scratch.path("copy")).unwrap();
    for entry in std::fs::read_dir(scratch.path("out")).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), scratch.path("copy").join(entry.file_name())).unwrap();
        }
    }
    let found = scratch.run("compare out copy").expect(0).stdout;
    assert!(found.contains("note: out and copy are copies of one run"), "{found}");
    // What is under the page's name and no page stays.
    scratch.run("compare out copy --output train.jsonl").expect(65).says(&["train.jsonl", "is no page"]);
}
