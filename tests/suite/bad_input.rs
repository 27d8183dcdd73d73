//! Bad input is named before training starts, and nothing is written over.

use medley_tests::Scratch;

use crate::RECIPE;

const ONE: &str = "--num_train_epochs 1 --workers 1";

/// Runs with `train.jsonl` replaced by `content`; the error must say all of `parts`.
fn rows(content: &[u8], parts: &[&str]) {
    let scratch = Scratch::new(10);
    std::fs::write(scratch.path("train.jsonl"), content).unwrap();
    let ended = scratch.run(&format!("train {RECIPE} {ONE}")).expect(65).says(parts);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    assert!(!scratch.path("out/model.safetensors").exists());
}

const GOOD: &str = r#"{"gold_label": "neutral", "sentence1": "a b", "sentence2": "c"}"#;

#[test]
fn rows_that_cannot_be_read_are_named_by_line() {
    rows(b"", &["train.jsonl", "holds no row"]);
    rows(b"\n\n  \n", &["train.jsonl", "holds no row"]);
    rows(format!("{GOOD}\nnot json\n").as_bytes(), &["train.jsonl:2"]);
    rows(b"[1, 2]", &["train.jsonl:1", "object"]);
    rows(br#"{"gold_label": "neutral", "sentence1": "a"}"#, &["train.jsonl:1", "sentence2"]);
    rows(br#"{"gold_label": "neutral", "sentence1": "a", "sentence2": 7}"#, &["train.jsonl:1", "sentence2"]);
    let unknown = GOOD.replace("neutral", "maybe");
    rows(unknown.as_bytes(), &["train.jsonl:1", "\"maybe\"", "entailment, neutral or contradiction"]);
    rows(b"{\"gold_label\": \"neutral\", \"sentence1\": \"\xff\", \"sentence2\": \"c\"}", &["train.jsonl:1", "UTF-8"]);
    rows(&vec![b'x'; 50 << 20], &["train.jsonl:1"]);
}

#[test]
fn rows_that_can_be_read_are() {
    let scratch = Scratch::new(10);
    let skipped = GOOD.replace("neutral", "-");
    scratch.write("train.jsonl", &format!("\u{feff}{GOOD}\r\n\r\n{skipped}\r\n{GOOD}"));
    scratch.run(&format!("train {RECIPE} {ONE}")).expect(0).says(&["skipped"]);
    assert_eq!(scratch.json("out/train_results.json")["train_samples"], 2);
}

#[test]
fn unlabelled_rows_can_be_predicted() {
    let scratch = Scratch::new(10);
    scratch.write("test.jsonl", r#"{"sentence1": "a b", "sentence2": "c"}"#);
    scratch.run(&format!("train {RECIPE} {ONE} --do_predict --test_file test.jsonl")).expect(0);
    assert_eq!(scratch.read("out/predict_results.txt").lines().count(), 2);
    assert!(scratch.json("out/predict_results.json").get("predict_accuracy").is_none());
}

#[test]
fn missing_files_are_named() {
    let scratch = Scratch::new(10);
    let missing = RECIPE.replace("train.jsonl", "nowhere.jsonl");
    let ended = scratch.run(&format!("train {missing} {ONE}")).says(&["nowhere.jsonl"]);
    assert_ne!(ended.code, Some(0));
    let missing = RECIPE.replace("_path model ", "_path no/such-model ");
    let ended = scratch.run(&format!("train {missing} {ONE}")).says(&["no/such-model"]);
    assert_ne!(ended.code, Some(0));
}

#[test]
fn unreadable_weights_are_named() {
    let scratch = Scratch::new(10);
    let weights = std::fs::read(scratch.path("model/model.safetensors")).unwrap();
    std::fs::write(scratch.path("model/model.safetensors"), &weights[..weights.len() / 2]).unwrap();
    scratch.run(&format!("train {RECIPE} {ONE}")).expect(65).says(&["model.safetensors"]);
    let config = scratch.read("model/config.json").replace("\"intermediate_size\": 64", "\"intermediate_size\": 96");
    scratch.write("model/config.json", &config);
    std::fs::write(scratch.path("model/model.safetensors"), &weights).unwrap();
    scratch
        .run(&format!("train {RECIPE} {ONE}"))
        .expect(65)
        .says(&["bert.encoder.layer.0.intermediate.dense.weight", "bert.encoder.layer.1.output.dense.weight"]);
}

#[test]
fn what_was_there_is_not_written_over() {
    let scratch = Scratch::new(10);
    std::fs::create_dir(scratch.path("out")).unwrap();
    scratch.write("out/thesis.txt", "ten years of work");
    let ended = scratch.run(&format!("train {RECIPE} {ONE}")).says(&["--overwrite_output_dir"]);
    assert_ne!(ended.code, Some(0));
    let left = std::fs::read_dir(scratch.path("out")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(left.into_iter().all(|name| name == "thesis.txt" || name == ".medley.lock"));
    scratch.write("out/config.json", "another program's");
    let named = ["note: config.json in out will be replaced"];
    scratch.run(&format!("train {RECIPE} {ONE} --overwrite_output_dir")).expect(0).says(&named);
    assert_eq!(scratch.read("out/thesis.txt"), "ten years of work");
}

#[test]
fn training_does_not_replace_the_model_it_starts_from() {
    let scratch = Scratch::new(10);
    let before = scratch.sha256("model/model.safetensors");
    let own = RECIPE.replace("--output_dir out", "--output_dir model");
    scratch.run(&format!("train {own} {ONE} --overwrite_output_dir")).expect(78).says(&["--output_dir"]);
    assert_eq!(scratch.sha256("model/model.safetensors"), before);
    std::fs::create_dir(scratch.path("out")).unwrap();
    std::fs::rename(scratch.path("model"), scratch.path("out/checkpoint-9")).unwrap();
    let own = RECIPE.replace("_path model ", "_path out/checkpoint-9 ");
    scratch.run(&format!("train {own} {ONE} --overwrite_output_dir")).expect(78).says(&["out/checkpoint-9"]);
}

#[test]
fn training_does_not_replace_the_rows_it_reads() {
    let scratch = Scratch::new(10);
    std::fs::create_dir(scratch.path("out")).unwrap();
    std::fs::rename(scratch.path("train.jsonl"), scratch.path("out/ledger.jsonl")).unwrap();
    let before = scratch.sha256("out/ledger.jsonl");
    let own = RECIPE.replace("--train_file train.jsonl", "--train_file out/ledger.jsonl");
    let ended = scratch.run(&format!("train {own} {ONE} --overwrite_output_dir")).expect(78);
    ended.says(&["--train_file out/ledger.jsonl", "move it"]);
    assert_eq!(scratch.sha256("out/ledger.jsonl"), before);
}

#[test]
fn labels_in_another_order_are_not_guessed() {
    let scratch = Scratch::new(10);
    let alone = "train --model_name_or_path model --do_eval --validation_file dev.jsonl --output_dir out --workers 1";
    let labels = "--labels contradiction,neutral,entailment";
    scratch.run(&format!("{alone} {labels}")).expect(78).says(&["give --labels entailment,neutral,contradiction"]);
    scratch.run(alone).expect(0);
}

#[test]
fn a_port_in_use_is_named() {
    let scratch = Scratch::new(10);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = scratch.run(&format!("serve {RECIPE} {ONE} --listen {address}")).says(&[&address]);
    assert_ne!(ended.code, Some(0));
}

#[test]
fn flags_that_are_not_supported_are_named() {
    let scratch = Scratch::new(10);
    scratch.run(&format!("train {RECIPE} {ONE} --deepspeed ds.json")).expect(64).says(&["--deepspeed"]);
    scratch.run(&format!("train {RECIPE} {ONE} --no_such_flag")).expect(64).says(&["--no_such_flag"]);
    scratch.run(&format!("train {RECIPE} {ONE} --fp16")).expect(0).says(&["fp16", "float32"]);
}
