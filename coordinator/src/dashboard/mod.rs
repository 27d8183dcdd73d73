//! `medley status --watch` on a terminal: the run on a full screen, for as long as it goes on.
//!
//! What is shown is a pure function of what was told (`view.rs`) into a buffer (`screen.rs` and its parts); all that touches the
//! terminal is in `terminal.rs`, which gives it back however this ends.

mod charts;
mod history;
mod lanes;
mod screen;
mod terminal;
mod view;

use std::time::{Duration, Instant};

use medley_proto::v1;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::cli::Status;
use crate::client::ClientError;
use crate::status_client::{Viewer, watch};
use terminal::{Key, Screen};
use view::{News, View};

/// The screen is drawn anew at least so often: times go on.
const TICK: Duration = Duration::from_millis(500);

/// How watching has ended.
enum Ending {
    /// Whoever watches has seen enough.
    Left,
    /// The run is over, or nobody answers any more.
    Over(Result<(), ClientError>),
}

/// Shows the run until it ends or whoever watches leaves. Ends with the run's last status, as `medley status` has it.
///
/// # Errors
/// Nobody answers, the answer breaks off and nobody takes it up again, or the terminal cannot be written to.
pub async fn show(arguments: &Status) -> Result<(), ClientError> {
    let (sender, mut news) = mpsc::unbounded_channel();
    let watched = arguments.clone();
    let mut watching = tokio::spawn(async move { watch(&watched.reach, &mut Teller(sender)).await });
    let mut view = View::new(arguments.reach.coordinator.to_string());
    // Where nobody answers, there is nothing to fill a screen with.
    while !view.is_told() {
        match news.recv().await {
            Some(told) => view.take(told, Instant::now()),
            None => return ended(&mut watching).await,
        }
    }
    // Before the terminal is taken: whatever ends this gives it back.
    let mut signals = Signals::listen()?;
    let Ok(mut screen) = Screen::enter() else {
        // A terminal that cannot be taken can be written to all the same.
        watching.abort();
        return tokio::select! {
            ended = crate::status_client::roll(arguments) => ended,
            number = signals.next() => Err(ClientError::Signalled(number)),
        };
    };
    let ending = follow(&mut screen, &mut view, (&mut news, &mut signals), &mut watching).await;
    screen.leave();
    watching.abort();
    match ending? {
        Ending::Left => Ok(()),
        Ending::Over(result) => {
            crate::status_client::print_text(view.status())?;
            result
        }
    }
}

/// Draws what is told, until there is an end.
async fn follow(
    screen: &mut Screen,
    view: &mut View,
    (news, signals): (&mut mpsc::UnboundedReceiver<News>, &mut Signals),
    watching: &mut JoinHandle<Result<(), ClientError>>,
) -> Result<Ending, ClientError> {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        // A terminal that was slow shows the newest.
        while let Ok(told) = news.try_recv() {
            view.take(told, Instant::now());
        }
        screen.draw(|frame, palette| screen::render(frame, view, palette, Instant::now()))?;
        tokio::select! {
            key = screen.key() => match key {
                Some(Key::Leave) => return Ok(Ending::Left),
                Some(Key::Resized) => {}
                // The terminal is gone.
                None => return Ok(Ending::Left),
            },
            told = news.recv() => match told {
                Some(told) => view.take(told, Instant::now()),
                None => return Ok(Ending::Over(ended(watching).await)),
            },
            _ = ticks.tick() => {}
            number = signals.next() => return Err(ClientError::Signalled(number)),
        }
    }
}

/// What ends a process, unless it is listened for.
struct Signals([(u8, Signal); 4]);

impl Signals {
    fn listen() -> Result<Self, ClientError> {
        let listen = |kind: SignalKind| {
            let number = u8::try_from(kind.as_raw_value()).unwrap_or_default();
            signal(kind).map(|signal| (number, signal)).map_err(ClientError::Output)
        };
        Ok(Self([
            listen(SignalKind::terminate())?,
            listen(SignalKind::interrupt())?,
            listen(SignalKind::hangup())?,
            listen(SignalKind::quit())?,
        ]))
    }

    /// The number of the next that comes. Safe to cancel.
    async fn next(&mut self) -> u8 {
        let [(terminate, one), (interrupt, two), (hang_up, three), (quit, four)] = &mut self.0;
        tokio::select! {
            _ = one.recv() => *terminate,
            _ = two.recv() => *interrupt,
            _ = three.recv() => *hang_up,
            _ = four.recv() => *quit,
        }
    }
}

/// How the task that watches has ended.
async fn ended(watching: &mut JoinHandle<Result<(), ClientError>>) -> Result<(), ClientError> {
    watching.await.unwrap_or_else(|error| Err(ClientError::Output(std::io::Error::other(error))))
}

/// Tells the screen what a coordinator says.
struct Teller(mpsc::UnboundedSender<News>);

impl Viewer for Teller {
    fn wants_report(&self) -> bool {
        true
    }

    fn report(&mut self, report: v1::Report) {
        // A screen that is gone needs nothing more.
        self.0.send(News::Report(Box::new(report))).ok();
    }

    fn status(&mut self, status: v1::Status) -> Result<(), ClientError> {
        self.0.send(News::Status(Box::new(status))).ok();
        Ok(())
    }

    fn lost(&mut self, error: &ClientError) {
        self.0.send(News::Lost(error.to_string())).ok();
    }
}
