//! A step beside the stream that is as late as it may be: whatever is done meanwhile, it moves what it should.

use medley_common::spec::Precision;

use super::driver::Driver;
use super::drivers_test::host;
use super::emulator::{Emulator, held};
use super::limited_test::Limited;
use super::products_test::STEP;
use super::{Buffer, Cuda};
use crate::ops::adamw::AdamW;
use crate::ops::cpu::oracle::noise;
use crate::ops::linear::{Linear, LinearShape};
use crate::ops::sgd::{self, Sgd};
use crate::ops::step::StepRun;
use crate::ops::{DeviceError, Ops, Slice, SliceMut};

/// Elements of each of two segments.
const COUNT: usize = 9000;

const SGD: sgd::Coefficients = sgd::Coefficients {
    gradient_scale: 0.25,
    decay: 0.01,
    momentum: 0.9,
    taken: 0.8,
    direct: 0.7,
    through: 0.6,
    step_size: 0.02,
};

/// Two segments after a step by AdamW, or by SGD with momentum.
struct Stepped<D: Driver> {
    cuda: Cuda<D>,
    parameters: Buffer<D::Memory>,
    memory: [Buffer<D::Memory>; 2],
    gradients: [Buffer<D::Memory>; 2],
}

impl<D: Driver> Stepped<D> {
    fn new(driver: D, precision: Precision, is_adamw: bool) -> Self {
        let cuda = Cuda::new(driver, precision);
        let upload = |count, seed| cuda.upload(noise(count, seed)).unwrap();
        let mut parameters = cuda.upload_parameters(noise(2 * COUNT, 1)).unwrap();
        let mut memory = [upload(2 * COUNT, 2), cuda.upload(vec![0.5; 2 * COUNT]).unwrap()];
        let gradients = [upload(COUNT, 3), upload(COUNT, 4)];
        let run = |(segment, range, decays): (usize, std::ops::Range<usize>, bool)| StepRun {
            gradient: Slice { buffer: &gradients[segment], range: range.clone() },
            range: segment * COUNT + range.start..segment * COUNT + range.end,
            decays,
        };
        let runs = [(0, 0..8500, true), (0, 8500..COUNT, false), (1, 0..COUNT, true)].map(run).into();
        let whole = |buffer| SliceMut { buffer, range: 0..2 * COUNT };
        let ([first, second], parameters_mut) = (memory.each_mut().map(whole), whole(&mut parameters));
        let made = if is_adamw {
            cuda.adamw(AdamW { coefficients: STEP, parameters: parameters_mut, first, second, runs })
        } else {
            cuda.sgd(Sgd { coefficients: SGD, parameters: parameters_mut, momentum: Some(first), runs })
        };
        made.unwrap();
        Self { cuda, parameters, memory, gradients }
    }

    /// What is to be, however it has come about.
    fn results(self) -> [Vec<f32>; 4] {
        let (copy, [first, second]) = (self.copy(0..2 * COUNT), self.memory);
        [self.parameters, first, second]
            .map(|buffer| self.cuda.download(buffer).unwrap())
            .into_iter()
            .chain([copy])
            .collect::<Vec<_>>()
            .try_into()
            .unwrap()
    }

    /// Sums of ten of the parameters that products read.
    fn copy(&self, range: std::ops::Range<usize>) -> Vec<f32> {
        let (outputs, mut sums) = (range.len() / 10, Buffer::default());
        self.cuda.grow(&mut sums, outputs).unwrap();
        let ones = self.cuda.upload_parameters(vec![1.0; 10]).unwrap();
        let (shape, weight) = (LinearShape { rows: 1, inputs: 10, outputs }, Slice { buffer: &self.parameters, range });
        self.cuda.linear(Linear { shape, x: &ones, weight, bias: None, y: &mut sums }).unwrap();
        self.cuda.download(sums).unwrap()
    }
}

/// Runs `test` with what a step has to come to, and with a way to make one that is late.
fn on_late_steps(test: impl Fn(&[Vec<f32>; 4], &dyn Fn() -> Stepped<Emulator>)) {
    let Some(emulator) = host() else { return };
    for precision in [Precision::Float32, Precision::Bfloat16] {
        for is_adamw in [true, false] {
            let stepped = |late| Stepped::new(Emulator { late, ..emulator }, precision, is_adamw);
            let expected = stepped(false).results();
            test(&expected, &|| {
                let stepped = stepped(true);
                assert_eq!(held(), 2, "a launch for each segment, and nobody has asked for it");
                stepped
            });
            assert_eq!(held(), 0);
        }
    }
}

#[test]
fn who_looks_sees_the_step() {
    on_late_steps(|expected, late| {
        assert!(late().results() == *expected);
        let stepped = late();
        assert!(stepped.copy(COUNT..2 * COUNT) == expected[3][COUNT / 10..], "the copy comes first");
        let stepped = late();
        let read = |buffer| stepped.cuda.read(Slice { buffer, range: 0..2 * COUNT }).unwrap();
        assert!(read(&stepped.memory[0]) == expected[1], "what the optimizer remembers comes first");
    });
}

/// Forward begins while the upper layers' step goes on.
#[test]
fn only_what_is_asked_for_is_waited_for() {
    on_late_steps(|expected, late| {
        let Stepped { cuda, parameters, .. } = &late();
        let read = |range| cuda.read(Slice { buffer: parameters, range }).unwrap();
        cuda.zeros(COUNT).unwrap();
        assert_eq!(held(), 2, "what the step does not touch");
        assert!(read(COUNT - 1..COUNT)[..] == expected[0][COUNT - 1..COUNT]);
        assert_eq!(held(), 1);
        assert!(read(COUNT..COUNT + 1)[..] == expected[0][COUNT..COUNT + 1]);
        assert_eq!(held(), 0);
    });
    on_late_steps(|_, late| {
        let stepped = late();
        stepped.cuda.wait().unwrap();
        assert_eq!(held(), 0, "all is done when that is waited for");
    });
}

#[test]
fn gradients_are_not_overwritten_before_the_step_has_read_them() {
    on_late_steps(|expected, late| {
        for segment in [0, 1] {
            let mut stepped = late();
            let other = stepped.cuda.upload(noise(COUNT, 9)).unwrap();
            let into = SliceMut { buffer: &mut stepped.gradients[segment], range: 0..COUNT };
            stepped.cuda.copy(into, Slice { buffer: &other, range: 0..COUNT }).unwrap();
            assert_eq!(held(), 1 - segment);
            assert!(stepped.results() == *expected);
        }
    });
}

/// The stand-in fills memory that is freed with NaN, and says where it is written to.
#[test]
fn memory_lasts_until_the_step_is_done() {
    on_late_steps(|expected, late| {
        let mut stepped = late();
        stepped.gradients = Default::default();
        assert!(stepped.results() == *expected);
        // Another state takes the place of this one, as in a handover.
        let mut stepped = late();
        stepped.parameters = stepped.cuda.upload_parameters(noise(2 * COUNT, 1)).unwrap();
        stepped.memory = Default::default();
        assert!(stepped.cuda.download(stepped.parameters).unwrap() == noise(2 * COUNT, 1));
        assert_eq!(held(), 2);
        drop(stepped.cuda);
        assert_eq!(held(), 0, "the last of the device waits for what is still to be done");
    });
}

/// Gradients that nobody else holds make room where there is no other.
#[test]
fn memory_that_a_step_holds_is_not_missing() {
    let Some(emulator) = host() else { return };
    let limited = Limited::new(Emulator { late: true, ..emulator }, 1 << 20);
    let Stepped { cuda, gradients, .. } = Stepped::new(limited.clone(), Precision::Float32, true);
    drop(gradients);
    let free = (1 << 20) - limited.used();
    let _rest = cuda.zeros(free as usize / 4).unwrap();
    assert_eq!(held(), 2);
    cuda.zeros(COUNT).unwrap();
    assert_eq!(held(), 0);
    assert!(matches!(cuda.zeros(1 << 20), Err(DeviceError::OutOfMemory { .. })));
}
