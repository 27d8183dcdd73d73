//! Sections of a pass as CUDA graphs: recorded once, and enqueued by one call from there on.
//!
//! A section that comes for the first time is enqueued operation by operation, by which buffers grow and cuBLASLt chooses
//! what it multiplies by; the second time it is recorded, and then replayed. What its launches are given by value is the same
//! each time: what is not, they read from the batch's numbers. Where memory lies that they are given is part of the
//! section's key, or the model's own; where any of it has been given back, the section begins anew. The side stream is no
//! part of a recording: before it begins, the stream follows all of that, and before a replay what the graph touches.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::{Rc, Weak};

use super::Cuda;
use super::driver::Driver;
use crate::display::say;
use crate::ops::DeviceError;
use crate::ops::section::Section;

/// Sections that are kept, of some 11 launches each: twice those of BERT-large in 12 numbers of tokens, where each layer's
/// gradients go to four buffers in turn.
const MOST_SECTIONS: usize = 4096;

/// What is kept of sections.
#[derive(Debug)]
pub struct Graphs<D: Driver> {
    /// None for those that have come once.
    known: BTreeMap<Section, Option<Recorded<D>>>,
    /// As many are kept as may be: others are launched.
    full: bool,
    /// No more are wanted: the device has refused one, or its memory is needed for other things.
    stopped: bool,
}

impl<D: Driver> Default for Graphs<D> {
    fn default() -> Self {
        Self { known: BTreeMap::new(), full: false, stopped: false }
    }
}

impl<D: Driver> Graphs<D> {
    /// Makes room for sections to come, where there are too many: those that came once, or concern memory that is gone, go
    /// first. Those that are replayed are worth more than others.
    fn make_room(&mut self) {
        if self.known.len() >= MOST_SECTIONS {
            self.known.retain(|_, known| known.as_ref().is_some_and(Recorded::is_whole));
            self.full = self.known.len() > MOST_SECTIONS / 2;
        }
    }

    /// Gives up all graphs, and makes no more; whether there were any.
    pub(super) fn stop(&mut self) -> bool {
        self.stopped = true;
        std::mem::take(&mut self.known).values().any(Option::is_some)
    }
}

/// Bytes that a launch was given the address of.
#[derive(Debug)]
pub(super) struct Recalled<M> {
    memory: Weak<M>,
    bytes: Range<u64>,
}

/// What a recording has been given the address of so far; none where there is no recording.
pub(super) type Recording<M> = RefCell<Option<Vec<Recalled<M>>>>;

#[derive(Debug)]
struct Recorded<D: Driver> {
    graph: D::Graph,
    touched: Vec<Recalled<D::Memory>>,
}

impl<D: Driver> Recorded<D> {
    /// Whether all that it touches is still there.
    fn is_whole(&self) -> bool {
        self.touched.iter().all(|touched| touched.memory.strong_count() > 0)
    }
}

impl<D: Driver> Cuda<D> {
    /// See [`Ops::section`](crate::ops::Ops::section).
    pub(super) fn enqueue_section(
        &self,
        graphs: &mut Graphs<D>,
        section: Section,
        enqueue: &mut dyn FnMut() -> Result<(), DeviceError>,
    ) -> Result<(), DeviceError> {
        if graphs.stopped || !self.records {
            return enqueue();
        }
        match graphs.known.get(&section) {
            Some(Some(recorded)) if recorded.is_whole() => return self.replay(recorded),
            Some(None) => {}
            // What was recorded of it concerns memory that is not there any more.
            Some(Some(_)) | None => {
                graphs.make_room();
                if !graphs.full {
                    graphs.known.insert(section, None);
                }
                return enqueue();
            }
        }
        match self.record(enqueue) {
            // It is known before it is tried: where the device has no memory for it, it can be given up.
            Ok(recorded) => self.replay(graphs.known.entry(section).or_default().insert(recorded)),
            Err(error) => {
                // Whatever it is that is wrong shows again, unless it is the recording.
                enqueue()?;
                graphs.stop();
                say(&format!("warning: going on without CUDA graphs, which takes the host longer: {error}"));
                Ok(())
            }
        }
    }

    fn record(&self, enqueue: &mut dyn FnMut() -> Result<(), DeviceError>) -> Result<Recorded<D>, DeviceError> {
        self.settle()?;
        self.driver.begin_graph()?;
        self.recording.replace(Some(Vec::new()));
        let enqueued = enqueue();
        let touched = self.recording.take().unwrap_or_default();
        // In any case: until then the stream does nothing.
        let graph = self.driver.end_graph();
        enqueued?;
        Ok(Recorded { graph: graph?, touched })
    }

    fn replay(&self, recorded: &Recorded<D>) -> Result<(), DeviceError> {
        recorded.touched.iter().try_for_each(|touched| self.settle_at(&touched.bytes))?;
        // SAFETY: it was recorded by `enqueue` and `product`, which answer for the arguments. Buffers are held by others,
        // as has been looked at; the numbers of batches, by the shelf or by the batch that is named in the key.
        unsafe { self.driver.replay(&recorded.graph) }
    }

    /// Notes what a launch is given the address of, if it is recorded.
    pub(super) fn note(&self, memory: &Rc<D::Memory>, bytes: &Range<u64>) {
        if let Some(noted) = self.recording.borrow_mut().as_mut() {
            let is_known = |known: &Recalled<_>| known.bytes == *bytes;
            if !noted.iter().any(is_known) {
                noted.push(Recalled { memory: Rc::downgrade(memory), bytes: bytes.clone() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::emulator::Emulator;
    use super::*;
    use crate::layout::Segment;
    use crate::ops::section::Part;

    /// What is replayed stays where there is too much to keep, and what is not known then is not noted any more.
    #[test]
    fn sections_that_are_replayed_stay() {
        let section = |place: usize| Section { part: Part::Forward(Segment::Layer(0)), places: vec![place as u64] };
        for (recorded, is_full) in [(MOST_SECTIONS / 4, false), (MOST_SECTIONS / 2 + 1, true)] {
            let mut graphs = Graphs::<Emulator>::default();
            for place in 0..MOST_SECTIONS {
                graphs.make_room();
                let graph = || Recorded { graph: Vec::new(), touched: Vec::new() };
                graphs.known.insert(section(place), (place < recorded).then(graph));
            }
            assert_eq!((graphs.known.len(), graphs.full), (MOST_SECTIONS, false));
            graphs.make_room();
            assert_eq!((graphs.known.len(), graphs.full), (recorded, is_full));
            assert!(graphs.known.values().all(Option::is_some));
        }
    }
}
