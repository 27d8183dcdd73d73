//! Processes of the real binaries, with bounded lives.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The longest any process of a test may live.
const LIFETIME: Duration = Duration::from_secs(240);

/// The folder with `medley` and `medley-worker`, built as the README builds them.
#[must_use]
pub fn binaries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--release", "--locked", "--workspace", "--bins"]);
        cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        // What cargo tells a test of its package: ring's build script would take it for a change, and all be built again.
        for (name, _) in std::env::vars_os() {
            if ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|own| name.as_encoded_bytes().starts_with(own.as_bytes())) {
                cargo.env_remove(name);
            }
        }
        let built = cargo.output().expect("run cargo");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let test = std::env::current_exe().expect("find the test's own binary");
        let folder = test.parent().and_then(Path::parent).expect("target/release/deps/suite");
        assert!(folder.join("medley").is_file(), "no medley in {}", folder.display());
        folder.to_owned()
    })
}

/// What a failed test shows of what a process said: its beginning and its end.
fn ends(text: &str) -> String {
    const SHOWN: usize = 40;
    let lines: Vec<&str> = text.lines().collect();
    match lines.len().checked_sub(2 * SHOWN) {
        None | Some(0) => text.to_owned(),
        Some(left) => {
            let (first, last) = (lines[..SHOWN].join("\n"), lines[SHOWN + left..].join("\n"));
            format!("{first}\n[{left} lines]\n{last}")
        }
    }
}

/// A process that has ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All it wrote to standard output.
    pub stdout: String,
    /// All it wrote to standard error.
    pub stderr: String,
    /// How long it lived.
    pub lifetime: Duration,
}

impl Ended {
    /// Asserts the exit code; shows the output where it is another.
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, ends(&self.stderr));
        self
    }

    /// Asserts that standard error says all of `parts`.
    pub fn says(self, parts: &[&str]) -> Self {
        for part in parts {
            assert!(self.stderr.contains(part), "missing {part:?} in:\n{}", ends(&self.stderr));
        }
        self
    }
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    started: Instant,
    lines: Receiver<String>,
    stderr: String,
    stdout: Option<std::thread::JoinHandle<String>>,
}

impl Running {
    /// Starts `medley` or `medley-worker` with `arguments` in `folder`, away from any real Hugging Face cache.
    #[must_use]
    pub fn start(binary: &str, arguments: &[&str], folder: &Path) -> Self {
        Self::start_among(&[], binary, arguments, folder)
    }

    /// Starts one as [`Self::start`] does, with `variables` in its environment.
    #[must_use]
    pub fn start_among(variables: &[(&str, &str)], binary: &str, arguments: &[&str], folder: &Path) -> Self {
        let mut child = Command::new(binaries().join(binary))
            .args(arguments)
            .current_dir(folder)
            .envs(variables.iter().copied())
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", folder.join("no-hugging-face-cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the process");
        let (sender, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().expect("standard error is piped"));
        std::thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    return;
                }
            }
        });
        let mut out = child.stdout.take().expect("standard output is piped");
        let stdout = std::thread::spawn(move || {
            let mut text = Vec::new();
            out.read_to_end(&mut text).expect("read standard output");
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { child, started: Instant::now(), lines, stderr: String::new(), stdout: Some(stdout) }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Blocks until a line of standard error contains `text`; returns the line.
    pub fn wait_for(&mut self, text: &str) -> String {
        loop {
            // A run that says other things all the time is not waited for any longer.
            let left = LIFETIME.saturating_sub(self.started.elapsed());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.stderr.push_str(&line);
                    self.stderr.push('\n');
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    panic!("{text:?} never came; standard error:\n{}", ends(&self.stderr))
                }
                Err(RecvTimeoutError::Disconnected) => panic!("ended without {text:?}:\n{}", ends(&self.stderr)),
            }
        }
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process id");
        kill_process(pid, signal).expect("send the signal");
    }

    /// Blocks until the process has ended.
    #[must_use]
    pub fn end(mut self) -> Ended {
        while let Some(left) = LIFETIME.checked_sub(self.started.elapsed()) {
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.stderr.push_str(&line);
                    self.stderr.push('\n');
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("still running; standard error:\n{}", ends(&self.stderr)),
            }
        }
        let status = self.child.wait().expect("wait for the process");
        let stdout = self.stdout.take().expect("not joined before").join().expect("read standard output");
        let stderr = std::mem::take(&mut self.stderr);
        Ended { code: status.code(), stdout, stderr, lifetime: self.started.elapsed() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; nothing is to be done about a process that cannot be killed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Reads all lines of a text file.
#[must_use]
pub fn lines(path: &Path) -> Vec<String> {
    let file = std::fs::File::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    BufReader::new(file).lines().map(|line| line.expect("a line of text")).collect()
}
