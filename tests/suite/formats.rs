//! Rows come from JSON lines, CSV and TSV, with columns and labels of any name, one sentence or two.

use medley_tests::{Ended, Scratch};
use serde_json::{Value, json};

use crate::RECIPE;

const ONE: &str = "--num_train_epochs 1 --workers 1";
const ALL: &str = "--do_eval --validation_file dev.jsonl --do_predict --test_file test.jsonl";

/// Writes the rows of `name.jsonl` to `name.ending` as well: `columns` are fields, each with its name in the first line.
fn also(scratch: &Scratch, name: &str, ending: &str, columns: &[(&str, &str)]) {
    let (separator, end) = if ending == "csv" { (",", "\r\n") } else { ("\t", "\n") };
    let line = |fields: Vec<String>| format!("{}{end}", fields.join(separator));
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut content = line(columns.iter().map(|(_, title)| (*title).to_owned()).collect());
    for row in scratch.json_lines(&format!("{name}.jsonl")) {
        content.push_str(&line(columns.iter().map(|(field, _)| quoted(row[field].as_str().unwrap())).collect()));
    }
    scratch.write(&format!("{name}.{ending}"), &content);
}

/// Changes each row of a file of JSON lines.
fn change(scratch: &Scratch, name: &str, change: impl Fn(usize, &mut Value)) {
    let mut rows = scratch.json_lines(name);
    rows.iter_mut().enumerate().for_each(|(place, row)| change(place, row));
    scratch.write(name, &rows.iter().map(|row| format!("{row}\n")).collect::<String>());
}

fn train(scratch: &Scratch, flags: &str) -> Ended {
    scratch.run(&format!("train {RECIPE} {ONE} {flags}"))
}

fn certificate(scratch: &Scratch, folder: &str) -> Value {
    scratch.json(&format!("{folder}/medley_run.json"))["content"].clone()
}

/// The predictions, without the lines that their rows stand in.
fn predictions(scratch: &Scratch, folder: &str) -> Vec<Value> {
    let mut rows = scratch.json_lines(&format!("{folder}/predictions.jsonl"));
    rows.iter_mut().for_each(|row| drop(row.as_object_mut().unwrap().remove("line")));
    rows
}

#[test]
fn the_same_rows_give_the_same_weights_in_each_format() {
    let scratch = Scratch::new(40);
    for name in ["train", "dev", "test"] {
        change(&scratch, &format!("{name}.jsonl"), |place, row| {
            row["pairID"] = json!(format!("id-{place}"));
            if place % 7 == 3 {
                row["sentence1"] =
                    json!(format!("He said: \"5 mg, twice\"\nand\tleft. {}", row["sentence1"].as_str().unwrap()));
            }
        });
        let text = [("sentence2", "hypothesis"), ("pairID", "pairID"), ("sentence1", "premise")];
        let label = ("gold_label", "label");
        // Rows to predict have no labels there.
        let columns: Vec<_> = text.into_iter().chain((name != "test").then_some(label)).collect();
        also(&scratch, name, "csv", &columns);
        also(&scratch, name, "tsv", &columns);
    }
    train(&scratch, ALL).expect(0);
    let expected = certificate(&scratch, "out");
    for ending in ["csv", "tsv"] {
        let out = format!("out-{ending}");
        let files = format!("{} --train_file train.{ending}", ALL.replace("jsonl", ending));
        let columns = "--text_column_names premise,hypothesis --label_column_name label";
        train(&scratch, &format!("{files} {columns} --output_dir {out}"))
            .expect(0)
            .says(&["premise and hypothesis: pairs"]);
        assert_eq!(scratch.sha256(&format!("{out}/model.safetensors")), scratch.sha256("out/model.safetensors"));
        let found = certificate(&scratch, &out);
        assert_eq!(found["recipe"], expected["recipe"], "names of columns decide nothing");
        for rows in ["train_rows", "validation_rows"] {
            assert_eq!(found["inputs"][rows], expected["inputs"][rows], "{ending} {rows}");
        }
        assert_ne!(found["inputs"]["train_file"], expected["inputs"]["train_file"]);
        let table = format!("{out}/predict_results.txt");
        assert_eq!(scratch.read(&table), scratch.read("out/predict_results.txt"));
        assert_eq!(predictions(&scratch, &out), predictions(&scratch, "out"));
        let lines = scratch.json_lines(&format!("{out}/predictions.jsonl"));
        let line = |place: usize| (lines[place]["line"].as_u64().unwrap(), lines[place]["pairID"].as_str().unwrap());
        // Below the first line, and the fourth row has two.
        assert_eq!([line(0), line(3), line(4)], [(2, "id-0"), (5, "id-3"), (7, "id-4")]);
        scratch.run(&format!("verify {out}")).expect(0);
        scratch.run(&format!("replay {out} --from-checkpoint 0 --updates 3 --workers 2")).expect(0);
    }
}

#[test]
fn a_baseline_reads_one_text_alone_and_says_so() {
    let scratch = Scratch::new(40);
    let flags = format!("{ALL} --save_steps 2");
    let note = "sentence2: the second text of each pair alone (--hypothesis_only)";
    train(&scratch, &format!("{flags} --hypothesis_only")).expect(0).says(&[note]);
    assert_eq!(certificate(&scratch, "out")["recipe"]["hypothesis_only"], true);
    scratch.run("verify out").expect(0);
    scratch.run("replay out --from-checkpoint 2 --updates 2 --workers 2").expect(0).says(&["to the bit"]);
    let words = ["another recipe", "hypothesis_only was true, now not set"];
    train(&scratch, &flags).expect(78).says(&words);
    let other = ["hypothesis_only was true, now not set", "premise_only was not set, now true"];
    train(&scratch, &format!("{flags} --premise_only --resume_from_checkpoint out/checkpoint-2 --output_dir other"))
        .expect(78)
        .says(&other);
    // It is a run on those sentences, whatever the others say.
    let before = (scratch.sha256("out/model.safetensors"), scratch.read("out/predictions.jsonl"));
    for name in ["train.jsonl", "dev.jsonl", "test.jsonl"] {
        change(&scratch, name, |place, row| row["sentence1"] = json!(format!("Nothing {place}.")));
    }
    train(&scratch, &format!("{flags} --text_column_names sentence2 --output_dir single")).expect(0);
    assert_eq!(before, (scratch.sha256("single/model.safetensors"), scratch.read("single/predictions.jsonl")));
    train(&scratch, &format!("{flags} --output_dir pairs")).expect(0);
    assert_ne!(before.0, scratch.sha256("pairs/model.safetensors"));
}

#[test]
fn labels_are_found_sorted_and_exported() {
    let scratch = Scratch::new(40);
    let of = |row: &Value| match row["gold_label"].as_str().unwrap() {
        "entailment" => json!(10),
        "neutral" => json!("9"),
        _ => json!("no, not so"),
    };
    for name in ["train.jsonl", "dev.jsonl", "test.jsonl"] {
        change(&scratch, name, |_, row| *row = json!({"text": row["sentence2"], "class": of(row)}));
    }
    let rows = "--text_column_names text --label_column_name class --labels auto";
    train(&scratch, &format!("{ALL} {rows}"))
        .expect(0)
        .says(&["labels found, by id: 10, 9, no, not so", "single sentences"]);
    let config = scratch.json("out/config.json");
    assert_eq!(config["id2label"], json!({"0": "10", "1": "9", "2": "no, not so"}));
    assert_eq!(config["label2id"], json!({"10": 0, "9": 1, "no, not so": 2}));
    let table = scratch.read("out/predict_results.txt");
    let names = table.lines().skip(1).map(|line| line.split_once('\t').unwrap().1);
    assert!(names.into_iter().all(|name| ["10", "9", "no, not so"].contains(&name)), "{table}");
    assert!(scratch.json("out/eval_results.json")["eval_f1_no, not so"].is_number());
    // Without training they are the model's.
    let alone = format!(
        "train --model_name_or_path out {rows} --do_eval --validation_file dev.jsonl --workers 1 --output_dir eval"
    );
    scratch.run(&alone).expect(0);
    let accuracy = |folder: &str| scratch.json(&format!("{folder}/eval_results.json"))["eval_accuracy"].clone();
    assert_eq!(accuracy("eval"), accuracy("out"));
    change(&scratch, "dev.jsonl", |_, row| row["class"] = json!(11));
    scratch.run(&alone).expect(65).says(&["dev.jsonl:1: class is \"11\"; expected 10, 9 or no, not so"]);
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let scratch = Scratch::new(10);
    let refused = |name: &str, content: &[u8], flags: &str, parts: &[&str]| {
        std::fs::write(scratch.path(name), content).unwrap();
        let ended = train(&scratch, &format!("--train_file {name} {flags}")).expect(65).says(parts);
        assert!(!ended.stderr.contains("panicked") && !ended.stderr.contains("SECRET"), "{}", ended.stderr);
        assert!(!scratch.path("out").exists(), "a refused run leaves nothing behind");
    };
    let first = "sentence1,sentence2,gold_label\n";
    refused("t.csv", b"", "", &["t.csv holds no row"]);
    refused("t.csv", first.as_bytes(), "", &["t.csv holds no row"]);
    refused("t.csv", format!("{first}SECRET,b\n").as_bytes(), "", &["t.csv:2: 2 fields", "3 columns"]);
    refused(
        "t.csv",
        format!("{first}a,\"SECRET\nx,y,neutral").as_bytes(),
        "",
        &["t.csv:2: the quote that field 2 begins"],
    );
    refused(
        "t.csv",
        format!("{first}a,b,neutral\n\"a\"SECRET,b,neutral\n").as_bytes(),
        "",
        &["t.csv:3: field 1 goes on"],
    );
    refused(
        "t.csv",
        b"a,b,neutral\n",
        "",
        &["t.csv:1: there is no column sentence1", "a, b and neutral", "--text_column_names"],
    );
    refused(
        "t.tsv",
        b"a\tb\nc\td\n",
        "--text_column_names a,b",
        &["t.tsv:1: there is no column gold_label", "--label_column_name"],
    );
    refused("t.tsv", b"sentence1\tsentence1\n", "", &["t.tsv:1: the first line names the column sentence1 twice"]);
    refused("t.tsv", b"t\tgold_label\n\xff\tneutral\n", "--text_column_names t", &["t.tsv:2: field 1 is not UTF-8"]);
    refused("t.jsonl", b"{\"text\": \"SECRET\"}", "", &["t.jsonl:1: sentence1 is missing; the line has text"]);
    refused(
        "t.csv",
        format!("{first}a,b,x\nc,d,x\n").as_bytes(),
        "--labels auto",
        &["labels of t.csv, in gold_label", "at least 2"],
    );
    let ended = train(&scratch, "--hypothesis_only --text_column_names t").expect(64);
    ended.says(&["--hypothesis_only", "name two columns"]);
}

#[test]
fn a_classifier_of_another_size_is_refused_before_anything_starts() {
    let scratch = Scratch::new(20);
    for command in ["plan", "train"] {
        let ended = scratch.run(&format!("{command} {RECIPE} --labels entailment,neutral"));
        let size = "the model's classifier tells 3 labels apart (entailment, neutral, contradiction), and the run has 2 \
                    (entailment, neutral)";
        ended.expect(78).says(&[size]);
    }
    assert!(!scratch.path("out").exists());
}
