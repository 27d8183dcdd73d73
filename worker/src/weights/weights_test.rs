//! Whole files: the fixtures that transformers and torch wrote, variants of them, and round trips.

use crate::optim::loss_scale::LossScale;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use medley_common::identity::Update;
use medley_common::model::Family;
use medley_common::spec::{OptimizerKind, SgdSpec};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::*;

const SEED: u64 = 42;

fn config() -> ModelConfig {
    ModelConfig {
        family: Family::Bert,
        vocab_size: 2000,
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        intermediate_size: 64,
        max_position_embeddings: 128,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout: 0.0,
        attention_dropout: 0.0,
        classifier_dropout: 0.0,
        initializer_range: 0.02,
        num_labels: 3,
    }
}

fn layout() -> Layout {
    Layout::new(&config())
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-bert");
    std::fs::read(folder.join(name)).unwrap()
}

fn load(file_name: &str, bytes: Vec<u8>) -> Result<Loaded, WeightsError> {
    read(file_name, bytes, &layout(), &config(), SEED)
}

fn reference() -> Vec<f32> {
    load("model.safetensors", fixture("model/model.safetensors")).unwrap().parameters
}

/// A tensor to be written: its type, shape and bytes.
type Tensor = (Dtype, Vec<usize>, Vec<u8>);

fn tensors() -> BTreeMap<String, Tensor> {
    let bytes = fixture("model/model.safetensors");
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tensor =
        |(name, view): (String, TensorView<'_>)| (name, (view.dtype(), view.shape().to_vec(), view.data().to_vec()));
    file.tensors().into_iter().map(tensor).collect()
}

fn safetensors(tensors: &BTreeMap<String, Tensor>) -> Vec<u8> {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap()));
    safetensors::serialize(views, Some(HashMap::from([("format".to_owned(), "pt".to_owned())]))).unwrap()
}

fn load_tensors(tensors: &BTreeMap<String, Tensor>) -> Result<Loaded, WeightsError> {
    load("model.safetensors", safetensors(tensors))
}

fn mismatches(result: Result<Loaded, WeightsError>) -> Vec<Mismatch> {
    match result {
        Err(WeightsError::Mismatch { mismatches, .. }) => mismatches,
        other => panic!("{other:?}"),
    }
}

#[test]
fn all_three_formats_give_the_same_bits() {
    let files = ["model/model.safetensors", "model/pytorch_model.bin", "legacy_pytorch_model.bin"];
    let digests = files.map(|name| {
        let loaded = load(name, fixture(name)).unwrap();
        assert_eq!((loaded.initialised.len(), loaded.ignored.len()), (0, 0), "{name}");
        digest(&loaded.parameters)
    });
    assert_eq!(digests[0], digests[1]);
    assert_eq!(digests[0], digests[2]);
}

#[test]
fn every_tensor_lands_in_its_place() {
    let (layout, parameters) = (layout(), reference());
    for (name, (_, _, data)) in tensors() {
        let slot = layout.slots().iter().find(|slot| slot.name == name).unwrap();
        assert_eq!(bytemuck::cast_slice::<f32, u8>(&parameters[slot.range.clone()]), data, "{name}");
    }
}

#[test]
fn names_of_a_bare_encoder_and_of_old_layer_norms_are_known() {
    let renamed = tensors().into_iter().map(|(name, tensor)| {
        let name = name.strip_prefix("bert.").map(str::to_owned).unwrap_or(name);
        let name = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
        (name, tensor)
    });
    assert_eq!(load_tensors(&renamed.collect()).unwrap().parameters, reference());
}

#[test]
fn a_pretrained_model_gets_new_heads_and_loses_its_own() {
    let mut tensors = tensors();
    tensors.retain(|name, _| !name.starts_with("classifier.") && !name.starts_with("bert.pooler."));
    tensors.insert("cls.predictions.bias".to_owned(), (Dtype::F32, vec![2], vec![0; 8]));
    tensors.insert("bert.embeddings.position_ids".to_owned(), (Dtype::I64, vec![1, 2], vec![0; 16]));
    let loaded = load_tensors(&tensors).unwrap();
    assert_eq!(loaded.ignored, ["bert.embeddings.position_ids", "cls.predictions.bias"]);
    let heads = ["bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias"];
    assert_eq!(loaded.initialised, heads);

    let (layout, fresh, expected) = (layout(), initialise(&layout(), &config(), SEED), reference());
    for slot in layout.slots() {
        let expected = if heads.contains(&slot.name.as_str()) { &fresh } else { &expected };
        assert_eq!(loaded.parameters[slot.range.clone()], expected[slot.range.clone()], "{}", slot.name);
    }
}

/// As hubs have them: the encoder under its names, heads of pre-training, a pooler that nobody trained.
#[test]
fn pretrained_models_of_other_families_get_new_classifiers() {
    let sizes = ModelConfig { vocab_size: 9, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, ..config() };
    for (family, others) in [
        (Family::Roberta { pad_token_id: 1 }, ["lm_head.dense.weight", "roberta.pooler.dense.weight"]),
        (
            Family::Electra { embedding_size: 8 },
            ["discriminator_predictions.dense.weight", "electra.embeddings.position_ids"],
        ),
    ] {
        let config = ModelConfig { family, ..sizes.clone() };
        let layout = Layout::new(&config);
        let expected = initialise(&layout, &config, 5);
        let bytes = |values: &[f32]| bytemuck::cast_slice::<f32, u8>(values).to_vec();
        let of_encoder = layout.slots().iter().filter(|slot| !slot.name.starts_with("classifier."));
        let mut tensors: BTreeMap<String, Tensor> = of_encoder
            .map(|slot| (slot.name.clone(), (Dtype::F32, slot.shape.clone(), bytes(&expected[slot.range.clone()]))))
            .collect();
        tensors.extend(others.map(|name| (name.to_owned(), (Dtype::F32, vec![1], bytes(&[0.5])))));
        let load =
            |tensors: &BTreeMap<String, Tensor>| read("model.safetensors", safetensors(tensors), &layout, &config, 5);
        let loaded = load(&tensors).unwrap();
        assert_eq!(loaded.ignored, others);
        let heads =
            ["classifier.dense", "classifier.out_proj"].map(|name| [format!("{name}.weight"), format!("{name}.bias")]);
        assert_eq!(loaded.initialised, heads.concat());
        assert_eq!(loaded.parameters, expected);

        let bare = |(name, tensor): (&String, &Tensor)| {
            (
                name.split_once('.')
                    .filter(|(encoder, _)| others[1].starts_with(encoder))
                    .map_or(name.clone(), |(_, rest)| rest.to_owned()),
                tensor.clone(),
            )
        };
        assert_eq!(load(&tensors.iter().map(bare).collect()).unwrap().parameters, expected, "without its prefix");

        let prefix = others[1].split('.').next().unwrap();
        tensors
            .insert(format!("{prefix}.encoder.layer.1.output.dense.bias"), (Dtype::F32, vec![16], bytes(&[0.0; 16])));
        let text = load(&tensors).unwrap_err().to_string();
        assert!(text.contains("encoder.layer.1.output.dense.bias [16] is not part of the model"), "{text}");
    }
}

/// Of the padding, RoBERTa has a word and a position: both begin as 0, as transformers has them.
#[test]
fn a_new_model_of_another_family_is_initialised_as_it_is() {
    for (family, rows) in
        [(Family::Roberta { pad_token_id: 1 }, [1, 1]), (Family::Electra { embedding_size: 8 }, [0, 9])]
    {
        let config = ModelConfig { family, ..config() };
        let (layout, width) = (Layout::new(&config), config.embedding_size() as usize);
        let parameters = initialise(&layout, &config, SEED);
        for (slot, padding) in layout.slots().iter().zip(rows) {
            for (row, values) in parameters[slot.range.clone()].chunks_exact(width).enumerate().take(9) {
                assert_eq!(values.iter().all(|value| *value == 0.0), row == padding, "{} {row}", slot.name);
            }
        }
        let heads = layout.slots().iter().filter(|slot| slot.name.starts_with("classifier."));
        for slot in heads {
            let tensor = &parameters[slot.range.clone()];
            let deviation = (tensor.iter().map(|value| value * value).sum::<f32>() / tensor.len() as f32).sqrt();
            let expected = if slot.name.ends_with(".bias") { 0.0..=0.0 } else { 0.015..=0.025 };
            assert!(expected.contains(&deviation), "{}: {deviation}", slot.name);
        }
    }
}

#[test]
fn all_that_does_not_fit_is_named_at_once() {
    let mut tensors = tensors();
    tensors.remove("bert.encoder.layer.0.output.dense.bias").unwrap();
    tensors.remove("bert.embeddings.LayerNorm.weight").unwrap();
    let words = tensors.get_mut("bert.embeddings.word_embeddings.weight").unwrap();
    *words = (Dtype::F32, vec![1999, 32], vec![0; 1999 * 32 * 4]);
    *tensors.get_mut("classifier.weight").unwrap() = (Dtype::F32, vec![2, 32], vec![0; 256]);
    tensors.insert("bert.encoder.layer.2.output.dense.bias".to_owned(), (Dtype::F32, vec![32], vec![0; 128]));
    *tensors.get_mut("classifier.bias").unwrap() = (Dtype::I64, vec![3], vec![0; 24]);
    tensors.insert("pooler.dense.bias".to_owned(), (Dtype::F32, vec![32], vec![0; 128]));

    let result = load_tensors(&tensors);
    let text = result.as_ref().unwrap_err().to_string();
    assert!(text.starts_with("model.safetensors: 7 tensors do not fit the model: "), "{text}");
    assert!(text.contains(
        "bert.embeddings.word_embeddings.weight is [1999, 32], expected [2000, 32] (check vocab_size of config.json)"
    ));
    assert!(text.contains("classifier.weight is [2, 32], expected [3, 32] (check num_labels of config.json)"));
    assert!(text.contains("bert.encoder.layer.0.output.dense.bias [32] is missing"));
    assert!(text.contains("bert.encoder.layer.2.output.dense.bias [32] is not part of the model"));
    assert!(text.contains("bert.pooler.dense.bias is there twice"));
    assert_eq!(mismatches(result).len(), 7);
}

#[test]
fn narrower_and_wider_elements_are_converted() {
    let narrowed = |dtype, convert: fn(f32) -> Vec<u8>| {
        let narrow = tensors().into_iter().map(|(name, (_, shape, data))| {
            let data = data.as_chunks::<4>().0.iter().flat_map(|bytes| convert(f32::from_le_bytes(*bytes))).collect();
            (name, (dtype, shape, data))
        });
        load_tensors(&narrow.collect()).unwrap().parameters
    };
    let reference = reference();
    let rounded = |round: fn(f32) -> f32| reference.iter().copied().map(round).collect::<Vec<_>>();
    let doubles = narrowed(Dtype::F64, |value| f64::from(value).to_le_bytes().to_vec());
    assert_eq!(doubles, reference);
    let halves = narrowed(Dtype::F16, |value| half::f16::from_f32(value).to_le_bytes().to_vec());
    assert_eq!(halves, rounded(|value| half::f16::from_f32(value).to_f32()));
    let brains = narrowed(Dtype::BF16, |value| half::bf16::from_f32(value).to_le_bytes().to_vec());
    assert_eq!(brains, rounded(|value| half::bf16::from_f32(value).to_f32()));
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    for value in [f32::NAN, f32::INFINITY] {
        let mut tensors = tensors();
        tensors.get_mut("bert.pooler.dense.bias").unwrap().2[20..24].copy_from_slice(&value.to_le_bytes());
        let text = load_tensors(&tensors).unwrap_err().to_string();
        assert!(text.starts_with("model.safetensors: bert.pooler.dense.bias: element 5 is "), "{text}");
    }
    let mut tensors = tensors();
    let huge = [1e300f64; 3].map(f64::to_le_bytes).concat();
    tensors.insert("classifier.bias".to_owned(), (Dtype::F64, vec![3], huge));
    assert!(load_tensors(&tensors).unwrap_err().to_string().contains("classifier.bias: element 0 is inf"));
}

#[test]
fn other_files_are_told_apart() {
    let problem = |name: &str, bytes: &[u8]| load(name, bytes.to_vec()).unwrap_err().to_string();
    assert!(problem("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n").contains("git lfs pull"));
    assert!(problem("model.safetensors", b"").contains("damaged safetensors"));
    assert!(problem("pytorch_model.bin", b"<html>").contains("neither"));
    assert!(problem("tf_model.h5", b"").contains("cannot tell the format"));
    assert!(problem("pytorch_model.bin", b"PK\x05\x06").contains("damaged zip"));
    assert!(problem("pytorch_model.bin", b"\x80\x02K\x01.").contains("not one of torch.save"));
}

#[test]
fn a_new_model_is_initialised_as_bert_is() {
    let (layout, parameters) = (layout(), initialise(&layout(), &config(), SEED));
    for slot in layout.slots() {
        let tensor = &parameters[slot.range.clone()];
        let constant = |value: f32| tensor.iter().all(|element| *element == value);
        let expected = if slot.name.ends_with("LayerNorm.weight") { Some(1.0) } else { None };
        let expected = if slot.name.ends_with(".bias") { Some(0.0) } else { expected };
        match expected {
            Some(value) => assert!(constant(value), "{}", slot.name),
            None => {
                let deviation = (tensor.iter().map(|value| value * value).sum::<f32>() / tensor.len() as f32).sqrt();
                assert!((0.015..0.025).contains(&deviation), "{}: {deviation}", slot.name);
            }
        }
    }
    assert!(parameters[..32].iter().all(|value| *value == 0.0), "the padding row");
    assert!(parameters[32..64].iter().all(|value| *value != 0.0));
}

#[test]
fn a_written_model_is_read_back_to_the_bit() {
    let (layout, parameters) = (layout(), reference());
    let file = write_model(&parameters, &layout).unwrap();
    let bytes = file.to_vec();
    assert_eq!(bytes.len(), file.len());

    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    assert_eq!(header.metadata(), &Some(HashMap::from([("format".to_owned(), "pt".to_owned())])));
    let theirs: Vec<String> = tensors().into_keys().collect();
    let ours: Vec<String> =
        header.tensors().into_keys().collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    assert_eq!(ours, theirs);
    assert_eq!(load("model.safetensors", bytes).unwrap().parameters, parameters);
    assert!(matches!(write_model(&parameters[1..], &layout), Err(WeightsError::Length { .. })));
}

#[test]
fn what_an_optimizer_remembers_is_read_back_to_the_bit() {
    let (layout, kind) = (layout(), OptimizerKind::AdamwTorch);
    let exp_avg: Vec<f32> = (0..layout.len()).map(|index| f32::from_bits(0x0000_0001 + index as u32 * 977)).collect();
    let exp_avg_sq: Vec<f32> = exp_avg.iter().map(|value| -value * 0.5).collect();
    let scale = LossScale { scale: 2.0_f64.powi(-7), good_updates: 1999, skipped_updates: 3 };
    let write = |kind: &OptimizerKind, memory: &[&[f32]]| {
        write_optimizer(kind, memory, (Update(u64::MAX), Some(scale)), &layout).map(|file| file.to_vec())
    };
    let bytes = write(&kind, &[&exp_avg, &exp_avg_sq]).unwrap();
    let state = read_optimizer(&bytes, &kind, &layout).unwrap();
    assert_eq!(state.loss_scale, Some(scale));
    assert!(state.memory.iter().zip([&exp_avg, &exp_avg_sq]).all(|(read, written)| digest(read) == digest(written)));
    assert_eq!((state.memory.len(), state.update), (2, Update(u64::MAX)));

    let other = Layout::new(&ModelConfig { num_labels: 2, ..config() });
    let text = read_optimizer(&bytes, &kind, &other).unwrap_err().to_string();
    assert!(text.starts_with("optimizer.safetensors: 4 tensors do not fit"), "{text}");
    assert!(text.contains("exp_avg_sq.classifier.weight is [3, 32], expected [2, 32]"), "{text}");
    let text = read_optimizer(&fixture("model/model.safetensors"), &kind, &layout).unwrap_err().to_string();
    assert!(text.contains("no number \"update\""), "{text}");
    let infinite = vec![f32::INFINITY; layout.len()];
    let bytes = write(&kind, &[&exp_avg, &infinite]).unwrap();
    assert!(matches!(read_optimizer(&bytes, &kind, &layout), Err(WeightsError::NotFinite { .. })));
}

#[test]
fn each_optimizer_has_a_file_of_its_own() {
    let layout = layout();
    let values: Vec<f32> = (0..layout.len()).map(|index| index as f32).collect();
    let momentum = OptimizerKind::Sgd(SgdSpec { momentum: 0.9, ..SgdSpec::default() });
    let plain = OptimizerKind::Sgd(SgdSpec::default());
    for (kind, memory) in [(momentum, vec![values.clone()]), (plain, Vec::new())] {
        let buffers: Vec<&[f32]> = memory.iter().map(Vec::as_slice).collect();
        let bytes = write_optimizer(&kind, &buffers, (Update(7), None), &layout).unwrap().to_vec();
        let expected = OptimizerState { memory: memory.clone(), update: Update(7), loss_scale: None };
        assert_eq!(read_optimizer(&bytes, &kind, &layout).unwrap(), expected);
        let text = read_optimizer(&bytes, &OptimizerKind::AdamwHf, &layout).unwrap_err().to_string();
        assert!(text.contains("exp_avg"), "{text}");
        assert!(write_optimizer(&OptimizerKind::AdamwHf, &buffers, (Update(7), None), &layout).is_err());
    }
}

#[test]
fn digests_are_those_of_sha256sum() {
    // printf '\x00\x00\x80\x3f\x00\x00\x00\xc0' | sha256sum
    assert_eq!(digest(&[1.0, -2.0]).to_string(), "ee4ac73c2bd27756ab82780f27c73a7bc4d3f0bb6acb37e008bc27eccd7e588b");
}
