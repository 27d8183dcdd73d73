//! Sections: when they are recorded, when they are replayed, and when they must not be.

use medley_common::spec::Precision;

use super::driver::Driver;
use super::drivers_test::{DriverTest, on_each_driver};
use super::{Buffer, Cuda, Graphs};
use crate::layout::Segment;
use crate::ops::section::{Part, Section};
use crate::ops::{DeviceError, Ops, Slice, SliceMut};

const COUNT: usize = 70;

/// Adds `from` to `into` again and again.
struct Adding<D: Driver> {
    cuda: Cuda<D>,
    graphs: Graphs<D>,
    into: Buffer<D::Memory>,
    from: Buffer<D::Memory>,
    /// How often the host was asked to enqueue it.
    asked: usize,
}

impl<D: Driver> Adding<D> {
    fn new(cuda: Cuda<D>) -> Self {
        let upload = |value| cuda.upload(vec![value; COUNT]).unwrap();
        Self { graphs: Graphs::default(), into: upload(0.0), from: upload(1.0), asked: 0, cuda }
    }

    /// The section of this number.
    fn add(&mut self, number: u64) -> Result<(), DeviceError> {
        let Self { cuda, graphs, into, from, asked } = self;
        let section = Section { part: Part::Forward(Segment::Head), places: vec![number] };
        cuda.section(graphs, section, &mut || {
            *asked += 1;
            let range = 0..COUNT;
            let from = Slice { buffer: &*from, range: range.clone() };
            cuda.add(SliceMut { buffer: &mut *into, range }, from)
        })
    }

    /// What was added up, and how often the host was asked.
    fn outcome(&self) -> (f32, usize) {
        let values = self.cuda.read(Slice { buffer: &self.into, range: 0..COUNT }).unwrap();
        assert!(values.iter().all(|value| *value == values[0]), "{values:?}");
        (values[0], self.asked)
    }
}

struct Replays;

impl DriverTest for Replays {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let mut adding = Adding::new(Cuda::new(driver.clone(), Precision::Float32));
        for expected in [(1.0, 1), (2.0, 2), (3.0, 2), (4.0, 2)] {
            adding.add(1).unwrap();
            assert_eq!(adding.outcome(), expected, "launched, then recorded, then replayed");
        }
        adding.add(2).unwrap();
        assert_eq!(adding.outcome(), (5.0, 3), "another section");

        // What it reads is another buffer now, and the other one is gone: nothing that was recorded may be done.
        adding.from = Buffer::default();
        adding.from = adding.cuda.upload(vec![10.0; COUNT]).unwrap();
        for expected in [(15.0, 4), (25.0, 5), (35.0, 5)] {
            adding.add(1).unwrap();
            assert_eq!(adding.outcome(), expected, "begun anew");
        }
        assert!(adding.cuda.stop_sections(&mut adding.graphs), "there was something to give up");
        for expected in [(45.0, 6), (55.0, 7), (65.0, 8)] {
            adding.add(1).unwrap();
            assert_eq!(adding.outcome(), expected, "launched");
        }
        assert!(!adding.cuda.stop_sections(&mut adding.graphs));

        let mut adding = Adding::new(Cuda::new(driver, Precision::Float32).without_graphs());
        (0..4).for_each(|_| adding.add(1).unwrap());
        assert_eq!(adding.outcome(), (4.0, 4), "without graphs");
    }
}

#[test]
fn a_section_is_recorded_the_second_time() {
    on_each_driver(&Replays);
}

struct Unrecorded;

impl DriverTest for Unrecorded {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let cuda = Cuda::new(driver, Precision::Float32);
        let (mut graphs, mut asked, mut made) = (Graphs::default(), 0, Vec::new());
        for _ in 0..4 {
            let section = Section { part: Part::Backward(Segment::Head), places: Vec::new() };
            cuda.section(&mut graphs, section, &mut || {
                asked += 1;
                made.push(cuda.upload(vec![2.0; COUNT])?);
                Ok(())
            })
            .unwrap();
        }
        // Once, to be recorded, which failed, and then each time.
        assert_eq!((asked, made.len()), (5, 4));
    }
}

/// What takes memory is no section, and is done all the same.
#[test]
fn what_cannot_be_recorded_is_launched() {
    on_each_driver(&Unrecorded);
}
