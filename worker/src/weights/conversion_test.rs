use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;

use super::*;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures").join(name)).unwrap()
}

/// Every tensor of a safetensors file: its type, shape and bytes.
fn read(bytes: &[u8]) -> BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let tensor = |(name, view): (String, safetensors::tensor::TensorView<'_>)| {
        (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()))
    };
    file.tensors().into_iter().map(tensor).collect()
}

fn converted(bytes: &[u8]) -> (Conversion, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let to: PathBuf = folder.path().join("model.safetensors");
    let conversion = convert("pytorch_model.bin", bytes, &to).unwrap();
    (conversion, std::fs::read(to).unwrap())
}

/// As torch has saved and safetensors written them (`tests/peers/conversion.py --save`).
#[test]
fn tensors_of_every_kind_are_as_python_writes_them() {
    let expected = read(&fixture("conversion/odd_tensors.safetensors"));
    for name in ["odd_tensors.bin", "legacy_odd_tensors.bin"] {
        let (conversion, bytes) = converted(&fixture(&format!("conversion/{name}")));
        let found = read(&bytes);
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{name}");
        for (tensor, content) in &expected {
            assert_eq!(&found[tensor], content, "{name}: {tensor}");
        }
        assert_eq!(conversion.tensors, expected.len());
        assert_eq!(conversion.shared, [["whole", "tied", "transposed", "sliced", "row", "expanded"]], "{name}");
        assert!(String::from_utf8_lossy(&bytes[..400]).contains(r#""__metadata__":{"format":"pt"}"#));
    }
}

#[test]
fn a_model_has_the_tensors_of_its_safetensors_file() {
    let expected = read(&fixture("tiny-bert/model/model.safetensors"));
    for name in ["tiny-bert/model/pytorch_model.bin", "tiny-bert/legacy_pytorch_model.bin"] {
        let (conversion, bytes) = converted(&fixture(name));
        let found = read(&bytes);
        for (tensor, content) in &expected {
            // What a pickle calls its tensors stays: those of old had a gamma and a beta.
            let old = tensor.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
            let named = found.get(tensor).or_else(|| found.get(&old));
            assert_eq!(named, Some(content), "{name}: {tensor}");
        }
        assert_eq!((found.len(), conversion.tensors), (expected.len(), expected.len()), "{name}");
    }
}

fn problem(checkpoint: Checkpoint<'_>, file_bytes: usize) -> String {
    tensors(&checkpoint, file_bytes).map(|_| ()).unwrap_err()
}

#[test]
fn what_is_no_tensor_is_named() {
    let foreign = Checkpoint { foreign: vec!["os.system".to_owned()], ..Checkpoint::default() };
    assert!(problem(foreign, 9).starts_with("names os.system, of which no tensor is made"));
    let others = Checkpoint { others: vec!["epoch".to_owned()], ..Checkpoint::default() };
    assert!(problem(others, 9).starts_with("holds epoch, which is no tensor"));
    assert_eq!(problem(Checkpoint::default(), 9), "holds no tensor");
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("m.safetensors");
    assert!(convert("pytorch_model.bin", b"\x80\x02}.", &to).is_err() && !to.exists());
}

/// A stride of 0 makes a tensor of any size of one number.
#[test]
fn a_tensor_is_not_blown_up() {
    let tensor = |shape: Vec<usize>| {
        let strides = vec![0; shape.len()];
        let place = super::super::stored::Strided { offset: 0, shape, strides };
        let tensors = vec![StoredTensor::new("t".to_owned(), Element::F32, place, &[0; 4]).unwrap()];
        Checkpoint { tensors, ..Checkpoint::default() }
    };
    assert!(tensors(&tensor(vec![100]), 1000).is_ok());
    assert!(problem(tensor(vec![1 << 40]), 1000).contains("t would take"));
    assert!(problem(tensor(vec![1 << 62, 1 << 62]), 1000).contains("t would take"));
    let twice = Checkpoint {
        tensors: tensor(vec![1]).tensors.into_iter().chain(tensor(vec![2]).tensors).collect(),
        ..Checkpoint::default()
    };
    assert!(problem(twice, 1000).contains("t is there twice"));
}
