//! Damaged tokenizer files: a tokenizer or a refusal, never a panic.

use std::fs;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// What a folder with byte pairs has.
const BYTE_PAIRS: [&str; 4] = ["tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"];

const FILES: [&str; 4] = ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"];

fn fixture(file: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-bert/model");
    fs::read(folder.join(file)).unwrap()
}

/// Loads a folder in which one file holds something else, and tokenizes with what comes of it.
fn load(damaged: &str, content: &[u8], with_json: bool) {
    let folder = tempfile::tempdir().unwrap();
    for file in FILES.into_iter().filter(|file| with_json || *file != "tokenizer.json") {
        let content = if file == damaged { content } else { &fixture(file) };
        fs::write(folder.path().join(file), content).unwrap();
    }
    if let Ok(tokenizer) = PairTokenizer::load(folder.path(), Vocabulary::WordPiece, None) {
        tokenizer.pieces("The patient's fever, 38.5 C, is naïve [SEP] \u{0}\u{fffd}", 1).ok();
        tokenizer.check_fits(2000).ok();
    }
}

/// The same with byte pairs.
fn load_byte_pairs(damaged: &str, content: &[u8], with_json: bool) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-roberta/model");
    let folder = tempfile::tempdir().unwrap();
    for file in BYTE_PAIRS.into_iter().filter(|file| with_json || *file != "tokenizer.json") {
        let whole = fs::read(from.join(file)).unwrap();
        fs::write(folder.path().join(file), if file == damaged { content } else { &whole }).unwrap();
    }
    if let Ok(tokenizer) = PairTokenizer::load(folder.path(), Vocabulary::BytePairs, None) {
        tokenizer.pieces("The patient's fever, 38.5 C, is naïve </s> \u{0}\u{fffd}", 1).ok();
        tokenizer.check_fits(341).ok();
    }
}

/// Puts `value` in the place of one of the values in `json`.
fn replace(json: &mut Value, place: &mut usize, value: &Value) -> bool {
    if *place == 0 {
        *json = value.clone();
        return true;
    }
    *place -= 1;
    match json {
        Value::Array(items) => items.iter_mut().take(8).any(|item| replace(item, place, value)),
        Value::Object(fields) => fields.iter_mut().take(24).any(|(_, item)| replace(item, place, value)),
        _ => false,
    }
}

fn odd() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        Value::Null,
        0.into(),
        (-1).into(),
        u64::MAX.into(),
        1e308.into(),
        "".into(),
        "\u{0}".into(),
        Value::Array(Vec::new()),
        Value::Object(serde_json::Map::new()),
        true.into(),
    ])
}

/// Found by chance: the tokenizers crate looks its template's tokens up without asking.
#[test]
fn a_template_with_an_undefined_token_is_refused() {
    let mut json: Value = serde_json::from_slice(&fixture("tokenizer.json")).unwrap();
    json["post_processor"]["special_tokens"] = Value::Object(serde_json::Map::new());
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    let refusal = PairTokenizer::load(folder.path(), Vocabulary::WordPiece, None).unwrap_err().to_string();
    assert!(refusal.contains("its template has \"[CLS]\", which its special_tokens lack"), "{refusal}");
    json["post_processor"] = serde_json::json!({"type": "Sequence", "processors": [json["post_processor"]]});
    fs::write(folder.path().join("tokenizer.json"), json.to_string()).unwrap();
    assert!(PairTokenizer::load(folder.path(), Vocabulary::WordPiece, None).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_bytes_in_any_file(which in 0usize..4, bytes in prop::collection::vec(any::<u8>(), 0..200), json in any::<bool>()) {
        load(FILES[which], &bytes, json);
    }

    #[test]
    fn values_of_other_kinds(which in 0usize..3, place in 0usize..120, value in odd(), with_json in any::<bool>()) {
        let mut json: Value = serde_json::from_slice(&fixture(FILES[which])).unwrap();
        let mut place = place;
        replace(&mut json, &mut place, &value);
        load(FILES[which], json.to_string().as_bytes(), with_json);
    }

    #[test]
    fn any_bytes_or_values_in_a_file_of_byte_pairs(
        which in 0usize..4, place in 0usize..400, value in odd(), bytes in prop::collection::vec(any::<u8>(), 0..200),
        json in any::<bool>(), cut in any::<bool>(),
    ) {
        let file = BYTE_PAIRS[which];
        load_byte_pairs(file, &bytes, json);
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-roberta/model");
        let whole = fs::read(from.join(file)).unwrap();
        if cut {
            load_byte_pairs(file, &whole[..whole.len() * place / 400], json);
        } else if let Ok(mut changed) = serde_json::from_slice::<Value>(&whole) {
            let mut place = place;
            replace(&mut changed, &mut place, &value);
            load_byte_pairs(file, changed.to_string().as_bytes(), json);
        }
    }

    #[test]
    fn a_vocabulary_with_bytes_changed(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let mut bytes = fixture("vocab.txt");
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        load("vocab.txt", &bytes, false);
    }
}
