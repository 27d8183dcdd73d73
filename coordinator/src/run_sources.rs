//! What the run that made a model read, and how: its command says it.

use std::path::Path;

use crate::archive::{Certificate, LEDGER_FILE, Lines, MANIFEST_FILE, Next, Record};
use crate::cli::{self, Cli};
use crate::quickstart;
use crate::spec::Sources;

/// What the run read whose output folder `folder` is, or one of whose checkpoints. `None` where it is of no run of
/// Medley, or does not tell. Blocks.
pub(crate) fn run_sources(folder: &Path) -> Option<Sources> {
    let above = folder.join("..");
    let run = if folder.join(MANIFEST_FILE).exists() { &above } else { folder };
    let command = began(run).or_else(|| Some(Certificate::read_alone(run).ok()??.command))?;
    match cli::parse(&command).ok()? {
        Cli::Train(spec) | Cli::Serve(spec) => Some(spec.sources().clone()),
        Cli::Quickstart(arguments) => match cli::parse(quickstart::command(&arguments)).ok()? {
            Cli::Train(spec) => Some(spec.sources().clone()),
            _ => None,
        },
        _ => None,
    }
}

/// The command that the ledger of a run begins with; a `--config` of it by its whole path.
fn began(run: &Path) -> Option<Vec<String>> {
    let Next::Record(Record::Run(identity)) = Lines::open(&run.join(LEDGER_FILE)).ok()?.next_line().ok()? else {
        return None;
    };
    let whole = |file: &str| identity.folder.join(file).to_string_lossy().into_owned();
    let mut words: Vec<String> = Vec::with_capacity(identity.command.len());
    for word in &identity.command {
        let is_config = words.last().is_some_and(|last| last == "--config");
        words.push(match word.strip_prefix("--config=") {
            Some(file) => format!("--config={}", whole(file)),
            None if is_config => whole(word),
            None => word.clone(),
        });
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::fixture::identity;
    use crate::archive::{Ledger, RunIdentity};

    /// A run's folder with a ledger that begins with this command.
    fn run(command: &str, folder: &Path) -> tempfile::TempDir {
        let run = tempfile::tempdir().unwrap();
        let command = command.split_whitespace().map(str::to_owned).collect();
        let identity = RunIdentity { command, folder: folder.to_owned(), ..identity() };
        drop(Ledger::create(run.path(), identity).unwrap());
        run
    }

    const TRAIN: &str = "medley train --model_name_or_path m --do_train --train_file t --output_dir o";

    fn length(folder: &Path) -> Option<u32> {
        run_sources(folder).map(|sources| sources.max_seq_length)
    }

    #[test]
    fn a_run_says_it_in_its_command() {
        let here = tempfile::tempdir().unwrap();
        assert_eq!(length(run(&format!("{TRAIN} --max-seq-length 512"), here.path()).path()), Some(512));
        assert_eq!(length(run(TRAIN, here.path()).path()), Some(128));
        assert_eq!(length(run("medley quickstart", here.path()).path()), Some(128));
        std::fs::write(here.path().join("run.toml"), "max_seq_length = 96\n").unwrap();
        for config in ["--config run.toml", "--config=run.toml"] {
            assert_eq!(length(run(&format!("{TRAIN} {config}"), here.path()).path()), Some(96), "{config}");
        }
    }

    #[test]
    fn a_checkpoint_asks_the_run_above_it() {
        let run = run(&format!("{TRAIN} --max_seq_length 64"), Path::new("/"));
        let checkpoint = run.path().join("checkpoint-9");
        std::fs::create_dir(&checkpoint).unwrap();
        assert_eq!(length(&checkpoint), None, "a folder is no checkpoint without its manifest");
        std::fs::write(checkpoint.join(MANIFEST_FILE), "{}").unwrap();
        assert_eq!(length(&checkpoint), Some(64));
    }

    #[test]
    fn a_model_of_another_program_does_not_tell() {
        assert_eq!(length(tempfile::tempdir().unwrap().path()), None);
    }
}
