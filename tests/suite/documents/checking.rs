//! What can be checked of a command without running it: that its words are understood, and its files are there.

use std::path::Path;
use std::process::Command;

use medley_coordinator::cli;
use medley_tests::binaries;

use super::accounts::FLAGS;
use super::line::simple_commands;
use super::markdown::is_assignment;
use super::sources;
use super::stage::{ROOT, filled};

/// Programs of others, of which nothing is known here but the repository's files among their words.
const OTHERS: [&str; 20] = [
    "printf",
    "export",
    "mkdir",
    "chown",
    "module",
    "ssh",
    "ln",
    "scancel",
    "scontrol",
    "apt",
    "cp",
    "sed",
    "cat",
    ".",
    "wait",
    "python3.11",
    "cmp",
    "head",
    "diff",
    "cd",
];
/// The repository's folders: a word that begins with one is a file there.
const FOLDERS: [&str; 7] = ["deploy/", "tests/", ".ci/", "proto/", "coordinator/", "worker/", "common/"];
/// Words that stand for others, and such as they stand for.
const PLACEHOLDERS: [(&str, &str); 6] = [
    ("N", "2"),
    ("IP:PORT", "127.0.0.1:29401"),
    ("127.0.0.1:PORT", "127.0.0.1:29401"),
    ("OUTPUT_DIR", "out"),
    ("HOSTFILE", "hosts.txt"),
    ("JOB", "1"),
];

/// Checks a command of `document`.
///
/// # Errors
/// What is wrong with it.
pub fn check(document: &str, text: &str) -> Result<(), String> {
    let whole = filled(text).replace("{port}", "29400");
    for words in simple_commands(&without_choices(&whole)) {
        let stands = |word: &String| PLACEHOLDERS.iter().find(|(name, _)| name == word).map(|(_, by)| (*by).to_owned());
        let words: Vec<String> = words.iter().map(|word| stands(word).unwrap_or_else(|| word.clone())).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).skip_while(|word| is_assignment(word)).collect();
        files(&words)?;
        if let Some(first) = words.first() {
            program(document, first, &words)?;
        }
    }
    Ok(())
}

/// `[--flag]` as it is with it, `[one|other]` as the first.
fn without_choices(text: &str) -> String {
    let mut kept = String::new();
    let (mut inside, mut other) = (false, false);
    for letter in text.chars() {
        match letter {
            '[' if kept.ends_with(' ') => inside = true,
            ']' if inside => (inside, other) = (false, false),
            '|' if inside => other = true,
            _ if !other => kept.push(letter),
            _ => {}
        }
    }
    kept
}

fn files(words: &[&str]) -> Result<(), String> {
    for word in words.iter().filter(|word| FOLDERS.iter().any(|folder| word.starts_with(folder))) {
        if !Path::new(ROOT).join(word).exists() {
            return Err(format!("there is no {word} in the repository"));
        }
    }
    Ok(())
}

fn program(document: &str, first: &str, words: &[&str]) -> Result<(), String> {
    let rest = &words[1..];
    let after = |sign: &dyn Fn(&str) -> bool| rest.iter().position(|word| sign(word)).map(|at| &rest[at + 1..]);
    match first {
        "medley" | "target/release/medley" => medley(rest),
        "medley-worker" | "target/release/medley-worker" | "medley/medley-worker" => worker(rest),
        "medley-rank" => medley(&[&["serve"], rest].concat()),
        "medley-ssh" => match after(&|word| word == "--") {
            Some(flags) => medley(&[&["train"], flags].concat()).and_then(|()| script("deploy/launch/medley-ssh", &[])),
            None => script("deploy/launch/medley-ssh", rest),
        },
        "medley-copy" => script("deploy/launch/medley-copy", rest),
        "torchrun" => match after(&|word| word == "--no-python") {
            Some([first, more @ ..]) => program(document, first, &[&[*first], more].concat()),
            _ => Err("torchrun without --no-python PROGRAM".to_owned()),
        },
        "sbatch" => match rest.iter().position(|word| word.ends_with(".sbatch")) {
            Some(at) => script(rest[at], &[]).and_then(|()| medley(&[&["serve"], &rest[at + 1..]].concat())),
            None => Err("sbatch without a script of deploy/slurm".to_owned()),
        },
        "kubectl" => match after(&|word| word == "--") {
            Some([first, more @ ..]) => program(document, first, &[&[*first], more].concat()),
            _ => Ok(()),
        },
        "docker" => image(rest),
        "cargo" => sources::cargo(rest),
        "python" | "python3" => sources::python(rest),
        "pip" => Ok(()),
        "faults.py" => sources::python(&[&["tests/peers/faults.py"], rest].concat()),
        "push" => script("deploy/docker/push", rest),
        "check" => {
            let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
            script(&format!("{folder}/check"), rest)
        }
        example if example.starts_with("target/release/examples/") => {
            sources::example(&example["target/release/examples/".len()..])
        }
        path if FOLDERS.iter().any(|folder| path.starts_with(folder)) && path.ends_with(".py") => {
            sources::python(words)
        }
        path if FOLDERS.iter().any(|folder| path.starts_with(folder)) => script(path, rest),
        other if OTHERS.contains(&other) || other.contains('=') => Ok(()),
        other => Err(format!("nothing is known of the program \"{other}\"; tell tests/suite/documents/checking.rs")),
    }
}

/// The coordinator's own parser reads the words. Where they are but part of a command, as in a text, the rest is added.
fn medley(words: &[&str]) -> Result<(), String> {
    let words: Vec<&str> = words.iter().copied().filter(|word| !["…", "..."].contains(word)).collect();
    // What is in a file of flags is not known here; it stands for such as these.
    let mut words = words;
    let file = words.iter().position(|word| *word == "--config").filter(|at| at + 1 < words.len());
    let from_file = file.map(|at| words.drain(at..at + 2).count()).is_some();
    let Some((verb, words)) = words.split_first() else { return Ok(()) };
    let flags: Vec<&str> = FLAGS.split(' ').filter(|word| !word.is_empty()).collect();
    let whole = match *verb {
        // What is behind `--` is what all its runs share.
        "sweep" => {
            let own = words.split(|word| *word == "--").next().unwrap_or_default();
            let folder: &[&str] = if own.contains(&"--output_dir") { &[] } else { &["--output_dir", "sweep"] };
            [&["sweep"], folder, own, &["--"], &flags].concat()
        }
        "serve" => [&["serve", "--workers", "2"], &flags[..], words].concat(),
        "train" | "plan" => [&[*verb], &flags[..], words].concat(),
        "status" | "stop" | "checkpoint" | "checkpoints" | "drain" => {
            [&[*verb, "--coordinator", "127.0.0.1:1"], words].concat()
        }
        _ => [&[*verb], words, &["--help"]].concat(),
    };
    let parsed = |words: &[&str]| match cli::parse([&["medley"], words].concat()) {
        Err(error) if error.exit_code() != 0 => Err(error.to_string()),
        _ => Ok(()),
    };
    let as_it_is = if from_file { parsed(&whole) } else { parsed(&[&[*verb], words].concat()) };
    // As in a text, which names a flag without a value.
    as_it_is.or_else(|wrong| parsed(&whole).or_else(|_| parsed(&[&whole[..], &["2"]].concat())).map_err(|_| wrong))
}

/// The worker's own parser does, which shows what it understood.
fn worker(words: &[&str]) -> Result<(), String> {
    let words: Vec<&str> = words.iter().copied().filter(|word| !["…", "...", "--print-env"].contains(word)).collect();
    let parsed = |more: &[&str]| {
        let shown = Command::new(binaries().join("medley-worker")).args(&words).args(more).arg("--print-env").output();
        let shown = shown.map_err(|error| error.to_string())?;
        if shown.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&shown.stderr).into_owned()) }
    };
    parsed(&[]).or_else(|wrong| parsed(&["2"]).map_err(|_| wrong))
}

/// What an image of ours is started with.
fn image(words: &[&str]) -> Result<(), String> {
    const VERSION: &str = env!("CARGO_PKG_VERSION");
    let Some(at) = words.iter().position(|word| word.contains("/medley-")) else { return Ok(()) };
    if !words[at].contains(&format!(":{VERSION}")) {
        return Err(format!("{} is of another version than this one, {VERSION}", words[at]));
    }
    if words[at].contains("medley-worker") { worker(&words[at + 1..]) } else { medley(&words[at + 1..]) }
}

/// A shell script is there, a shell can read it, and it knows the flags.
fn script(path: &str, words: &[&str]) -> Result<(), String> {
    let file = Path::new(ROOT).join(path);
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{path}: {error}"))?;
    let first = text.lines().next().unwrap_or_default();
    if first.starts_with("#!") && first.ends_with("sh") {
        let read = Command::new("bash").arg("-n").arg(&file).output().map_err(|error| error.to_string())?;
        if !read.status.success() {
            return Err(format!("bash -n {path}: {}", String::from_utf8_lossy(&read.stderr)));
        }
    }
    match words.iter().find(|word| word.starts_with("--") && !text.contains(*word)) {
        Some(flag) => Err(format!("{path} has no {flag}")),
        None => Ok(()),
    }
}
