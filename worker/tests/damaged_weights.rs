//! Damaged files of every format: an error or other numbers, never a panic, never absurd memory.
//!
//! A test binary of its own, because it limits the address space of its process.

use std::path::PathBuf;

use medley_common::model::{Family, ModelConfig};
use medley_common::plan::mix;
use medley_common::spec::OptimizerKind;
use medley_worker::layout::Layout;
use medley_worker::weights::{read, read_optimizer};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The files have 350 kB: what one of them takes stays far below, and an allocation beyond aborts the process.
const MOST_BYTES: u64 = 1 << 30;

const FORMATS: [(&str, &str); 3] = [
    ("model.safetensors", "model/model.safetensors"),
    ("pytorch_model.bin", "model/pytorch_model.bin"),
    ("pytorch_model.bin", "legacy_pytorch_model.bin"),
];

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

fn files() -> std::io::Result<Vec<(&'static str, Vec<u8>)>> {
    let limit = getrlimit(Resource::As);
    setrlimit(Resource::As, Rlimit { current: Some(MOST_BYTES), ..limit })?;
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-bert");
    FORMATS.into_iter().map(|(name, path)| Ok((name, std::fs::read(folder.join(path))?))).collect()
}

#[test]
fn a_file_cut_short_anywhere_is_refused() {
    let (config, layout) = (config(), Layout::new(&config()));
    for (name, bytes) in files().unwrap() {
        let start = 0..8000.min(bytes.len());
        let rest = (8000..bytes.len()).step_by(997);
        let end = bytes.len().saturating_sub(2000)..bytes.len();
        for length in start.step_by(3).chain(rest).chain(end.step_by(7)) {
            let result = read(name, bytes[..length].to_vec(), &layout, &config, 1);
            assert!(result.is_err(), "{name} cut at {length}");
        }
    }
}

#[test]
fn flipped_bytes_never_panic() {
    let (config, layout) = (config(), Layout::new(&config()));
    for (name, bytes) in files().unwrap() {
        let mut refused = 0;
        for case in 0..3000u64 {
            let mut damaged = bytes.clone();
            // Most damage goes where the structure is: the ends of the file.
            for flip in 0..=case % 4 {
                let random = mix(case * 8 + flip + 1);
                let span = if random.is_multiple_of(8) { bytes.len() } else { 6500 };
                let place = (random >> 8) as usize % span;
                let place = if random.is_multiple_of(2) { place } else { bytes.len() - 1 - place };
                damaged[place] ^= (random >> 48) as u8;
            }
            refused += u32::from(read(name, damaged.clone(), &layout, &config, 1).is_err());
            assert!(read_optimizer(&damaged, &OptimizerKind::AdamwHf, &layout).is_err());
        }
        assert!(refused > 500, "{name}: only {refused} of 3000 were refused");
    }
}

#[test]
fn bytes_cut_out_or_repeated_never_panic() {
    let (config, layout) = (config(), Layout::new(&config()));
    for (name, bytes) in files().unwrap() {
        let is_stream = bytes.starts_with(b"\x80");
        let intact = read(name, bytes.clone(), &layout, &config, 1).unwrap();
        for case in 0..500u64 {
            let random = mix(case + 77);
            let (place, length) = ((random % 6000) as usize, (random >> 32) as usize % 300);
            let cut = [&bytes[..place], &bytes[place + length..]].concat();
            let repeated = [&bytes[..place + length], &bytes[place..]].concat();
            for damaged in [cut, repeated] {
                // A zip archive may have gaps, which may grow, and has checksums; a stream has neither, and may turn
                // into another valid one.
                let result = read(name, damaged, &layout, &config, 1);
                assert!(result.is_err() || result == Ok(intact.clone()) || is_stream, "{name} {place} {length}");
            }
        }
    }
}
