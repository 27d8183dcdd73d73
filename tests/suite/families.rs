//! RoBERTa and ELECTRA: what holds for BERT holds for them.

use medley_tests::Scratch;

use crate::RECIPE;
use crate::ledger::updates;

const WHOLE: &str = "--do_eval --validation_file dev.jsonl --do_predict --test_file test.jsonl --num_train_epochs 1";

/// A folder with a tiny model and so many training rows.
type Make = fn(usize) -> Scratch;

const FAMILIES: [(&str, Make); 2] = [("roberta", Scratch::roberta), ("electra", Scratch::electra)];

#[test]
fn every_number_of_workers_makes_the_same_model_of_any_family() {
    for (family, scratch) in FAMILIES {
        let [one, two] = [1, 2].map(|workers| {
            let scratch = scratch(40);
            scratch.run(&format!("train {RECIPE} {WHOLE} --save_strategy epoch --workers {workers}")).expect(0);
            scratch
        });
        assert_eq!(updates(&two), updates(&one), "{family}");
        for file in ["out/model.safetensors", "out/predictions.jsonl", "out/checkpoint-5/optimizer.safetensors"] {
            assert_eq!(two.sha256(file), one.sha256(file), "{family}: {file}");
        }
        assert_ne!(one.sha256("out/model.safetensors"), one.sha256("model/model.safetensors"));
        one.run("verify out").expect(0);
    }
}

/// The folder and its checkpoints are models like any other, which transformers knows by their configuration.
#[test]
fn the_output_is_a_model_of_its_family() {
    for (family, scratch) in FAMILIES {
        let scratch = scratch(40);
        scratch.run(&format!("train {RECIPE} {WHOLE} --save_strategy epoch --workers 1")).expect(0);
        let config = scratch.json("out/config.json");
        let architecture = match family {
            "roberta" => "RobertaForSequenceClassification",
            _ => "ElectraForSequenceClassification",
        };
        assert_eq!((&config["model_type"], &config["architectures"][0]), (&family.into(), &architecture.into()));
        for file in std::fs::read_dir(scratch.path("model")).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            if !["config.json", "model.safetensors"].contains(&name.as_str()) {
                assert_eq!(scratch.sha256(&format!("out/{name}")), scratch.sha256(&format!("model/{name}")), "{name}");
            }
        }
        let trained = scratch.json("out/eval_results.json");
        for model in ["out", "out/checkpoint-5"] {
            let evaluated = format!("{}-evaluated", model.replace('/', "-"));
            let alone = "--do_eval --validation_file dev.jsonl --max_seq_length 64 --workers 1 --threads 1";
            scratch.run(&format!("train --model_name_or_path {model} {alone} --output_dir {evaluated}")).expect(0);
            let alone = scratch.json(&format!("{evaluated}/eval_results.json"));
            assert_eq!(trained["eval_loss"], alone["eval_loss"], "{model} of {family}");
        }
    }
}

#[test]
fn any_family_is_trained_from_nothing() {
    for (family, scratch) in FAMILIES {
        let scratch = scratch(20);
        std::fs::remove_file(scratch.path("model/model.safetensors")).unwrap();
        scratch.run(&format!("train {RECIPE} --num_train_epochs 1 --workers 2")).expect(65).says(&["--from_scratch"]);
        scratch.run(&format!("train {RECIPE} --num_train_epochs 1 --workers 2 --from_scratch")).expect(0);
        assert!(scratch.path("out/model.safetensors").is_file(), "{family}");
    }
}

/// A family that is not known, and weights of another one, are refused by name before anything is written.
#[test]
fn other_families_are_refused_by_name() {
    let scratch = Scratch::roberta(10);
    let config = scratch.read("model/config.json");
    let run = || scratch.run(&format!("train {RECIPE} --workers 1")).expect(65);
    scratch.write("model/config.json", &config.replace("\"roberta\"", "\"deberta-v2\""));
    run().says(&["model_type is \"deberta-v2\"; expected bert (", "roberta (", "electra ("]);
    scratch.write("model/config.json", &config.replace("\"gelu\"", "\"relu\""));
    run().says(&["hidden_act is \"relu\"; expected gelu"]);
    let pairs = config.replace("\"type_vocab_size\": 1", "\"type_vocab_size\": 2");
    scratch.write("model/config.json", &pairs.replace("\"roberta\"", "\"electra\""));
    run().says(&["tokenizer.json holds a BPE model; expected WordPiece"]);
    assert!(!scratch.path("out").exists());
}
