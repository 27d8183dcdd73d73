//! The tutorial: all that it says is typed is run as it stands, and what came out is compared with what it shows.
//!
//! `MEDLEY_BLESS=1 cargo test --release -p medley-tests tutorial` writes what came out into it.

use std::io::Write;
use std::path::Path;

use super::accounts::TRANSCRIPT;
use super::markdown::{Block, blocks};
use super::stage::{ROOT, Stage};
use super::transcript::{Numbers, compare, renewed};
use super::{accounted, accounts_of, text_of};

/// What begins the line that says which processor the numbers are of.
const PROCESSOR: &str = "<!-- numbers of ";

/// What a reader runs, and where the document shows what comes of it.
struct Act {
    /// The document's line that it begins in, from 1.
    line: usize,
    /// For a shell.
    text: String,
    /// What the document says it prints, and the line before that.
    said: Vec<String>,
    last: usize,
}

#[test]
fn the_tutorial_is_what_happens() {
    let document = text_of(TRANSCRIPT);
    let stage = Stage::new();
    let python = python();
    if python.is_none() {
        // Not captured by the test's harness: whoever runs the gate is told.
        let told =
            "NOT CHECKED  docs/tutorial.md: its Python was only compiled; MEDLEY_PYTHON names one with transformers";
        writeln!(std::io::stderr(), "{told}").expect("write to standard error");
    }
    let acts = acts(&document, &stage, python.as_deref());
    let printed: Vec<String> = acts
        .iter()
        .map(|act| match stage.run(&act.text, 0) {
            Ok(ended) => ended.stdout,
            Err(wrong) => panic!("{TRANSCRIPT}:{}: {}\n{wrong}", act.line, act.text),
        })
        .collect();
    let processor = processor(&stage);
    let shown = document.lines().find_map(|line| line.strip_prefix(PROCESSOR)?.strip_suffix(" -->"));
    let numbers = if shown == Some(&processor) { Numbers::Equal } else { Numbers::Masked };
    let blessed = std::env::var_os("MEDLEY_BLESS").is_some();
    let mut lines: Vec<String> = document.lines().map(ToOwned::to_owned).collect();
    // From the end on, so that the places of those before stay.
    for (act, printed) in acts.iter().zip(&printed).rev() {
        let Err(wrong) = compare(&act.said, printed, if blessed { Numbers::Equal } else { numbers }) else { continue };
        assert!(
            blessed,
            "{TRANSCRIPT}:{}: {}\n{wrong}\nWhere that is right, MEDLEY_BLESS=1 cargo test --release -p medley-tests tutorial \
             writes it into the document.",
            act.line, act.text
        );
        lines.splice(act.last..act.last + act.said.len(), renewed(&act.said, printed));
    }
    if blessed {
        for line in lines.iter_mut().filter(|line| line.starts_with(PROCESSOR)) {
            *line = format!("{PROCESSOR}{processor} -->");
        }
        std::fs::write(Path::new(ROOT).join(TRANSCRIPT), lines.join("\n") + "\n").expect("write the tutorial");
    }
}

/// All that is run, in the document's order.
fn acts(document: &str, stage: &Stage, python: Option<&str>) -> Vec<Act> {
    let commands = accounted(TRANSCRIPT, document, accounts_of(TRANSCRIPT)).unwrap_or_else(|wrong| panic!("{wrong}"));
    let typed = commands.into_iter().filter(|(shown, steps)| shown.block.is_some() && steps.is_none());
    let typed =
        typed.map(|(shown, _)| Act { line: shown.line, text: shown.text, said: shown.output, last: shown.last });
    let all = blocks(document);
    let scripts = all.iter().enumerate().filter(|(_, block)| block.language == "python").map(|(at, block)| {
        let name = format!("block-{}.py", block.line);
        stage.write(&name, &block.lines.join("\n"));
        let end = |block: &Block| block.line + block.lines.len() + 1;
        // What it prints is the block behind it, in the line after the next.
        let output = all.get(at + 1).filter(|next| next.language == "text" && next.line <= end(block) + 2);
        match (python, output) {
            (Some(python), Some(output)) => {
                let text = format!("{python} {name} 2>{name}.log || {{ cat {name}.log; exit 1; }}");
                Act { line: block.line, text, said: output.lines.clone(), last: output.line }
            }
            _ => {
                let text = format!("! command -v python3 >/dev/null || python3 -m py_compile {name}");
                Act { line: block.line, text, said: Vec::new(), last: end(block) }
            }
        }
    });
    let mut acts: Vec<Act> = typed.chain(scripts).collect();
    acts.sort_by_key(|act| act.line);
    acts
}

/// A Python that has what the tutorial's imports.
fn python() -> Option<String> {
    let named = std::env::var("MEDLEY_PYTHON").ok();
    let has = |python: &String| {
        let asked = std::process::Command::new(python).args(["-c", "import torch, transformers"]).output();
        asked.is_ok_and(|answer| answer.status.success())
    };
    match named {
        Some(python) => {
            assert!(has(&python), "MEDLEY_PYTHON is \"{python}\", which has no torch and transformers");
            Some(python)
        }
        None => Some("python3".to_owned()).filter(has),
    }
}

/// What bits depend on: the workers' processor and instructions, and its first cache.
fn processor(stage: &Stage) -> String {
    let run = stage.read("out/medley_run.json").expect("the certificate of the tutorial's run");
    let run: serde_json::Value = serde_json::from_str(&run).expect("a certificate");
    let processor = run["content"]["hosts"][0]["processor"].as_str().expect("a processor").to_owned();
    let cache = std::fs::read_to_string("/sys/devices/system/cpu/cpu0/cache/index0/size").unwrap_or_default();
    format!("{processor}, first cache {}", cache.trim())
}
