use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::json;
use tokenizers::{PaddingParams, TruncationParams};

use super::*;
use crate::dataset::encode::encode_rows;
use crate::dataset::rows::{Row, Text};
use crate::dataset::sequence_limit::SequenceLimit;

#[derive(Deserialize)]
struct Reference {
    sentence1: String,
    sentence2: String,
    max_length: u32,
    input_ids: Vec<u32>,
    token_type_ids: Vec<u32>,
}

fn fixture() -> PathBuf {
    fixtures().join("tiny-bert")
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures")
}

/// A folder with some of the fixture's files.
fn folder_with(files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        fs::copy(fixture().join("model").join(file), folder.path().join(file)).unwrap();
    }
    folder
}

fn load(folder: &tempfile::TempDir) -> Result<PairTokenizer, TokenizerError> {
    PairTokenizer::load(folder.path(), Vocabulary::WordPiece, None)
}

fn put(folder: &tempfile::TempDir, file: &str, value: &Value) {
    fs::write(folder.path().join(file), value.to_string()).unwrap();
}

/// Every entry of the reference: ids and segments as transformers computes them.
fn assert_parity(tokenizer: &PairTokenizer) {
    assert_parity_with(tokenizer, &fixture(), 96);
}

fn assert_parity_with(tokenizer: &PairTokenizer, folder: &Path, entries: usize) {
    let references: Vec<Reference> =
        serde_json::from_str(&fs::read_to_string(folder.join("tokens.json")).unwrap()).unwrap();
    assert_eq!(references.len(), entries);
    for reference in references {
        let Reference { sentence1, sentence2, max_length, input_ids, token_type_ids } = reference;
        let limit = SequenceLimit::new(max_length, tokenizer, 128).unwrap();
        let row = Row { line: 1, text: Text::Pair(sentence1, sentence2), label: None, pair_id: None };
        let encoded = encode_rows(tokenizer, &[row], limit).unwrap();
        let example = &encoded.examples[0];
        assert_eq!(example.tokens, input_ids);
        let segments: Vec<u32> =
            (0..example.tokens.len()).map(|place| u32::from(place >= example.first_segment as usize)).collect();
        assert_eq!(segments, token_type_ids);
    }
}

/// A row of one sentence, as transformers 5.24 computes `tokenizer([sentence], truncation=True, max_length=M)`.
#[derive(Deserialize)]
struct SingleReference {
    sentence: String,
    max_length: u32,
    input_ids: Vec<u32>,
    token_type_ids: Vec<u32>,
}

#[test]
fn parity_of_single_sentences() {
    let tokenizer = PairTokenizer::load(&fixture().join("model"), Vocabulary::WordPiece, None).unwrap();
    let references: Vec<SingleReference> =
        serde_json::from_str(&fs::read_to_string(fixture().join("single_tokens.json")).unwrap()).unwrap();
    assert_eq!(references.len(), 48);
    for SingleReference { sentence, max_length, input_ids, token_type_ids } in references {
        let limit = SequenceLimit::new(max_length, &tokenizer, 128).unwrap();
        let row = Row { line: 1, text: Text::Single(sentence), label: None, pair_id: None };
        let encoded = encode_rows(&tokenizer, &[row], limit).unwrap();
        assert_eq!(encoded.examples[0].tokens, input_ids);
        assert_eq!(encoded.examples[0].first_segment as usize, input_ids.len());
        assert!(token_type_ids.iter().all(|segment| *segment == 0));
    }
}

#[test]
fn parity_from_tokenizer_json() {
    let tokenizer = PairTokenizer::load(&fixture().join("model"), Vocabulary::WordPiece, None).unwrap();
    assert_parity(&tokenizer);
    assert_eq!(tokenizer.warnings(), []);
    assert_eq!(tokenizer.special_ids(), SpecialIds { pad: 0, unk: 1, cls: 2, sep: 3 });
    assert_eq!((tokenizer.token_count(), tokenizer.model_max_length()), (2000, Some(128)));
}

#[test]
fn parity_from_vocab_txt() {
    for files in [&["vocab.txt", "tokenizer_config.json"][..], &["vocab.txt"]] {
        assert_parity(&load(&folder_with(files)).unwrap());
    }
}

/// As `tests/peers/families.py` wrote down: from `tokenizer.json`, and from the files that were before it.
#[test]
fn other_families_have_parity() {
    for (name, vocabulary, files) in [
        ("tiny-roberta", Vocabulary::BytePairs, &["vocab.json", "merges.txt"][..]),
        ("tiny-electra", Vocabulary::WordPiece, &["vocab.txt"]),
    ] {
        let from = fixtures().join(name);
        let whole = PairTokenizer::load(&from.join("model"), vocabulary, None).unwrap();
        assert_eq!((whole.warnings(), whole.model_max_length()), (&[][..], Some(48)));
        assert_parity_with(&whole, &from, 54);
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            fs::copy(from.join("model").join(file), folder.path().join(file)).unwrap();
        }
        assert_parity_with(&PairTokenizer::load(folder.path(), vocabulary, None).unwrap(), &from, 54);
        fs::remove_file(folder.path().join(files[0])).unwrap();
        let error = PairTokenizer::load(folder.path(), vocabulary, None).unwrap_err().to_string();
        assert!(
            error.ends_with(&format!(
                "has neither tokenizer.json nor {}; copy them from the model's repository",
                files.join(" and ")
            )),
            "{error}"
        );
    }
}

#[test]
fn a_space_before_the_first_word_follows_hugging_face_and_warns() {
    let folder = tempfile::tempdir().unwrap();
    let from = fixtures().join("tiny-roberta/model");
    fs::copy(from.join("tokenizer.json"), folder.path().join("tokenizer.json")).unwrap();
    let load = || PairTokenizer::load(folder.path(), Vocabulary::BytePairs, None).unwrap();
    let plain = load().pieces("in", 1).unwrap();
    assert_eq!(load().pieces(" in", 1).unwrap().len(), 1, "a word of its own");
    put(&folder, "tokenizer_config.json", &json!({"add_prefix_space": true}));
    let spaced = load();
    assert_eq!(spaced.pieces("in", 1).unwrap(), spaced.pieces(" in", 1).unwrap());
    assert_ne!(spaced.pieces("in", 1).unwrap(), plain);
    assert_eq!(spaced.warnings(), [TokenizerWarning::PrefixSpaceOverridden { added: true }]);
    put(
        &folder,
        "tokenizer_config.json",
        &json!({"add_prefix_space": true, "tokenizer_class": "PreTrainedTokenizerFast"}),
    );
    assert_eq!((load().pieces("in", 1).unwrap(), load().warnings().len()), (plain, 0));
}

#[test]
fn odd_byte_pairs_are_named() {
    let from = fixtures().join("tiny-roberta/model");
    let refusal = |tokens: &str, merges: &str| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("vocab.json"), tokens).unwrap();
        fs::write(folder.path().join("merges.txt"), merges).unwrap();
        let error = PairTokenizer::load(folder.path(), Vocabulary::BytePairs, None).unwrap_err().to_string();
        error.replace(&folder.path().display().to_string(), "m")
    };
    let tokens = fs::read_to_string(from.join("vocab.json")).unwrap();
    let error = refusal(&tokens, "#version: 0.2\na b c\n");
    assert_eq!(error, "m/merges.txt is not a tokenizer: line 2 is \"a b c\"; expected two symbols");
    assert!(refusal(&tokens, "nosuch token\n").starts_with("m/vocab.json is not a tokenizer: "));
    assert_eq!(refusal("{\"a\": 0, \"<s>\": 1, \"<pad>\": 2}", ""), "the vocabulary of m/vocab.json lacks <unk>, </s>");
    assert!(refusal("[]", "").starts_with("m/vocab.json holds no JSON object"));
    let word_pieces = PairTokenizer::load(&fixture().join("model"), Vocabulary::BytePairs, None).unwrap_err();
    assert!(word_pieces.to_string().ends_with("tokenizer.json holds a WordPiece model; expected BPE"), "{word_pieces}");
}

#[test]
fn parity_after_saving() {
    let tokenizer = load(&folder_with(&["vocab.txt"])).unwrap();
    let saved = tempfile::tempdir().unwrap();
    tokenizer.save(saved.path(), 128).unwrap();
    assert_parity(&load(&saved).unwrap());
    let vocabulary = fs::read_to_string(saved.path().join("vocab.txt")).unwrap();
    assert_eq!(vocabulary, fs::read_to_string(fixture().join("model/vocab.txt")).unwrap());
    let settings = TokenizerSettings::load(saved.path(), Vocabulary::WordPiece).unwrap();
    assert_eq!(settings.model_max_length, Some(128));
    assert_eq!(settings.raw["tokenizer_class"], "BertTokenizer");
    fs::remove_file(saved.path().join("tokenizer.json")).unwrap();
    assert_parity(&load(&saved).unwrap());
}

#[test]
fn state_of_the_last_use_is_dropped() {
    let folder = folder_with(&["tokenizer.json", "tokenizer_config.json"]);
    let path = folder.path().join("tokenizer.json");
    let mut used = Tokenizer::from_file(&path).unwrap();
    used.with_truncation(Some(TruncationParams { max_length: 7, ..TruncationParams::default() })).unwrap();
    used.with_padding(Some(PaddingParams::default()));
    used.save(&path, false).unwrap();
    assert_parity(&load(&folder).unwrap());
}

#[test]
fn special_ids_come_from_the_vocabulary() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("vocab.txt"), "a\r\n##b\r\n<sep>\r\n<cls>\r\n[UNK]\r\n[PAD]\r\n").unwrap();
    put(&folder, "tokenizer_config.json", &json!({"cls_token": {"content": "<cls>"}, "strip_accents": null}));
    put(&folder, "special_tokens_map.json", &json!({"sep_token": "<sep>", "cls_token": "[CLS]"}));
    let tokenizer = load(&folder).unwrap();
    assert_eq!(tokenizer.special_ids(), SpecialIds { pad: 5, unk: 4, cls: 3, sep: 2 });
    assert_eq!(tokenizer.pieces("Ab é <sep>", 1).unwrap(), [0, 1, 4, 2], "é loses its accent, e is unknown");
}

#[test]
fn missing_special_tokens_are_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("vocab.txt"), "[PAD]\n[CLS]\nword\n").unwrap();
    let error = load(&folder).unwrap_err().to_string();
    assert!(error.ends_with("vocab.txt lacks [UNK], [SEP]"), "{error}");
    let whole = folder_with(&["tokenizer.json"]);
    put(&whole, "tokenizer_config.json", &json!({"cls_token": "<s>"}));
    let error = load(&whole).unwrap_err().to_string();
    assert!(error.ends_with("tokenizer.json lacks <s>"), "{error}");
}

#[test]
fn casing_follows_hugging_face_and_warns() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("vocab.txt"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nPain\npain\n").unwrap();
    let tokenizer = load(&folder).unwrap();
    assert_eq!(tokenizer.pieces("Pain", 1).unwrap(), [6]);
    assert_eq!(tokenizer.warnings(), [TokenizerWarning::LowerCasedVocabulary { tokens: 1 }]);

    let forced = PairTokenizer::load(folder.path(), Vocabulary::WordPiece, Some(Casing::Keep)).unwrap();
    assert_eq!((forced.pieces("Pain pain", 1).unwrap(), forced.warnings().len()), (vec![5, 6], 0));

    put(&folder, "tokenizer_config.json", &json!({"do_lower_case": false}));
    let cased = load(&folder).unwrap();
    assert_eq!((cased.pieces("Pain pain", 1).unwrap(), cased.warnings().len()), (vec![5, 6], 0));

    // BertTokenizerFast puts tokenizer_config.json, or its defaults, before tokenizer.json; other classes do not.
    cased.save(folder.path(), 8).unwrap();
    put(&folder, "tokenizer_config.json", &json!({"tokenizer_class": "BertTokenizer"}));
    let overridden = load(&folder).unwrap();
    assert_eq!(overridden.pieces("Pain", 1).unwrap(), [6]);
    assert_eq!(overridden.warnings()[0], TokenizerWarning::NormalizerOverridden { casing: Casing::Lower });
    put(&folder, "tokenizer_config.json", &json!({"tokenizer_class": "PreTrainedTokenizerFast"}));
    assert_eq!(load(&folder).unwrap().pieces("Pain", 1).unwrap(), [5]);
}

#[test]
fn a_vocabulary_must_fit_the_model() {
    let tokenizer = PairTokenizer::load(&fixture().join("model"), Vocabulary::WordPiece, None).unwrap();
    assert!(tokenizer.check_fits(2000).is_ok() && tokenizer.check_fits(2048).is_ok());
    assert_eq!(
        tokenizer.check_fits(1999).unwrap_err().to_string(),
        "the tokenizer has ids up to 1999, but the model's vocab_size is 1999; they do not belong together"
    );
}

#[test]
fn other_tokenizers_are_refused() {
    let folder = folder_with(&["tokenizer.json"]);
    let text = fs::read_to_string(folder.path().join("tokenizer.json")).unwrap();
    let original: Value = serde_json::from_str(&text).unwrap();

    let mut plain = original.clone();
    plain["post_processor"] = Value::Null;
    put(&folder, "tokenizer.json", &plain);
    assert!(matches!(load(&folder), Err(TokenizerError::Template { .. })));

    let mut bpe = original.clone();
    bpe["model"] = json!({"type": "BPE", "vocab": {"a": 0}, "merges": []});
    bpe["post_processor"] = Value::Null;
    put(&folder, "tokenizer.json", &bpe);
    assert!(matches!(load(&folder), Err(TokenizerError::OtherModel { found: "BPE", expected: "WordPiece", .. })));

    for broken in ["", "{", "[]", "{\"version\": \"9\"}", "{\"model\": 3}"] {
        fs::write(folder.path().join("tokenizer.json"), broken).unwrap();
        assert!(matches!(load(&folder), Err(TokenizerError::Invalid { .. })), "{broken}");
    }
    assert!(matches!(load(&tempfile::tempdir().unwrap()), Err(TokenizerError::Missing { .. })));
}

#[test]
fn wrong_settings_are_named() {
    let folder = folder_with(&["vocab.txt"]);
    put(&folder, "tokenizer_config.json", &json!({"do_lower_case": "yes"}));
    let error = load(&folder).unwrap_err().to_string();
    assert!(error.ends_with("tokenizer_config.json: do_lower_case is \"yes\"; expected true or false"), "{error}");
    put(&folder, "tokenizer_config.json", &json!({"model_max_length": 1e30}));
    assert_eq!(load(&folder).unwrap().model_max_length(), None);
}
