//! The house keeps its shape: arrows between packages, sizes of files, purity of the run.

use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const PACKAGES: [&str; 5] = ["common", "proto", "coordinator", "worker", "tests"];
const LONGEST_FILE: usize = 400;
const LONGEST_FUNCTION: usize = 70;

fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(ROOT).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "{folder} has no sources");
    found
}

/// Packages below `package` by normal dependencies, as `name vX.Y.Z` lines.
fn dependencies(package: &str) -> String {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "-e", "normal", "--prefix", "none", "-p", package])
        .current_dir(ROOT)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn depends(package: &str, on: &str) -> bool {
    dependencies(package).lines().skip(1).any(|line| line.split(' ').next() == Some(on))
}

#[test]
fn arrows_point_one_way() {
    assert!(depends("medley-coordinator", "medley-proto") && depends("medley-worker", "medley-proto"));
    assert!(depends("medley-proto", "medley-common"));
    for (from, to) in [
        ("medley-coordinator", "medley-worker"),
        ("medley-worker", "medley-coordinator"),
        ("medley-proto", "medley-coordinator"),
        ("medley-proto", "medley-worker"),
        ("medley-common", "medley-proto"),
    ] {
        assert!(!depends(from, to), "{from} must not depend on {to}");
    }
}

/// INV-6: the coordinator links neither candle nor CUDA.
#[test]
fn no_gpu_upstairs() {
    let tree = dependencies("medley-coordinator");
    for name in ["candle-core", "candle-nn", "cudarc"] {
        assert!(!tree.lines().any(|line| line.starts_with(name)), "the coordinator links {name}");
    }
}

/// `common` is pure values.
#[test]
fn the_vocabulary_depends_on_serde_and_thiserror_alone() {
    let manifest = std::fs::read_to_string(Path::new(ROOT).join("common/Cargo.toml")).unwrap();
    let after = manifest.split("[dependencies]").nth(1).unwrap();
    let names: Vec<_> = after
        .lines()
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(' ').next().filter(|name| !name.is_empty()))
        .collect();
    assert_eq!(names, ["serde", "thiserror"]);
}

#[test]
fn files_and_functions_stay_readable() {
    let mut faults = Vec::new();
    for path in PACKAGES.iter().flat_map(|package| sources(package)) {
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        if lines.len() > LONGEST_FILE {
            faults.push(format!("{}: {} lines", path.display(), lines.len()));
        }
        for (name, length) in functions(&lines) {
            if length > LONGEST_FUNCTION {
                faults.push(format!("{}: {name} has {length} lines", path.display()));
            }
        }
        let stem = path.file_stem().unwrap().to_string_lossy().into_owned();
        if ["util", "utils", "helpers", "misc", "types", "common"].contains(&stem.as_str()) {
            faults.push(format!("{}: a name that says nothing", path.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Functions with their lengths, by the indentation that rustfmt gives their closing brace.
fn functions<'a>(lines: &[&'a str]) -> Vec<(&'a str, usize)> {
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let is_function = ["fn ", "pub fn ", "async fn ", "pub async fn ", "unsafe fn ", "pub unsafe fn "]
            .iter()
            .any(|start| code.starts_with(start))
            || (code.starts_with("pub(") && code.contains(" fn "));
        // A declaration has no body.
        if !is_function || code.ends_with(';') {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        if let Some(end) = lines[at..].iter().position(|line| *line == close) {
            found.push((code, end + 1));
        }
    }
    found
}

/// INV-5: the run reads no clock, no randomness, no disk, no socket.
#[test]
fn the_run_is_pure() {
    let banned = [
        "Instant::now",
        "SystemTime",
        "std::fs",
        "std::net",
        "std::env",
        "tokio",
        "tonic",
        "HashMap",
        "HashSet",
        "rand",
    ];
    for path in sources("coordinator/src/run") {
        let text = std::fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for name in banned {
                let is_word = line
                    .split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'))
                    .any(|word| word == name || (name.contains("::") && word.contains(name)));
                let allowed = path.to_string_lossy().ends_with("_test.rs");
                assert!(!is_word || allowed, "{}:{}: {name}", path.display(), number + 1);
            }
        }
    }
}

/// `unsafe` lives where the architecture says; elsewhere it is forbidden.
#[test]
fn unsafe_code_stays_in_its_rooms() {
    for package in PACKAGES {
        for path in sources(package) {
            let name = path.to_string_lossy().replace('\\', "/");
            let rooms = ["worker/src/ops/", "worker/src/collective/nccl", "worker/src/collective/ring.rs"];
            let allowed = rooms.iter().any(|room| name.contains(room));
            let text = std::fs::read_to_string(&path).unwrap();
            let used = text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl")
            });
            let itself = name.ends_with("architecture.rs");
            assert!(!used || allowed || itself, "{name} uses unsafe");
        }
    }
}

/// What `tests/MATRIX.md` says a fault is shown by is there.
#[test]
fn the_matrix_names_tests_that_exist() {
    let paths: Vec<PathBuf> = PACKAGES.iter().flat_map(|package| sources(package)).collect();
    let text: String = paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect();
    let files: Vec<_> = paths.iter().filter_map(|path| path.file_stem()?.to_str()).collect();
    let matrix = std::fs::read_to_string(Path::new(ROOT).join("tests/MATRIX.md")).unwrap();
    let is_path =
        |quoted: &&str| quoted.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c));
    let names = matrix.split('`').skip(1).step_by(2).filter(is_path).filter(|quoted| quoted.contains('_'));
    let names: Vec<&str> = names.filter_map(|path| path.rsplit("::").next()).collect();
    assert!(names.len() > 30, "{names:?}");
    for name in names {
        assert!(text.contains(&format!("fn {name}(")) || files.contains(&name), "tests/MATRIX.md names {name}");
    }
}
