//! Takes in what a stream comes to, in the place of an output folder: hands each chunk on, then has the next one offered.

use std::io;

use medley_common::message::{Failure, FailureKind};
use tokio::sync::{mpsc, watch};

use super::feed::{Feed, Handle};
use super::{Predicted, Sink};
use crate::recorder::{Answer, Entry, Farewell, Keeper, QUEUED_ENTRIES};
use crate::run::Input;
use crate::run::report::EvaluationReport;
use crate::service::Slot;

/// Has the rows of a feed predicted, and hands on what comes of them.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) feed: Feed,
    pub(super) sink: Box<dyn Sink>,
    /// The names of the labels, by id.
    pub(super) names: Vec<String>,
}

impl Keeper for Desk {
    fn start(
        self: Box<Self>,
        _slot: watch::Sender<Option<Slot>>,
        answers: mpsc::UnboundedSender<Answer>,
    ) -> mpsc::Sender<Entry> {
        let Self { feed, mut sink, names } = *self;
        let (sender, mut entries) = mpsc::channel(QUEUED_ENTRIES);
        let feed = feed.start(answers.clone());
        std::thread::spawn(move || {
            let _farewell = Farewell::of(&answers);
            while let Some(entry) = entries.blocking_recv() {
                let inputs = match entry {
                    // There is no ledger that it is to be in.
                    Entry::Group(group) => vec![Input::Grouped(group.generation)],
                    Entry::Evaluation(report, _) => hand_on(&report, &feed, (&mut *sink, &names)),
                    Entry::Update(_) | Entry::Log(_) | Entry::Summary(..) | Entry::Rewind(..) => Vec::new(),
                    Entry::Receive(..) | Entry::Commit(_) | Entry::Discard(_) => Vec::new(),
                    Entry::Memory(_) | Entry::Over(_) => Vec::new(),
                };
                // A closed channel means that the run is over.
                inputs.into_iter().for_each(|input| drop(answers.send(Answer::Input(input))));
            }
        });
        sender
    }
}

/// Hands a chunk on; what the run is to hear of that.
fn hand_on(report: &EvaluationReport, feed: &Handle, (sink, names): (&mut dyn Sink, &[String])) -> Vec<Input> {
    // They were told before the rows were offered.
    let Ok(origins) = feed.origins.recv() else { return Vec::new() };
    match sink.take(&Predicted { names, origins: &origins, report }) {
        Ok(()) => {
            // A feed that has nothing more to offer has said so.
            feed.permits.send(()).ok();
            vec![Input::Published(report.update)]
        }
        // Who read the answers has enough of them.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => vec![Input::Exhausted],
        Err(error) => vec![Input::Broken(Failure { kind: FailureKind::Internal, message: error.to_string() })],
    }
}
