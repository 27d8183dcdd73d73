//! Manifests that somebody changed and sealed again, who knows how: a checkpoint that is refused, or read; never a panic,
//! never a file from elsewhere.

use std::fs;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::archive::checkpoint::Checkpoint;
use crate::archive::fixture::{begun, saved};

/// Puts `value` in the place of one of the values in `json`, or of one of its names.
fn replace(json: &mut Value, place: &mut usize, value: &Value) -> bool {
    if *place == 0 {
        *json = value.clone();
        return true;
    }
    *place -= 1;
    match json {
        Value::Array(items) => items.iter_mut().any(|item| replace(item, place, value)),
        Value::Object(fields) => {
            let renamed = (*place < fields.len()).then(|| fields.keys().nth(*place).cloned()).flatten();
            if let Some((name, new)) = renamed.zip(value.as_str()) {
                let content = fields.remove(&name).unwrap();
                fields.insert(new.to_owned(), content);
                return true;
            }
            fields.values_mut().any(|field| replace(field, place, value))
        }
        _ => false,
    }
}

fn odd() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(u64::MAX),
        json!(1e308),
        json!(""),
        json!("../../../etc/passwd"),
        json!("/dev/zero"),
        json!("model.safetensors\u{0}"),
        json!([]),
        json!({}),
        json!([[[[[[[[1]]]]]]]]),
    ])
}

/// A checkpoint whose manifest holds this instead.
fn open(manifest: &[u8]) {
    let (_folder, mut begun) = begun(None);
    let path = saved(&mut begun, 2).checkpoint.path().to_owned();
    fs::write(path.join(MANIFEST_FILE), manifest).unwrap();
    if let Ok(checkpoint) = Checkpoint::open(&path) {
        assert!(checkpoint.manifest().files.keys().all(|name| path.join(name).parent() == Some(&*path)));
        assert!(checkpoint.artifacts().iter().all(|stored| stored.path.parent() == Some(&*path)));
    }
}

/// The content of a manifest that is right.
fn content() -> Value {
    let (_folder, mut begun) = begun(None);
    let path = saved(&mut begun, 2).checkpoint.path().to_owned();
    let text: Value = serde_json::from_slice(&fs::read(path.join(MANIFEST_FILE)).unwrap()).unwrap();
    text["content"].clone()
}

#[test]
fn what_is_sealed_anew_and_unchanged_is_read() {
    let (_folder, mut begun) = begun(None);
    let path = saved(&mut begun, 2).checkpoint.path().to_owned();
    let text: Value = serde_json::from_slice(&fs::read(path.join(MANIFEST_FILE)).unwrap()).unwrap();
    fs::write(path.join(MANIFEST_FILE), sealed::seal(&text["content"])).unwrap();
    Checkpoint::open(&path).unwrap();
}

#[test]
fn a_manifest_names_no_file_elsewhere() {
    let mut content = content();
    let files = content["files"].as_object_mut().unwrap();
    let record = files["model.safetensors"].clone();
    files.insert("../elsewhere".to_owned(), record);
    let (folder, mut begun) = begun(None);
    let path = saved(&mut begun, 2).checkpoint.path().to_owned();
    fs::write(path.join(MANIFEST_FILE), sealed::seal(&content)).unwrap();
    let error = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(error.contains("\"../elsewhere\", which is no plain name"), "{error}");
    drop(folder);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        open(&bytes);
    }

    #[test]
    fn values_changed_and_sealed_anew(place in 0usize..80, value in odd()) {
        let mut content = content();
        replace(&mut content, &mut { place }, &value);
        open(&sealed::seal(&content));
    }
}
