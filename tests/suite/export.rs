//! The output folder is one that Hugging Face users know.

use medley_tests::Scratch;

use crate::RECIPE;

#[test]
fn everything_a_hugging_face_user_expects_is_there() {
    let scratch = Scratch::new(60);
    scratch
        .run(&format!(
            "train {RECIPE} --do_eval --validation_file dev.jsonl --do_predict --test_file test.jsonl \
             --num_train_epochs 1 --logging_steps 2 --evaluation_strategy epoch --save_strategy epoch --workers 2"
        ))
        .expect(0);
    for file in ["tokenizer.json", "tokenizer_config.json", "vocab.txt", "model.safetensors"] {
        assert!(scratch.path("out").join(file).is_file(), "{file}");
    }
    let config = scratch.json("out/config.json");
    assert_eq!(config["architectures"][0], "BertForSequenceClassification");
    assert_eq!(config["id2label"]["0"], "entailment");
    assert_eq!(config["label2id"]["contradiction"], 2);
    let train = scratch.json("out/train_results.json");
    let evaluation = scratch.json("out/eval_results.json");
    let prediction = scratch.json("out/predict_results.json");
    let all = scratch.json("out/all_results.json");
    for key in ["train_loss", "train_runtime", "train_samples", "train_samples_per_second", "train_steps_per_second"] {
        assert!(train[key].is_number() && all[key] == train[key], "{key}");
    }
    for key in ["eval_accuracy", "eval_loss", "eval_runtime", "eval_samples", "eval_samples_per_second"] {
        assert!(evaluation[key].is_number() && all[key] == evaluation[key], "{key}");
    }
    assert_eq!(evaluation["eval_samples"], 30);
    assert!(prediction["predict_accuracy"].is_number());
    let state = scratch.json("out/trainer_state.json");
    assert_eq!(state["global_step"], 8);
    let log = state["log_history"].as_array().unwrap();
    assert_eq!(log.iter().filter(|entry| entry["loss"].is_number()).count(), 4);
    assert_eq!(log.iter().filter(|entry| entry["eval_accuracy"].is_number()).count(), 2, "epoch and end: {log:?}");
    let predictions = scratch.read("out/predict_results.txt");
    let lines: Vec<_> = predictions.lines().collect();
    assert_eq!((lines.len(), lines[0]), (21, "index\tprediction"));
    let labels = ["entailment", "neutral", "contradiction"];
    assert!(lines[1..].iter().enumerate().all(|(index, line)| {
        line.split_once('\t').is_some_and(|(at, label)| at == index.to_string() && labels.contains(&label))
    }));
    assert!(scratch.path("out/checkpoint-8/model.safetensors").is_file());
}

/// A trained folder is a model like any other: it can be evaluated alone.
#[test]
fn the_output_is_a_model() {
    let scratch = Scratch::new(40);
    scratch
        .run(&format!("train {RECIPE} --do_eval --validation_file dev.jsonl --num_train_epochs 1 --workers 1"))
        .expect(0);
    scratch
        .run(
            "train --model_name_or_path out --do_eval --validation_file dev.jsonl --max_seq_length 64 \
              --output_dir evaluated --workers 2 --threads 1",
        )
        .expect(0);
    let (trained, alone) = (scratch.json("out/eval_results.json"), scratch.json("evaluated/eval_results.json"));
    assert_eq!(trained["eval_loss"], alone["eval_loss"]);
    assert_eq!(trained["eval_accuracy"], alone["eval_accuracy"]);
}
