//! `medley status --watch` on a real terminal, as `script` of util-linux makes one.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use medley_tests::{Scratch, binaries};
use rustix::process::{Pid, Signal, kill_process};

use crate::RECIPE;

const LONGEST: Duration = Duration::from_secs(120);
const ENTERED: &str = "\u{1b}[?1049h";
const LEFT: &str = "\u{1b}[?1049l";

/// A command on a terminal of its own.
struct Terminal {
    child: Child,
    keys: ChildStdin,
    pieces: Receiver<Vec<u8>>,
    seen: String,
}

impl Terminal {
    fn start(size: (u16, u16), command: &str) -> Self {
        let (rows, columns) = size;
        let line = format!("stty rows {rows} cols {columns}; echo pid=$$; exec {command}");
        let mut script = Command::new("script");
        script.args(["-qec", &line, "/dev/null"]).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("script of util-linux");
        let (keys, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (sender, pieces) = channel();
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut piece) {
                if sender.send(piece[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keys, pieces, seen: String::new() }
    }

    /// Blocks until all of `parts` were written.
    fn wait_for(&mut self, parts: &[&str]) {
        let started = Instant::now();
        while !parts.iter().all(|part| self.seen.contains(part)) {
            let left = LONGEST.checked_sub(started.elapsed()).unwrap_or_else(|| panic!("{parts:?}: {:?}", self.seen));
            let piece = self.pieces.recv_timeout(left).unwrap_or_else(|_| panic!("{parts:?}: {:?}", self.seen));
            self.seen.push_str(&String::from_utf8_lossy(&piece));
        }
    }

    fn press(&mut self, keys: &str) {
        self.keys.write_all(keys.as_bytes()).unwrap();
        self.keys.flush().unwrap();
    }

    fn signal(&self, signal: Signal) {
        let pid = self.seen.split("pid=").nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Its exit code, and what was written after the screen was left.
    fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        while let Ok(piece) = self.pieces.recv_timeout(LONGEST) {
            self.seen.push_str(&String::from_utf8_lossy(&piece));
        }
        assert_eq!((self.seen.matches(ENTERED).count(), self.seen.matches(LEFT).count()), (1, 1), "{:?}", self.seen);
        assert!(self.seen.rfind("\u{1b}[?25h") > self.seen.rfind("\u{1b}[?25l"), "the cursor is back: {:?}", self.seen);
        (code, self.seen.split(LEFT).nth(1).unwrap().to_owned())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_run_is_watched_on_a_full_screen_that_is_given_back() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("train {RECIPE} --num_train_epochs 4000 --workers 2 --listen 127.0.0.1:0"));
    let told = run.wait_for("coordinator listens on ");
    let address = told.split("listens on ").nth(1).unwrap().split(';').next().unwrap().to_owned();
    run.wait_for("update ");
    let watch = format!("{} status --watch --coordinator {address}", binaries().join("medley").display());
    let shown = ["training", "rank", "compute", "waiting", "learning", "leave"];
    for leave in ["q", "\u{1b}", "\u{3}"] {
        let mut terminal = Terminal::start((24, 80), &watch);
        terminal.wait_for(&[&[ENTERED], &shown[..]].concat());
        terminal.press(leave);
        let (code, after) = terminal.end();
        assert_eq!((code, after.contains("phase")), (Some(0), false), "{leave:?}: {after:?}");
    }
    // However small it is, and however it ends.
    for (signal, number) in [(Signal::TERM, 15), (Signal::INT, 2), (Signal::QUIT, 3)] {
        let mut terminal = Terminal::start((5, 20), &watch);
        terminal.wait_for(&[ENTERED, "training"]);
        terminal.signal(signal);
        assert_eq!(terminal.end().0, Some(128 + number));
    }
    // Lines, where a terminal can show no more.
    let mut terminal = Terminal::start((24, 80), &format!("env TERM=dumb {watch}"));
    terminal.wait_for(&["phase     training"]);
    terminal.signal(Signal::TERM);
    assert!(!terminal.seen.contains(ENTERED), "{:?}", terminal.seen);
    drop(terminal);
    // The end of the run is the end of watching, and its last status stays.
    let mut terminal = Terminal::start((24, 80), &watch);
    terminal.wait_for(&[ENTERED, "training"]);
    run.signal(Signal::INT);
    let (code, after) = terminal.end();
    assert!(code == Some(0) && after.contains("outcome   stopped after update"), "{after:?}");
    run.end().expect(75);
    // Where nobody answers, there is nothing to fill a screen with.
    scratch.run(&format!("status --watch --coordinator {address}")).expect(70).says(&["no coordinator answers"]);
}
