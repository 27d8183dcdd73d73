//! The terminal: taken for a full screen, and given back as it was, however that ends.

use std::io::{self, Stdout, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::{Frame, Terminal};
use tokio::sync::mpsc;

use super::screen::Palette;

/// How soon the thread that reads keys sees that nobody wants them any more.
const LOOK: Duration = Duration::from_millis(100);
/// Keys that may wait.
const QUEUED: usize = 16;

/// Whether the terminal is taken at present.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What a key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    /// Leave: q, Esc, Ctrl-C.
    Leave,
    /// The terminal has another size.
    Resized,
}

/// A terminal that is a full screen as long as the value lives.
pub(super) struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    keys: mpsc::Receiver<Key>,
    over: Arc<AtomicBool>,
    palette: Palette,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// It is none, or is gone; then it is as it was.
    pub(super) fn enter() -> io::Result<Self> {
        restore_on_panic();
        TAKEN.store(true, Ordering::SeqCst);
        let taken = enable_raw_mode().and_then(|()| execute!(stdout(), EnterAlternateScreen));
        let terminal = taken.and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        let terminal = terminal.inspect_err(|_| restore())?;
        let over = Arc::new(AtomicBool::new(false));
        let keys = listen(Arc::clone(&over));
        Ok(Self { terminal, keys, over, palette: Palette::of_environment() })
    }

    /// Draws the screen.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame<'_>, Palette)) -> io::Result<()> {
        let palette = self.palette;
        self.terminal.draw(|frame| draw(frame, palette)).map(drop)
    }

    /// The next key that means something; `None` once the terminal is gone. Safe to cancel.
    pub(super) async fn key(&mut self) -> Option<Key> {
        self.keys.recv().await
    }

    /// Gives the terminal back.
    pub(super) fn leave(self) {
        drop(self);
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        restore();
    }
}

/// Makes the terminal what it was, once. Where that fails it is gone.
fn restore() {
    if TAKEN.swap(false, Ordering::SeqCst) {
        execute!(stdout(), LeaveAlternateScreen, Show).ok();
        disable_raw_mode().ok();
    }
}

/// A panic's message is for the screen below.
fn restore_on_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
    });
}

/// Reads keys on a thread of its own, until `over`.
fn listen(over: Arc<AtomicBool>) -> mpsc::Receiver<Key> {
    let (sender, keys) = mpsc::channel(QUEUED);
    std::thread::spawn(move || {
        while !over.load(Ordering::SeqCst) {
            let key = match event::poll(LOOK) {
                Ok(false) => continue,
                Ok(true) => event::read().map(|event| meaning(&event)),
                Err(error) => Err(error),
            };
            match key {
                // Whoever holds a key down wants what the first one has brought.
                Ok(Some(key)) => drop(sender.try_send(key)),
                Ok(None) => {}
                Err(_) => return,
            }
        }
    });
    keys
}

fn meaning(event: &Event) -> Option<Key> {
    match event {
        Event::Resize(..) => Some(Key::Resized),
        Event::Key(key) if key.kind != KeyEventKind::Release => match key.code {
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => Some(Key::Leave),
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Some(Key::Leave),
            _ => None,
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use ratatui::crossterm::event::KeyEvent;

    use super::*;

    #[test]
    fn three_keys_leave() {
        let pressed = |code, modifiers| meaning(&Event::Key(KeyEvent::new(code, modifiers)));
        assert_eq!(pressed(KeyCode::Char('q'), KeyModifiers::NONE), Some(Key::Leave));
        assert_eq!(pressed(KeyCode::Esc, KeyModifiers::NONE), Some(Key::Leave));
        assert_eq!(pressed(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Key::Leave));
        assert_eq!(pressed(KeyCode::Char('c'), KeyModifiers::NONE), None);
        assert_eq!(meaning(&Event::Resize(20, 5)), Some(Key::Resized));
    }
}
