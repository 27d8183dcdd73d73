//! A trained model answers: rows of a file, a stream, one pair; and how well it does.

use std::time::{Duration, Instant};

use medley_tests::{Conversation, Ended, Scratch, lines};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::RECIPE;
use crate::faults::wait_until_gone;

const RUN: &str = "--do_eval --validation_file dev.jsonl --do_predict --test_file test.jsonl --num_train_epochs 1 \
    --max_seq_length 32 --save_strategy epoch --workers 1";

/// A folder with `out`, a run that has cut its rows to 32 tokens.
fn trained() -> Scratch {
    let scratch = Scratch::new(20);
    scratch.run(&format!("train {RECIPE} {RUN}")).expect(0);
    scratch
}

fn rows(ended: &Ended) -> Vec<Value> {
    ended.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What a row's line has of numbers, as text: to the bit.
fn numbers(row: &Value) -> (String, String) {
    let probabilities = match &row["probabilities"] {
        Value::Object(named) => {
            ["entailment", "neutral", "contradiction"].map(|name| named[name].to_string()).join(",")
        }
        other => other.as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join(","),
    };
    (row["logits"].to_string(), probabilities)
}

/// The processes that a process has started.
fn children(pid: u32) -> Vec<Pid> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = std::fs::read_to_string(path).unwrap();
    text.split_whitespace().map(|pid| Pid::from_raw(pid.parse().unwrap()).unwrap()).collect()
}

/// Length and labels are those of the run; its final model and its last checkpoint are one.
#[test]
fn predictions_have_the_bits_of_the_run_that_made_the_model() {
    let scratch = trained();
    let of_the_run = scratch.json_lines("out/predictions.jsonl");
    for model in ["out --workers 1", "out --workers 2 --threads 1", "out/checkpoint-3"] {
        let ended = scratch.run(&format!("predict --model {model} test.jsonl --device cpu")).expect(0);
        assert_eq!(ended.stderr, "", "nothing is to be said");
        let rows = rows(&ended);
        assert_eq!(rows.len(), of_the_run.len());
        for (row, expected) in rows.iter().zip(&of_the_run) {
            assert_eq!(numbers(row), numbers(expected), "{model}");
            for field in ["index", "line", "pairID", "prediction"] {
                assert_eq!(row.get(field), expected.get(field), "{model}: {field}");
            }
        }
    }
    let other = scratch.run("predict --model out --max_seq_length 64 test.jsonl").expect(0);
    assert_ne!(rows(&other)[0]["logits"], of_the_run[0]["logits"], "a length that is asked for is the one taken");
}

#[test]
fn a_stream_is_answered_while_it_is_written_and_at_any_length() {
    let scratch = Scratch::new(10);
    let test = lines(&scratch.path("test.jsonl"));
    let expected = scratch.run("predict --model model test.jsonl").expect(0).stdout;
    let mut talk = Conversation::start(&scratch, "predict --model model");
    for (row, expected) in test.iter().zip(expected.lines()) {
        talk.say(&format!("{row}\n"));
        assert_eq!(talk.hear(), expected);
    }
    assert_eq!(talk.end().expect(0).stderr, "");
    // More than a chunk, with two workers: the same answers in the same order.
    let many = 3 * 960 + 7;
    let text: String = (0..many).map(|row| format!("{}\n", test[row % test.len()])).collect();
    scratch.write("many.jsonl", &text);
    scratch.run("predict --model model many.jsonl --workers 2 --threads 1 --output many-predictions.jsonl").expect(0);
    let rows = scratch.json_lines("many-predictions.jsonl");
    assert_eq!(rows.len(), many);
    let once: Vec<Value> = expected.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for (index, row) in rows.iter().enumerate() {
        assert_eq!((&row["index"], &row["line"]), (&index.into(), &(index + 1).into()));
        assert_eq!(row["logits"], once[index % once.len()]["logits"]);
    }
    let mut talk = Conversation::start(&scratch, "predict --model model -");
    talk.say(&text);
    let ended = talk.end().expect(0);
    assert!(ended.stdout == scratch.read("many-predictions.jsonl"));
}

#[test]
fn one_pair_is_answered_by_itself() {
    let scratch = Scratch::new(10);
    let row = &scratch.json_lines("test.jsonl")[0];
    let [premise, hypothesis] = ["sentence1", "sentence2"].map(|field| row[field].as_str().unwrap());
    let pair = ["--premise", premise, "--hypothesis", hypothesis];
    let answer = rows(&scratch.run_with("predict --model model", &pair).expect(0));
    let expected = &rows(&scratch.run("predict --model model test.jsonl").expect(0))[0];
    assert_eq!(answer.len(), 1);
    assert_eq!((numbers(&answer[0]), answer[0].get("index")), (numbers(expected), None));
    assert_eq!(answer[0]["prediction"], expected["prediction"]);
}

/// Its command says which columns, and that there is one sentence; the file's ending says the format.
#[test]
fn rows_are_read_as_the_run_read_its_own() {
    let scratch = Scratch::new(10);
    for name in ["train", "test"] {
        let rows = scratch.json_lines(&format!("{name}.jsonl"));
        let fields =
            |row: &Value| ["gold_label", "sentence2"].map(|name| row[name].as_str().unwrap().replace('"', "\"\""));
        let lines = rows.iter().map(fields).map(|[label, text]| format!("{label},\"{text}\"\r\n"));
        scratch.write(&format!("{name}.csv"), &format!("y,text\r\n{}", lines.collect::<String>()));
    }
    let columns = "--text_column_names text --label_column_name y";
    let files = "--train_file train.csv --do_predict --test_file test.csv";
    scratch.run(&format!("train {RECIPE} {files} {columns} --num_train_epochs 1 --workers 1")).expect(0);
    let of_the_run = scratch.json_lines("out/predictions.jsonl");
    let found = rows(&scratch.run("predict --model out test.csv").expect(0));
    assert_eq!(found.len(), of_the_run.len());
    for (row, expected) in found.iter().zip(&of_the_run) {
        assert_eq!((numbers(row), &row["line"]), (numbers(expected), &expected["line"]));
    }
    scratch.run("evaluate --model out test.csv").expect(0);
    let text = scratch.json_lines("test.jsonl")[0]["sentence2"].clone();
    let mut talk = Conversation::start(&scratch, "predict --model out");
    talk.say(&format!("{}\n", json!({ "text": text })));
    let answer: Value = serde_json::from_str(&talk.hear()).unwrap();
    assert_eq!(numbers(&answer), numbers(&of_the_run[0]));
    talk.end().expect(0);
    scratch.write("other.jsonl", &json!({ "phrase": text }).to_string());
    let missing = ["other.jsonl:1: text is missing; the line has phrase: give --text_column_names"];
    scratch.run("predict --model out other.jsonl").expect(65).says(&missing);
    let named = rows(&scratch.run("predict --model out other.jsonl --text_column_names phrase").expect(0));
    assert_eq!(numbers(&named[0]), numbers(&of_the_run[0]));
    let pair = scratch.run("predict --model out --premise a --hypothesis b").expect(78);
    pair.says(&["the run that made the model read one, text"]);
}

#[test]
fn an_evaluation_is_that_of_a_run() {
    let scratch = trained();
    let alone = "train --model_name_or_path out --do_eval --validation_file dev.jsonl --max_seq_length 32";
    scratch.run(&format!("{alone} --output_dir alone --workers 1")).expect(0);
    let mut expected = scratch.json("alone/eval_results.json");
    let before = std::fs::read_dir(scratch.path("")).unwrap().count();
    let ended = scratch.run("evaluate --model out dev.jsonl --json").expect(0);
    let mut found: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(ended.stderr, "");
    assert_eq!(std::fs::read_dir(scratch.path("")).unwrap().count(), before, "nothing is written");
    for timing in ["eval_runtime", "eval_samples_per_second", "eval_steps_per_second"] {
        let both = [&mut found, &mut expected].map(|metrics| metrics.as_object_mut().unwrap().remove(timing).is_some());
        assert_eq!(both, [true, true], "{timing}");
    }
    assert_eq!(found, expected);
    assert!(found["eval_accuracy_interval"].is_array());
    let table = scratch.run("evaluate --model out dev.jsonl --output_dir measured").expect(0).stdout;
    let accuracy = format!("accuracy              {:.4}  95 % interval", found["eval_accuracy"].as_f64().unwrap());
    assert!(table.starts_with(&accuracy) && table.contains("\ncontradiction "), "{table}");
    assert_eq!(scratch.json("measured/eval_results.json")["eval_accuracy"], found["eval_accuracy"]);
    scratch.run("evaluate --model out dev.jsonl --output_dir out").expect(78).says(&["holds a run", "name another"]);
    scratch.run("verify out").expect(0);
}

#[test]
fn a_bad_row_is_named_when_the_rows_before_it_are_answered() {
    let scratch = Scratch::new(10);
    let good = lines(&scratch.path("test.jsonl"));
    scratch.write(
        "rows.jsonl",
        &format!("{}\n{}\n{{\"sentence1\": 5, \"sentence2\": \"\"}}\n{}\n", good[0], good[1], good[2]),
    );
    let ended =
        scratch.run("predict --model model rows.jsonl").expect(65).says(&["rows.jsonl:3: sentence1 is a number"]);
    assert_eq!(rows(&ended).len(), 2);
    let mut talk = Conversation::start(&scratch, "predict --model model");
    talk.say("{}\n");
    let ended = talk.end().expect(65).says(&["standard input:1: sentence1 is missing"]);
    assert_eq!(ended.stdout, "");
    let unlabelled = r#"{"sentence1": "a", "sentence2": "b"}"#;
    scratch.write("rows.jsonl", unlabelled);
    scratch.run("predict --model model rows.jsonl").expect(0);
    scratch.run("evaluate --model model rows.jsonl").expect(65).says(&["rows.jsonl:1: gold_label is missing"]);
    scratch.write("rows.jsonl", "");
    assert_eq!(scratch.run("predict --model model rows.jsonl").expect(0).says(&["holds no row"]).stdout, "");
    scratch.run("evaluate --model model rows.jsonl").expect(65).says(&["holds no row"]);
    let own = scratch.run("predict --model model test.jsonl --output test.jsonl").expect(78);
    own.says(&["is the file that is read"]);
    assert_eq!(lines(&scratch.path("test.jsonl")), good);
}

#[test]
fn a_model_that_cannot_classify_is_named() {
    let scratch = Scratch::new(10);
    scratch.run("predict --model nowhere test.jsonl").expect(65).says(&["nowhere"]);
    scratch.run("predict --model model nowhere.jsonl").expect(65).says(&["nowhere.jsonl does not exist"]);
    scratch.run("predict test.jsonl").expect(64).says(&["--model"]);
    let config = scratch.read("model/config.json");
    scratch.write("model/config.json", &config.replacen('{', "{\"architectures\": [\"BertForMaskedLM\"],", 1));
    let untrained = ["model/config.json is a BertForMaskedLM", "train it first"];
    scratch.run("predict --model model test.jsonl").expect(65).says(&untrained);
    scratch.write("model/config.json", &config);
    let weights = std::fs::read(scratch.path("model/model.safetensors")).unwrap();
    // Of the same length, so that all else stands where it did.
    let places = weights.windows(11).enumerate().filter(|(_, bytes)| bytes == b"classifier.");
    let places: Vec<usize> = places.map(|(place, _)| place).collect();
    assert_eq!(places.len(), 2, "weight and bias");
    let mut headless = weights.clone();
    places.into_iter().for_each(|place| headless[place..place + 11].copy_from_slice(b"mlm_decoder"));
    std::fs::write(scratch.path("model/model.safetensors"), headless).unwrap();
    let untrained = ["model/model.safetensors has no tensor whose name begins with \"classifier.\"", "train it first"];
    scratch.run("evaluate --model model dev.jsonl").expect(65).says(&untrained);
}

#[test]
fn a_folder_that_has_no_model_yet_says_where_one_is() {
    let scratch = Scratch::new(20);
    let mut running = scratch.start(&format!("train {RECIPE} --num_train_epochs 50 --save_steps 10 --workers 1"));
    running.wait_for("saved out/checkpoint-10");
    running.signal(rustix::process::Signal::INT);
    running.end().expect(75);
    let ended = scratch.run("predict --model out test.jsonl").expect(65);
    ended.says(&["out is a run that is not complete: give its command again, or name out/checkpoint-"]);
    std::fs::create_dir(scratch.path("swept")).unwrap();
    scratch.write("swept/sweep.json", "{}");
    let best = ["swept is a sweep", "swept/sweep_results.json has the best"];
    scratch.run("predict --model swept test.jsonl").expect(65).says(&best);
    for command in ["verify swept", "report swept", "compare out swept"] {
        scratch.run(command).expect(65).says(&best);
    }
}

#[test]
fn labels_are_those_of_the_model() {
    let scratch = Scratch::new(20);
    let renamed = |file: &str| {
        let text = scratch.read(file);
        let text = text.replace("\"entailment\"", "\"follows, or not\"").replace("\"neutral\"", "\"open\"");
        scratch.write(file, &text.replace("\"contradiction\"", "\"excluded\""));
    };
    let expected = rows(&scratch.run("predict --model model test.jsonl").expect(0));
    ["test.jsonl", "dev.jsonl", "model/config.json"].into_iter().for_each(renamed);
    let found = rows(&scratch.run("predict --model model test.jsonl").expect(0));
    assert_eq!(found[0]["logits"], expected[0]["logits"]);
    let named = &found[0]["probabilities"];
    assert_eq!(named["follows, or not"], expected[0]["probabilities"]["entailment"]);
    let table = scratch.run("evaluate --model model dev.jsonl").expect(0).stdout;
    assert!(table.contains("\nfollows, or not ") && table.contains("\nexcluded "), "{table}");
    scratch.write("rows.jsonl", r#"{"sentence1": "a", "sentence2": "b", "gold_label": "entailment"}"#);
    let expected = ["rows.jsonl:1: gold_label is \"entailment\"; expected follows, or not, open or excluded"];
    scratch.run("predict --model model rows.jsonl").expect(65).says(&expected);
}

#[test]
fn it_ends_within_a_second_and_leaves_nothing_running() {
    let scratch = Scratch::new(10);
    let row = &lines(&scratch.path("test.jsonl"))[0];
    let mut talk = Conversation::start(&scratch, "predict --model model --workers 2 --threads 1");
    talk.say(&format!("{row}\n"));
    talk.hear();
    let workers = children(talk.pid());
    assert_eq!(workers.len(), 2);
    let asked = Instant::now();
    talk.signal(Signal::INT);
    let ended = talk.wait().expect(75);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert_eq!(ended.stderr, "stopped\n");
    workers.into_iter().for_each(wait_until_gone);
}

#[test]
fn a_lost_worker_costs_no_answer() {
    let scratch = Scratch::new(10);
    let test = lines(&scratch.path("test.jsonl"));
    let mut talk = Conversation::start(&scratch, "predict --model model --workers 2 --threads 1");
    talk.say(&format!("{}\n", test[0]));
    talk.hear();
    children(talk.pid()).into_iter().for_each(|worker| kill_process(worker, Signal::KILL).unwrap());
    talk.say(&format!("{}\n{}\n", test[1], test[2]));
    let answers = [talk.hear(), talk.hear()];
    let expected = scratch.run("predict --model model test.jsonl").expect(0).stdout;
    assert!(expected.lines().skip(1).take(2).eq(answers.iter().map(String::as_str)));
    talk.end().expect(0);
}

/// `| head -1`: who has read enough is no failure.
#[test]
fn a_reader_that_goes_away_ends_it() {
    let scratch = Scratch::new(10);
    let text = format!("{}\n", lines(&scratch.path("test.jsonl")).join("\n"));
    let mut talk = Conversation::start(&scratch, "predict --model model");
    talk.say(&text);
    talk.hear();
    talk.turn_away();
    // Standard input stays open: only that nobody reads can end it.
    (0..200).for_each(|_| talk.say(&text));
    assert_eq!(talk.wait().expect(0).stderr, "");
}
