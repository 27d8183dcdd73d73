//! Logits, losses and norms of gradients on the way through some updates, computed by the kernels, against the CPU's: of the
//! fixture, and of layers of BERT-large's widths.

use medley_common::identity::RowId;
use medley_common::spec::{ComputeSpec, OptimizerKind, Precision, Summation, TrainSpec};

use super::Trainer;
use super::fixture::{plan, spec};
use super::gradients_test::{Case, LANES};
use crate::collective::Solo;
use crate::layout::Layout;
use crate::ops::Ops;
use crate::ops::cpu::Cpu;
use crate::ops::cuda::Cuda;
use crate::ops::cuda::driver::Driver;
use crate::ops::cuda::drivers_test::{DriverTest, checked, distance, has_gpu, is_fast, on_each_driver};

/// What can be seen of a training from outside, in its order.
struct Course {
    /// Before the first update and after the last, without dropout.
    logits: Vec<f32>,
    losses: Vec<f32>,
    norms: Vec<f32>,
}

impl Case {
    fn course<O: Ops + Clone>(&self, ops: O, precision: Precision, updates: u64) -> Course {
        let mut model = self.model.clone();
        (model.hidden_dropout, model.attention_dropout, model.classifier_dropout) = (0.1, 0.1, 0.1);
        let compute = ComputeSpec { precision, summation: Summation::ByWorker, ..ComputeSpec::default() };
        let (spec, layout) = (TrainSpec { compute, ..spec(OptimizerKind::AdamwHf, LANES) }, Layout::new(&model));
        let mut solo = Solo::new(ops.clone(), &layout, LANES);
        let mut trainer = Trainer::new(ops, model, spec, self.parameters.clone()).unwrap();
        let rows: Vec<RowId> = (0..8).map(RowId).collect();
        let mut course = Course { logits: Vec::new(), losses: Vec::new(), norms: Vec::new() };
        for update in 1..=updates + 1 {
            if update == 1 || update > updates {
                let predictions = trainer.predict(&rows, &self.examples).unwrap();
                course.logits.extend(predictions.into_iter().flat_map(|prediction| prediction.logits));
            }
            if update <= updates {
                let (plan, lanes) = (plan(update, 0..8, LANES), std::slice::from_ref(&(0..LANES)));
                let report = trainer.step(&plan, lanes, &self.examples, &mut solo).unwrap();
                course.losses.push(report.losses.iter().sum());
                course.norms.push(report.grad_norm as f32);
            }
        }
        course
    }
}

/// The courses of both models in these precisions. Logits differ by so much at most; norms of gradients by half as much and
/// losses, which are sums over all rows, by an eighth.
struct Courses(&'static [(Precision, f32)]);

impl DriverTest for Courses {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let mut cases = vec![(Case::fixture(), if is_fast() { 8 } else { 2 })];
        // It takes the host long, and its gradients are looked at there.
        if has_gpu() {
            cases.push((Case::large(), if is_fast() { 4 } else { 1 }));
        }
        for (case, updates) in cases {
            let expected = case.course(Cpu, Precision::Float32, updates);
            for (precision, tolerance) in self.0 {
                let got = case.course(Cuda::new(driver.clone(), *precision), *precision, updates);
                let pairs = [
                    ("logits", &got.logits, &expected.logits, *tolerance),
                    ("losses", &got.losses, &expected.losses, tolerance / 8.0),
                    ("norms", &got.norms, &expected.norms, tolerance / 2.0),
                ];
                for (what, got, expected, tolerance) in pairs {
                    let part = distance(got, expected);
                    let what = format!("{what} of {} in {precision}", case.name);
                    checked(&what, tolerance.into(), part.into(), &format!("{updates} updates"));
                    assert!(part < tolerance, "{what}: {part:.1e}: {got:?}, expected {expected:?}");
                }
            }
        }
    }
}

#[test]
fn in_single_precision_a_course_is_the_cpus() {
    on_each_driver(&Courses(&[(Precision::Float32, 1e-4)]));
}

#[test]
fn in_half_precision_a_course_is_near_the_cpus() {
    on_each_driver(&Courses(&[(Precision::Bfloat16, 0.04), (Precision::Float16, 0.01)]));
}

/// Rounded only where the GPU is told to, as `deploy/cuda/check` does for this test alone.
#[test]
fn in_tf32_a_course_is_near_the_cpus() {
    on_each_driver(&Courses(&[(Precision::Tf32, 0.01)]));
}
