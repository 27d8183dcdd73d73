//! A process that is talked with: lines go to its standard input, and those of its standard output are waited for.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::{Ended, binaries};
use crate::scratch::Scratch;

/// The longest that an answer, or the end, may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Conversation {
    child: Child,
    started: Instant,
    input: Option<ChildStdin>,
    answers: Receiver<String>,
    heard: String,
    errors: Option<std::thread::JoinHandle<String>>,
}

impl Conversation {
    /// Starts `medley` with `arguments`, split at spaces, in the folder of `scratch`.
    #[must_use]
    pub fn start(scratch: &Scratch, arguments: &str) -> Self {
        let mut child = Command::new(binaries().join("medley"))
            .args(arguments.split_whitespace())
            .current_dir(scratch.path(""))
            .env("HF_HUB_OFFLINE", "1")
            .env("HF_HOME", scratch.path("no-hugging-face-cache"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start the process");
        let (sender, answers) = channel();
        let out = BufReader::new(child.stdout.take().expect("standard output is piped"));
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut err = child.stderr.take().expect("standard error is piped");
        let errors = std::thread::spawn(move || {
            let mut text = Vec::new();
            err.read_to_end(&mut text).expect("read standard error");
            String::from_utf8_lossy(&text).into_owned()
        });
        let input = child.stdin.take();
        Self { child, started: Instant::now(), input, answers, heard: String::new(), errors: Some(errors) }
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends text to its standard input, as far as it takes it.
    pub fn say(&mut self, text: &str) {
        self.input.as_mut().expect("standard input is open").write_all(text.as_bytes()).ok();
    }

    /// The next line of its standard output. Blocks.
    pub fn hear(&mut self) -> String {
        let line = self.answers.recv_timeout(PATIENCE).expect("an answer");
        self.heard.push_str(&line);
        self.heard.push('\n');
        line
    }

    /// Reads none of its answers any more.
    pub fn turn_away(&mut self) {
        let (_, nothing) = channel();
        self.answers = nothing;
    }

    /// Sends a signal to the process.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process id");
        kill_process(pid, signal).expect("send the signal");
    }

    /// Closes its standard input, and blocks until the process has ended.
    #[must_use]
    pub fn end(mut self) -> Ended {
        drop(self.input.take());
        self.wait()
    }

    /// Blocks until the process has ended.
    #[must_use]
    pub fn wait(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait for the process") {
                break status;
            }
            assert!(Instant::now() < deadline, "still running");
            // Answers that nobody takes would hold it up.
            if let Ok(line) = self.answers.recv_timeout(Duration::from_millis(5)) {
                self.heard.push_str(&line);
                self.heard.push('\n');
            }
        };
        self.answers.iter().for_each(|line| {
            self.heard.push_str(&line);
            self.heard.push('\n');
        });
        let stderr = self.errors.take().expect("not joined before").join().expect("read standard error");
        Ended { code: status.code(), stdout: std::mem::take(&mut self.heard), stderr, lifetime: self.started.elapsed() }
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // It may have ended already; nothing is to be done about a process that cannot be killed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
