//! Where the commands of a document are run: a folder laid out as documents presume, with a tiny model and few rows.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use medley_tests::{Ended, Running, Scratch, binaries};
use rustix::process::Signal;

use super::accounts::{ENDLESS, FLAGS, SUBSTITUTIONS, Step};
use super::markdown::Shown;
use super::transcript::{self, Numbers};

/// The repository.
pub const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What torchrun does for the processes of one node, as far as they see it.
const TORCHRUN: &str = r#"#!/usr/bin/env bash
while [ "$1" != --no-python ]; do
  case $1 in --nproc-per-node) workers=$2; shift 2 ;; *) exit 64 ;; esac
done
shift
export WORLD_SIZE=$workers LOCAL_WORLD_SIZE=$workers MASTER_ADDR=127.0.0.1 MASTER_PORT=29500
export MEDLEY_COORDINATOR=${MEDLEY_COORDINATOR:-127.0.0.1:$STAGE_PORT}
ranks=()
for ((rank = 0; rank < workers; rank++)); do RANK=$rank LOCAL_RANK=$rank "$@" & ranks+=($!); done
code=0
for rank in "${ranks[@]}"; do wait "$rank" || code=$?; done
exit "$code"
"#;

/// A host that ssh reaches: this one.
const SSH: &str = "#!/bin/sh\nshift\nexec sh -c \"$*\"\n";

/// The folder, and what goes on there.
pub struct Stage {
    scratch: Scratch,
    port: u16,
    terminals: Vec<Running>,
}

impl Stage {
    /// A folder with a model, rows, and the programs where documents call them.
    pub fn new() -> Self {
        let scratch = Scratch::new(100);
        for split in ["train", "dev", "test"] {
            scratch.write(&format!("mli_{split}_v1.jsonl"), &scratch.read(&format!("{split}.jsonl")));
        }
        std::fs::create_dir_all(scratch.path("target")).expect("make a folder");
        std::os::unix::fs::symlink(binaries(), scratch.path("target/release")).expect("link the programs");
        std::fs::create_dir(scratch.path(".programs")).expect("make a folder");
        for (name, text) in [("torchrun", TORCHRUN), ("ssh", SSH)] {
            let path = format!(".programs/{name}");
            scratch.write(&path, text);
            std::fs::set_permissions(scratch.path(&path), PermissionsExt::from_mode(0o755)).expect("make it a program");
        }
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("find a free port").port();
        Self { scratch, port, terminals: Vec::new() }
    }

    /// Writes a file in the folder.
    pub fn write(&self, name: &str, text: &str) {
        self.scratch.write(name, text);
    }

    /// Reads a file of the folder, where it is there.
    pub fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.scratch.path(name)).ok()
    }

    /// Does for a command what its account says, in order.
    ///
    /// # Errors
    /// What is wrong: the command, and what came of it.
    pub fn perform(&mut self, shown: &Shown, steps: &[Step]) -> Result<(), String> {
        for step in steps {
            self.step(shown, *step).map_err(|wrong| format!("{}: {}\n{wrong}", shown.place(), shown.text))?;
        }
        Ok(())
    }

    fn step(&mut self, shown: &Shown, step: Step) -> Result<(), String> {
        match step {
            Step::Run(more) => self.run(&format!("{} {more}", shown.text), 0).map(drop),
            Step::Ends(code) => self.run(&shown.text, code.into()).map(drop),
            Step::Prints => {
                let printed = self.run(&shown.text, 0)?.stdout;
                transcript::compare(&shown.output, &printed, Numbers::Masked)
            }
            Step::First(text) => self.run(text, 0).map(drop),
            Step::Terminals(times, more) => {
                for _ in 0..times {
                    self.open(&format!("{} {more}", shown.text));
                }
                Ok(())
            }
            Step::Beside(text) => {
                self.open(text);
                Ok(())
            }
            Step::Await(text) => {
                self.terminals.first_mut().ok_or("no terminal is open")?.wait_for(text);
                Ok(())
            }
            Step::Stop => {
                self.terminals.first().ok_or("no terminal is open")?.signal(Signal::INT);
                self.wait()
            }
            Step::Wait => self.wait(),
            Step::Cannot(_) => Ok(()),
        }
    }

    /// Runs a line to its end; both of its streams are in `stdout`.
    pub fn run(&self, text: &str, code: i32) -> Result<Ended, String> {
        let ended = self.start(&format!("exec 2>&1\n{}", self.filled(text))).end();
        if ended.code == Some(code) {
            return Ok(ended);
        }
        Err(format!(
            "ended with {:?}; expected {code}\nas it was run: {}\n{}",
            ended.code,
            self.filled(text),
            ended.stdout
        ))
    }

    fn open(&mut self, text: &str) {
        let terminal = self.start(&format!("exec {}", self.filled(text)));
        self.terminals.push(terminal);
    }

    /// Waits for all terminals: each has done what it was to do, or was asked to stop.
    fn wait(&mut self) -> Result<(), String> {
        for terminal in self.terminals.drain(..) {
            let ended = terminal.end();
            if !matches!(ended.code, Some(0 | 75)) {
                return Err(format!("in another terminal: {:?}\n{}\n{}", ended.code, ended.stdout, ended.stderr));
            }
        }
        Ok(())
    }

    fn start(&self, line: &str) -> Running {
        let ours = [&self.scratch.path(".programs"), binaries(), &Path::new(ROOT).join("deploy/launch")];
        let path = std::env::var("PATH").unwrap_or_default();
        let path = ours.map(|folder| folder.display().to_string()).join(":") + ":" + &path;
        let (port, ssh) = (self.port.to_string(), self.scratch.path(".programs/ssh").display().to_string());
        let variables = [("PATH", path.as_str()), ("STAGE_PORT", &port), ("MEDLEY_SSH", &ssh), ("LC_ALL", "C.UTF-8")];
        Running::start_among(&variables, "/usr/bin/env", &["bash", "-c", line], &self.scratch.path(""))
    }

    /// A line with what stands for something put in its place.
    fn filled(&self, text: &str) -> String {
        filled(text)
            .replace("{port}", &self.port.to_string())
            .replace("{fixtures}", &format!("{ROOT}/tests/fixtures"))
            .replace("{programs}", &binaries().display().to_string())
    }
}

/// A command of a document as it can be run.
pub fn filled(text: &str) -> String {
    SUBSTITUTIONS
        .iter()
        .fold(text.to_owned(), |text, (what, by)| text.replace(what, by))
        .replace("{flags}", FLAGS)
        .replace("{endless}", ENDLESS)
}
