//! Training lane by lane on a device whose products depend on their shape: whoever computes what, the bits are the same.

use std::ops::Range;

use medley_common::evaluation::Prediction;
use medley_common::example::Example;
use medley_common::identity::{Rank, RowId};
use medley_common::lane::Node;
use medley_common::message::{Lanes, UpdateReport};
use medley_common::model::ModelConfig;
use medley_common::plan::UpdatePlan;
use medley_common::spec::{ComputeSpec, OptimizerKind, Precision, Summation, TrainSpec};

use super::fixture::{self, config, plan, random_parameters, spec};
use super::{BLOCK_ROWS, StepError, Trainer};
use crate::collective::local_transport::{Seat, seats};
use crate::collective::{Collective, CollectiveError, DenseParts, Parts, Shard, Solo, SparseRows, Summed, Traffic};
use crate::layout::{Layout, Segment};
use crate::ops::cuda::choosy_test::Choosy;
use crate::ops::cuda::driver::Driver;
use crate::ops::cuda::drivers_test::{DriverTest, host, on_each_driver};
use crate::ops::cuda::emulator::Emulator;
use crate::ops::cuda::{Buffer, Cuda};
use crate::ops::{Ops, Slice};

const LANES: u32 = 5;

type Device = Choosy<Emulator>;

/// None where the host is not to compute, or has no C++ compiler.
fn device() -> Option<Device> {
    host().map(Choosy)
}

/// A smaller vocabulary than the fixture's: most of what the emulator would do is to move words.
fn model() -> ModelConfig {
    let [hidden_dropout, attention_dropout, classifier_dropout] = [0.1; 3];
    ModelConfig { vocab_size: 99, hidden_dropout, attention_dropout, classifier_dropout, ..config() }
}

/// The fixture's rows in its words.
fn examples() -> Vec<Example> {
    let mut examples = fixture::examples();
    examples.iter_mut().flat_map(|example| &mut example.tokens).for_each(|token| *token %= 99);
    examples
}

fn trainer<O: Ops>(ops: O, precision: Precision, summation: Summation) -> Trainer<O> {
    let compute = ComputeSpec { precision, summation, ..ComputeSpec::default() };
    let spec = TrainSpec { compute, ..spec(OptimizerKind::AdamwHf, LANES) };
    Trainer::new(ops, model(), spec, random_parameters(&Layout::new(&model()))).unwrap()
}

/// Two whole updates and the rest of an epoch, which leaves lanes empty.
fn plans() -> [UpdatePlan; 3] {
    [plan(1, 0..8, LANES), plan(2, 8..16, LANES), plan(3, 16..19, LANES)]
}

/// What updates come to.
#[derive(Debug, PartialEq)]
struct Course {
    losses: Vec<Vec<f32>>,
    norms: Vec<f64>,
    parameters: Vec<f32>,
}

fn course<O: Ops>(trainer: &Trainer<O>, reports: Vec<UpdateReport>) -> Course {
    let norms = reports.iter().map(|report| report.grad_norm).collect();
    let losses = reports.into_iter().map(|report| report.losses).collect();
    Course { losses, norms, parameters: trainer.parameters().unwrap().into_owned() }
}

fn alone(device: Device, precision: Precision, summation: Summation) -> Course {
    let cuda = Cuda::new(device, precision);
    let mut solo = Solo::new(cuda.clone(), &Layout::new(&model()), LANES);
    let mut trainer = trainer(cuda, precision, summation);
    let examples = examples();
    let step = |plan| trainer.step(plan, std::slice::from_ref(&(0..LANES)), &examples, &mut solo).unwrap();
    let reports = plans().iter().map(step).collect();
    course(&trainer, reports)
}

/// Runs `work` as every rank of a group with these lanes, each in a thread of its own.
fn group<R: Send>(lanes: &[Lanes], work: impl Fn(Seat, &Lanes) -> R + Sync) -> Vec<R> {
    let (seats, work) = (seats(&Layout::new(&model()), lanes), &work);
    std::thread::scope(|scope| {
        let ranks: Vec<_> =
            seats.into_iter().zip(lanes).map(|(seat, lanes)| scope.spawn(move || work(seat, lanes))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Every rank of a group with these lanes comes to `expected`.
fn check(device: Device, precision: Precision, lanes: &[Lanes], expected: &Course) {
    let courses = group(lanes, |seat, lanes| {
        let cuda = Cuda::new(device, precision);
        let (mut collective, mut trainer) =
            (seat.join(cuda.clone()), trainer(cuda.clone(), precision, Summation::ByLane));
        let examples = examples();
        let step = |plan| trainer.step(plan, lanes, &examples, &mut collective).unwrap();
        let reports = plans().iter().map(step).collect();
        course(&trainer, reports)
    });
    assert!(courses.iter().all(|course| course == expected), "lanes {lanes:?}, {precision}");
}

#[test]
fn any_number_of_ranks_comes_to_the_same_weights() {
    let precision = Precision::Float32;
    let Some(device) = device() else { return };
    let expected = alone(device, precision, Summation::ByLane);
    assert!(expected.parameters.iter().all(|value| value.is_finite()));
    check(device, precision, &[vec![0..3], vec![3..5]], &expected);
    check(device, precision, &[vec![0..2], vec![2..4], vec![4..5]], &expected);
    // After a loss; one rank has nothing to do.
    check(device, precision, &[vec![3..4, 0..1], vec![1..3, 4..5], vec![]], &expected);
    // The device does tell a pass from another, and so would the weights.
    let at_once = alone(device, precision, Summation::ByWorker);
    assert!(at_once.parameters != expected.parameters);
}

#[test]
fn in_half_precision_too() {
    let precision = Precision::Bfloat16;
    let Some(device) = device() else { return };
    let expected = alone(device, precision, Summation::ByLane);
    check(device, precision, &[vec![0..3], vec![3..5]], &expected);
}

/// A rank is lost in the second update: what the other has computed of it is kept, and the weights are as if nothing had
/// happened.
#[test]
fn a_lost_rank_does_not_show() {
    let precision = Precision::Float32;
    let Some(device) = device() else { return };
    let expected = alone(device, precision, Summation::ByLane);
    let courses = group(&[vec![0..3], vec![3..5]], |seat, lanes| {
        let cuda = Cuda::new(device, precision);
        let (mut collective, mut trainer) =
            (seat.join(cuda.clone()), trainer(cuda.clone(), precision, Summation::ByLane));
        let (examples, plans) = (examples(), plans());
        let mut reports = vec![trainer.step(&plans[0], lanes, &examples, &mut collective).unwrap()];
        if collective.rank() == Rank(1) {
            return None;
        }
        let lost = trainer.step(&plans[1], lanes, &examples, &mut collective).unwrap_err();
        assert!(matches!(lost, StepError::Collective(_)), "{lost}");
        assert_eq!(trainer.kept(), *lanes);
        let mut solo = Solo::new(cuda.clone(), trainer.layout(), LANES);
        for plan in &plans[1..] {
            reports.push(trainer.step(plan, &[0..3, 3..5], &examples, &mut solo).unwrap());
        }
        Some(course(&trainer, reports))
    });
    assert!(courses[0].as_ref() == Some(&expected));
}

/// Bits of logits and losses.
fn bits(predictions: &[Prediction]) -> Vec<(RowId, Vec<u32>, Option<u64>)> {
    let logits = |prediction: &Prediction| prediction.logits.iter().map(|logit| logit.to_bits()).collect();
    predictions.iter().map(|one| (one.row, logits(one), one.loss.map(f64::to_bits))).collect()
}

struct Predictions;

impl DriverTest for Predictions {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let cuda = Cuda::new(Choosy(driver), Precision::Float32);
        let mut trainer = trainer(cuda, Precision::Float32, Summation::ByLane);
        let examples = &examples()[..12];
        let rows = |rows: &[u32]| rows.iter().copied().map(RowId).collect::<Vec<_>>();
        let all = trainer.predict(&rows(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]), examples).unwrap();
        assert_eq!(all.len(), 12);
        let asked = rows(&[7, 3, 11]);
        let expected: Vec<Prediction> = asked.iter().map(|row| all[row.0 as usize].clone()).collect();
        assert_eq!(bits(&trainer.predict(&asked, examples).unwrap()), bits(&expected));
        assert!(trainer.predict(&rows(&[0, 12]), examples).is_err());
    }
}

/// Whoever is asked for which rows of a split.
#[test]
fn a_row_is_predicted_the_same_in_any_company() {
    on_each_driver(&Predictions);
}

/// The passes over a split do not depend on who is asked for what: those of some rows are some of all.
#[test]
fn passes_are_those_of_the_split() {
    let Some(device) = device() else { return };
    let cuda = Cuda::new(device, Precision::Float32);
    let (trainer, examples) = (trainer(cuda, Precision::Float32, Summation::ByLane), examples());
    let rows = |rows: Range<u32>| rows.map(RowId).collect::<Vec<_>>();
    let count = examples.len() as u32;
    assert!(count > BLOCK_ROWS + 54, "rows of two blocks");
    let all = trainer.fixed_packs(&rows(0..count), &examples).unwrap();
    assert_eq!(all.concat(), rows(0..count));
    assert!(all.len() > 6, "{} passes", all.len());
    for asked in [rows(0..1), rows(40..150), rows(BLOCK_ROWS - 1..BLOCK_ROWS + 1), vec![RowId(100), RowId(3)]] {
        let passes = trainer.fixed_packs(&asked, &examples).unwrap();
        assert!(passes.iter().all(|pass| all.contains(pass)));
        let expected = all.iter().filter(|pass| pass.iter().any(|row| asked.contains(row))).count();
        assert_eq!(passes.len(), expected, "no pass is made in vain, nor twice");
    }
}

/// A group whose other ranks are lost when it comes to the sums.
struct Lost<B>(Parts<B>);

impl<B> Collective<B> for Lost<B> {
    fn rank(&self) -> Rank {
        Rank(0)
    }

    fn world(&self) -> u32 {
        2
    }

    fn launch(&mut self, segment: Segment, sums: Vec<(Node, B)>) -> Result<(), CollectiveError> {
        self.0.dense.push((segment, sums));
        Ok(())
    }

    fn launch_words(&mut self, sums: Vec<(Node, SparseRows<B>)>) -> Result<(), CollectiveError> {
        self.0.words = Some(sums);
        Ok(())
    }

    fn fence(&mut self) -> Result<Summed<B>, CollectiveError> {
        Err(CollectiveError::Aborted)
    }

    fn all_gather(&mut self, _buffer: &mut B, _shards: &[Shard]) -> Result<Traffic, CollectiveError> {
        Err(CollectiveError::Aborted)
    }

    fn reuse(&mut self, sums: Vec<B>) -> Vec<B> {
        sums
    }

    fn salvage(&mut self) -> Parts<B> {
        Parts { dense: std::mem::take(&mut self.0.dense), words: self.0.words.take() }
    }
}

struct Sums;

impl Sums {
    /// The bits of what a rank with these lanes, each in a run of its own, hands over of a lane.
    fn of<D: Driver + Clone>(driver: &D, lanes: &[u32], lane: u32) -> Vec<(Segment, Vec<u32>)> {
        let cuda = Cuda::new(driver.clone(), Precision::Float32);
        let mut trainer = trainer(cuda.clone(), Precision::Float32, Summation::ByLane);
        let runs: Lanes = lanes.iter().map(|lane| *lane..lane + 1).collect();
        let mut lost = Lost(Parts { dense: Vec::new(), words: None });
        trainer.step(&plans()[0], &runs, &examples(), &mut lost).unwrap_err();
        let Parts { dense, words } = trainer.kept.take().unwrap().parts;
        let node = Node { level: 0, index: lane };
        let bits = |buffer: &Buffer<D::Memory>| {
            let values = cuda.read(Slice { buffer, range: 0..cuda.room(buffer) }).unwrap();
            values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>()
        };
        let of_lane = |(segment, sums): &DenseParts<Buffer<D::Memory>>| {
            sums.iter().find(|(known, _)| *known == node).map(|(_, sum)| (*segment, bits(sum)))
        };
        let mut found: Vec<_> = dense.iter().filter_map(of_lane).collect();
        let words = words.unwrap();
        found.extend(
            words.iter().filter(|(known, _)| *known == node).map(|(_, sum)| (Segment::Words, bits(&sum.values))),
        );
        found
    }
}

impl DriverTest for Sums {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let driver = Choosy(driver);
        let alone = Self::of(&driver, &[3], 3);
        assert!(alone.len() > 3, "every segment is handed over");
        assert!(Self::of(&driver, &[1, 3, 4], 3) == alone);
    }
}

/// Whoever computes which other lanes.
#[test]
fn a_lane_is_summed_the_same_in_any_company() {
    on_each_driver(&Sums);
}
