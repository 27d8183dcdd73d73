//! Files of a size that makes no sense are refused by name, in little memory.

use std::fs::File;
use std::io::Write;

use medley_tests::{Ended, Running, Scratch, binaries};

use crate::RECIPE;

/// What a process may map, in KiB: the programs themselves and the threads' stacks, and far less than any file here.
const MEMORY_KIB: u64 = 1 << 20;
/// The size that files are blown up to; they are sparse, so no disk is needed for them.
const GIANT_BYTES: u64 = 2 << 30;

/// Runs `medley` to its end in little memory.
fn run_small(scratch: &Scratch, arguments: &str) -> Ended {
    let medley = binaries().join("medley");
    let line = format!("ulimit -v {MEMORY_KIB} && exec {} {arguments}", medley.display());
    // Each arena of the allocator sets 64 MiB of addresses aside, whatever is in it.
    let variables = [("MALLOC_ARENA_MAX", "1")];
    Running::start_among(&variables, "/bin/sh", &["-c", &line], &scratch.path("")).end()
}

/// Has a file begin with `head`, its own content where that is `None`, and go on with zeros for ever.
fn blow_up(scratch: &Scratch, name: &str, head: Option<&[u8]>) {
    let path = scratch.path(name);
    if let Some(head) = head {
        File::create(&path).unwrap().write_all(head).unwrap();
    }
    File::options().append(true).open(&path).unwrap().set_len(GIANT_BYTES).unwrap();
}

/// Blows a file of a new folder up: `medley train` must end with `code` and name it.
fn inputs(name: &str, head: Option<&[u8]>, gone: &[&str], (code, flags): (i32, &str)) {
    let scratch = Scratch::new(10);
    for file in gone {
        std::fs::remove_file(scratch.path(file)).unwrap();
    }
    blow_up(&scratch, name, head);
    let ended = run_small(&scratch, &format!("train {RECIPE} --num_train_epochs 1 --workers 1 {flags}"));
    let file = name.rsplit('/').next().unwrap();
    let refused = ended.expect(code).says(&[file]);
    assert!(!refused.stderr.contains("panicked"), "{}", refused.stderr);
    assert!(!scratch.path("out/model.safetensors").exists());
}

#[test]
fn inputs_of_any_size_are_refused_in_little_memory() {
    let row = br#"{"gold_label": "neutral", "sentence1": "a b", "sentence2": "c"}"#;
    inputs("train.jsonl", Some(row), &[], (65, ""));
    inputs("model/config.json", None, &[], (65, ""));
    inputs("model/tokenizer.json", None, &[], (65, ""));
    inputs("model/tokenizer_config.json", None, &[], (65, ""));
    inputs("model/vocab.txt", None, &["model/tokenizer.json"], (65, ""));
    inputs("model/model.safetensors", Some(&(3u64 << 30).to_le_bytes()), &[], (65, ""));
    inputs("model/pytorch_model.bin", Some(b"PK\x03\x04"), &["model/model.safetensors"], (65, ""));
    inputs("run.toml", Some(b"seed = 1\n"), &[], (64, "--config run.toml"));
}

#[test]
fn a_run_of_any_size_is_proved_wrong_in_little_memory() {
    let scratch = Scratch::new(10);
    scratch.run(&format!("train {RECIPE} --num_train_epochs 1 --save_steps 2 --workers 1")).expect(0);
    for name in [
        "out/ledger.jsonl",
        "out/medley_run.json",
        "out/checkpoint-2/medley.json",
        "out/checkpoint-2/trainer_state.json",
    ] {
        let whole = std::fs::read(scratch.path(name)).unwrap();
        blow_up(&scratch, name, None);
        let ended = run_small(&scratch, "verify out").expect(65);
        let file = name.trim_start_matches("out/").split('/').next().unwrap();
        assert!(ended.stdout.contains(&format!("WRONG  {file}")), "{name}: {}\n{}", ended.stdout, ended.stderr);
        std::fs::write(scratch.path(name), whole).unwrap();
    }
    scratch.run("verify out").expect(0);
}
