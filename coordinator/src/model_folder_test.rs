use std::fs;

use medley_common::model::Family;
use proptest::prelude::*;

use super::*;
use crate::tokenizer::VOCABULARY_FILE;
use crate::weights_file::{PICKLE_FILE, SAFETENSORS_FILE};

/// The least file of its format: a header without a tensor.
const NO_TENSORS: &[u8] = b"\x02\0\0\0\0\0\0\0{}";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-bert/model")
}

/// A folder with the fixture's configuration, changed, a vocabulary and a file of weights.
pub(super) fn folder_with(change: impl FnOnce(&mut Map<String, Value>)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut raw = read_object(&fixture().join(CONFIG_FILE)).unwrap();
    change(&mut raw);
    fs::write(folder.path().join(CONFIG_FILE), Value::Object(raw).to_string()).unwrap();
    fs::write(folder.path().join(VOCABULARY_FILE), "[PAD]\n").unwrap();
    fs::write(folder.path().join(SAFETENSORS_FILE), NO_TENSORS).unwrap();
    folder
}

pub(super) fn open(folder: &tempfile::TempDir) -> Result<ModelFolder, String> {
    ModelFolder::open(folder.path(), Start::Pretrained)
        .map_err(|error| error.to_string().replace(&folder.path().display().to_string(), "m"))
}

fn refusal(field: &str, value: Value) -> String {
    open(&folder_with(|raw| drop(raw.insert(field.to_owned(), value)))).unwrap_err()
}

#[test]
fn the_fixture_opens() {
    let folder = ModelFolder::open(&fixture(), Start::Pretrained).unwrap();
    let config = folder.config(&LabelSet::default());
    assert_eq!((config.vocab_size, config.hidden_size, config.num_hidden_layers), (2000, 32, 2));
    assert_eq!((config.num_attention_heads, config.intermediate_size, config.num_labels), (4, 64, 3));
    assert_eq!((config.max_position_embeddings, config.type_vocab_size), (128, 2));
    assert_eq!((config.hidden_dropout, config.classifier_dropout), (0.0, 0.0));
    assert_eq!((config.layer_norm_eps, config.initializer_range), (1e-12, 0.02));
    assert_eq!(config.validate(), Ok(()));
    assert_eq!(folder.weights(), Some(&WeightsFile::Safetensors(fixture().join(SAFETENSORS_FILE))));
    assert_eq!(folder.labels(), Some(&LabelSet::default()));
    assert_eq!(folder.warnings(&LabelSet::default()), []);
}

#[test]
fn defaults_are_those_of_bert_config() {
    const OWN: [&str; 5] =
        ["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"];
    for missing in OWN {
        let error = open(&folder_with(|raw| drop(raw.remove(missing)))).unwrap_err();
        assert!(error.starts_with(&format!("m/config.json: {missing} is missing; copy")), "{error}");
    }
    let folder = folder_with(|raw| raw.retain(|field, _| OWN.contains(&field.as_str())));
    let config = open(&folder).unwrap().config(&LabelSet::new(["no", "yes"]).unwrap());
    let expected = ModelConfig {
        family: Family::Bert,
        vocab_size: 2000,
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        intermediate_size: 64,
        max_position_embeddings: 512,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout: 0.1,
        attention_dropout: 0.1,
        classifier_dropout: 0.1,
        initializer_range: 0.02,
        num_labels: 2,
    };
    assert_eq!(config, expected);
}

#[test]
fn the_classifier_takes_the_hidden_dropout_unless_it_has_its_own() {
    let inherits = folder_with(|raw| {
        raw.insert("hidden_dropout_prob".into(), json!(0.3));
    });
    assert_eq!(open(&inherits).unwrap().config(&LabelSet::default()).classifier_dropout, 0.3);
    let own = folder_with(|raw| {
        raw.insert("classifier_dropout".into(), json!(0.25));
    });
    assert_eq!(open(&own).unwrap().config(&LabelSet::default()).classifier_dropout, 0.25);
}

#[test]
fn other_models_are_refused_by_name() {
    assert_eq!(
        refusal("model_type", json!("deberta-v2")),
        "m/config.json: model_type is \"deberta-v2\"; expected bert (BioLinkBERT, PubMedBERT, BioBERT and other BERT \
         encoders), roberta (RoBERTa, BioMed-RoBERTa), electra (ELECTRA discriminators, BioELECTRA, PubMedELECTRA)"
    );
    for act in ["gelu_new", "relu", "gelu_fast", "silu"] {
        let error = refusal("hidden_act", json!(act));
        assert_eq!(error, format!("m/config.json: hidden_act is \"{act}\"; expected gelu, the exact erf form"));
    }
    assert!(open(&folder_with(|raw| drop(raw.insert("hidden_act".into(), json!("gelu_python"))))).is_ok());
    assert!(refusal("position_embedding_type", json!("relative_key")).contains("expected absolute"));
    assert!(refusal("is_decoder", json!(true)).contains("is_decoder is true"));
    assert!(refusal("quantization_config", json!({"bits": 4})).contains("quantization_config"));
}

/// A folder of another family, its configuration changed.
fn family_with(name: &str, change: impl FnOnce(&mut Map<String, Value>)) -> tempfile::TempDir {
    let from = fixture().join("../..").join(name).join("model");
    let folder = tempfile::tempdir().unwrap();
    let mut raw = read_object(&from.join(CONFIG_FILE)).unwrap();
    change(&mut raw);
    fs::write(folder.path().join(CONFIG_FILE), Value::Object(raw).to_string()).unwrap();
    for file in ["tokenizer.json", SAFETENSORS_FILE] {
        fs::copy(from.join(file), folder.path().join(file)).unwrap();
    }
    folder
}

#[test]
fn other_families_open_and_are_exported_as_themselves() {
    for (name, architecture, family, field) in [
        ("tiny-roberta", "RobertaForSequenceClassification", Family::Roberta { pad_token_id: 1 }, "pad_token_id"),
        ("tiny-electra", "ElectraForSequenceClassification", Family::Electra { embedding_size: 8 }, "embedding_size"),
    ] {
        let folder = family_with(name, |_| ());
        let opened = open(&folder).unwrap();
        let config = opened.config(&LabelSet::default());
        assert_eq!((config.family, config.max_tokens()), (family, 48));
        let out = opened.export_config(&LabelSet::default());
        assert_eq!(out["architectures"], json!([architecture]));
        assert_eq!(out["model_type"], read_object(&folder.path().join(CONFIG_FILE)).unwrap()["model_type"]);
        assert_eq!(out["id2label"], json!({"0": "entailment", "1": "neutral", "2": "contradiction"}));

        // What a file does not say is as transformers has it, and is said by the export.
        let silent = family_with(name, |raw| drop(raw.remove(field)));
        let out = open(&silent).unwrap().export_config(&LabelSet::default());
        assert_eq!(out[field], json!(if name == "tiny-roberta" { 1 } else { 128 }));
        let odd = open(&family_with(name, |raw| drop(raw.insert(field.into(), json!("one"))))).unwrap_err();
        assert!(odd.starts_with(&format!("m/config.json: {field} is \"one\"; expected a whole number")), "{odd}");
        let act = open(&family_with(name, |raw| drop(raw.insert("hidden_act".into(), json!("gelu_new"))))).unwrap_err();
        assert_eq!(act, "m/config.json: hidden_act is \"gelu_new\"; expected gelu, the exact erf form");
    }
    let full = family_with("tiny-roberta", |raw| drop(raw.insert("max_position_embeddings".into(), json!(2))));
    assert_eq!(
        open(&full).unwrap_err(),
        "m/config.json: max_position_embeddings is 2; expected more than the 2 that come before the first token's"
    );
    let pairs = family_with("tiny-electra", |raw| drop(raw.insert("type_vocab_size".into(), json!(1))));
    assert!(open(&pairs).unwrap_err().contains("type_vocab_size is 1; expected at least 2"));
    let folder = family_with("tiny-roberta", |_| ());
    fs::remove_file(folder.path().join("tokenizer.json")).unwrap();
    fs::write(folder.path().join("vocab.json"), "{}").unwrap();
    assert!(open(&folder).unwrap_err().starts_with("m has neither tokenizer.json nor vocab.json and merges.txt; copy"));
}

#[test]
fn impossible_numbers_are_named() {
    for value in [json!(-1), json!(0), json!(1.5), json!("768"), json!(1e30), json!(u64::MAX), json!([1])] {
        let error = refusal("hidden_size", value.clone());
        assert!(error.starts_with(&format!("m/config.json: hidden_size is {value}; expected a whole")), "{error}");
    }
    assert_eq!(
        refusal("num_attention_heads", json!(5)),
        "m/config.json: hidden_size 32 is not a multiple of num_attention_heads 5"
    );
    assert!(refusal("hidden_dropout_prob", json!(1.0)).contains("hidden_dropout_prob is 1"));
    assert!(refusal("layer_norm_eps", json!("tiny")).contains("layer_norm_eps is \"tiny\"; expected a number"));
    assert!(refusal("type_vocab_size", json!(1)).contains("type_vocab_size is 1; expected at least 2"));
}

#[test]
fn malformed_files_are_named() {
    let folder = folder_with(|_| ());
    for (text, reason) in [
        ("{\"hidden_size\": }", "is not JSON"),
        ("[]", "holds no JSON object"),
        ("{\"hidden_size\": 1e999}", "out of range"),
    ] {
        fs::write(folder.path().join(CONFIG_FILE), text).unwrap();
        let error = open(&folder).unwrap_err();
        assert!(error.contains("m/config.json") && error.contains(reason), "{error}");
    }
    fs::remove_file(folder.path().join(CONFIG_FILE)).unwrap();
    assert!(open(&folder).unwrap_err().starts_with("cannot read m/config.json"));
    let error = ModelFolder::open(&folder.path().join(VOCABULARY_FILE), Start::Scratch).unwrap_err();
    assert!(matches!(error, ModelFolderError::NotAFolder { .. }));
}

#[test]
fn weights_are_found_or_named() {
    let folder = folder_with(|_| ());
    let at = |file: &str| folder.path().join(file);
    fs::write(at(PICKLE_FILE), "PK\x03\x04").unwrap();
    let found = open(&folder).unwrap();
    assert_eq!(found.weights().map(WeightsFile::path), Some(at(SAFETENSORS_FILE).as_path()));

    fs::remove_file(at(SAFETENSORS_FILE)).unwrap();
    let found = open(&folder).unwrap();
    assert_eq!(found.weights(), Some(&WeightsFile::Pickle(at(PICKLE_FILE))));
    assert_eq!(found.warnings(&LabelSet::default()), [ModelWarning::PickleWeights { path: at(PICKLE_FILE) }]);

    fs::write(at(PICKLE_FILE), "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n").unwrap();
    assert!(open(&folder).unwrap_err().starts_with("m/pytorch_model.bin is a git-lfs pointer"));
    fs::write(at(PICKLE_FILE), "").unwrap();
    assert_eq!(open(&folder).unwrap_err(), "m/pytorch_model.bin is empty; copy it again");

    fs::remove_file(at(PICKLE_FILE)).unwrap();
    assert!(open(&folder).unwrap_err().ends_with("copy one, or give --from_scratch to draw new weights"));
    let scratch = ModelFolder::open(folder.path(), Start::Scratch).unwrap();
    assert_eq!(scratch.weights(), None);

    fs::write(at("model.safetensors.index.json"), "{}").unwrap();
    assert!(open(&folder).unwrap_err().starts_with("m/model.safetensors.index.json cuts the weights"));
    fs::remove_file(at(VOCABULARY_FILE)).unwrap();
    assert!(open(&folder).unwrap_err().starts_with("m has neither tokenizer.json nor vocab.txt"));
}

#[test]
fn labels_of_the_file_are_compared() {
    let folder = folder_with(|raw| {
        raw.insert("id2label".into(), json!({"0": "contradiction", "1": "entailment", "2": "neutral"}));
    });
    let warnings = open(&folder).unwrap().warnings(&LabelSet::default());
    assert_eq!(
        warnings[0].to_string(),
        "the model's labels are contradiction, entailment, neutral; the run orders them entailment, neutral, \
         contradiction"
    );
    for odd in [json!({"0": "LABEL_0", "1": "LABEL_1"}), json!({"1": "a", "2": "b"}), json!({"0": 1}), json!(7)] {
        let folder = folder_with(|raw| drop(raw.insert("id2label".into(), odd)));
        assert_eq!(open(&folder).unwrap().labels(), None);
    }
}

#[test]
fn the_export_keeps_what_it_does_not_know() {
    let folder = folder_with(|raw| {
        raw.insert("_name_or_path".into(), json!("/home/someone/model"));
        raw.insert("num_labels".into(), json!(9));
        raw.insert("torch_dtype".into(), json!("float16"));
        raw.insert("dtype".into(), json!("float16"));
        raw.insert("gradient_checkpointing".into(), json!(false));
        raw.insert("my_field".into(), json!({"a": [1, 2]}));
        raw.remove("max_position_embeddings");
    });
    let labels = LabelSet::new(["no", "yes"]).unwrap();
    let opened = open(&folder).unwrap();
    let out = opened.export_config(&labels);
    assert_eq!(out["architectures"], json!(["BertForSequenceClassification"]));
    assert_eq!(out["model_type"], "bert");
    assert_eq!(out["id2label"], json!({"0": "no", "1": "yes"}));
    assert_eq!(out["label2id"], json!({"no": 0, "yes": 1}));
    assert_eq!(out["problem_type"], "single_label_classification");
    assert_eq!((&out["torch_dtype"], &out["dtype"]), (&json!("float32"), &json!("float32")));
    assert_eq!((&out["my_field"], &out["gradient_checkpointing"]), (&json!({"a": [1, 2]}), &json!(false)));
    assert_eq!((&out["max_position_embeddings"], &out["classifier_dropout"]), (&json!(512), &Value::Null));
    assert!(
        ["_name_or_path", "num_labels", "_attn_implementation_autoset"].iter().all(|name| out.get(*name).is_none())
    );

    // What is exported opens again, with the same shape.
    fs::write(folder.path().join(CONFIG_FILE), out.to_string()).unwrap();
    let again = open(&folder).unwrap();
    assert_eq!(again.config(&labels), opened.config(&labels));
    assert_eq!(again.labels(), Some(&labels));
}

fn odd() -> impl Strategy<Value = Value> {
    let numbers = [0.into(), (-1).into(), 7.into(), u64::MAX.into(), 1e308.into(), 0.5.into()];
    let others = [Value::Null, "".into(), "gelu".into(), true.into(), Value::Array(vec![Value::Null])];
    let object = Value::Object(Map::from_iter([("0".to_owned(), 1.into()), ("x".to_owned(), Value::Null)]));
    prop::sample::select(numbers.into_iter().chain(others).chain([object]).collect::<Vec<_>>())
}

proptest! {
    /// A configuration that can be computed with, or a refusal: never a panic.
    #[test]
    fn any_configuration_is_taken_or_refused(
        field in 0usize..64, value in odd(), bytes in prop::collection::vec(any::<u8>(), 0..64), cut in any::<bool>(),
    ) {
        let folder = folder_with(|raw| {
            let own = ["id2label", "label2id", "problem_type", "classifier_dropout", "rope_scaling"].map(str::to_owned);
            let names: Vec<String> = raw.keys().cloned().chain(own).collect();
            raw.insert(names[field % names.len()].clone(), value);
        });
        if let Ok(opened) = open(&folder) {
            prop_assert_eq!(opened.config(&LabelSet::default()).validate(), Ok(()));
            drop((opened.warnings(&LabelSet::default()), opened.export_config(&LabelSet::default())));
        }
        let whole = fs::read(folder.path().join(CONFIG_FILE)).unwrap();
        let damaged = if cut { whole[..whole.len() * field / 64].to_vec() } else { bytes };
        fs::write(folder.path().join(CONFIG_FILE), damaged).unwrap();
        prop_assert!(open(&folder).is_err());
    }
}
