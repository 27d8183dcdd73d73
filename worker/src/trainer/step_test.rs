use std::borrow::Cow;

use medley_common::identity::{Generation, Rank, RowId};
use medley_common::lane::Node;
use medley_common::message::Form;
use medley_common::model::ModelConfig;
use medley_common::schedule::{Decay, LrSchedule};
use medley_common::secret::Secret;
use medley_common::spec::{ComputeSpec, OptimizerKind, Summation, TrainSpec};

use super::*;
use crate::collective::{AbortSwitch, Listener, Parts, Shard, Solo, SparseRows, Tcp, TcpSettings, Traffic};
use crate::ops::cpu::Cpu;
use crate::ops::cpu::wide::tests::at_each_width;
use crate::trainer::Handover;
use crate::trainer::fixture::{config, examples, group, plan, spec, train, trainer};

fn with_dropout(config: ModelConfig) -> ModelConfig {
    ModelConfig { hidden_dropout: 0.1, attention_dropout: 0.1, classifier_dropout: 0.1, ..config }
}

/// A model whose sizes are neither powers of two nor multiples of a vector.
fn odd() -> ModelConfig {
    ModelConfig {
        hidden_size: 70,
        num_attention_heads: 5,
        intermediate_size: 130,
        vocab_size: 2001,
        num_labels: 4,
        ..config()
    }
}

fn smooth(lanes: u32) -> TrainSpec {
    TrainSpec { label_smoothing: 0.1, ..spec(OptimizerKind::AdamwHf, lanes) }
}

/// INV-3 and more: the weights depend neither on the number of workers nor on that of threads.
#[test]
fn weights_have_the_same_bits_for_any_number_of_workers_and_threads() {
    for (config, lanes) in [(with_dropout(config()), 8), (with_dropout(odd()), 5)] {
        // The second update leaves lanes empty, and with them the share of a rank.
        let plans = [plan(1, 0..11, lanes), plan(2, 11..13, lanes), plan(3, 13..29, lanes)];
        let make = || trainer(&config, smooth(lanes));
        let (expected, reports) = train(&make, &plans, (1, 1));
        assert_ne!(expected.parameters().unwrap(), make().parameters().unwrap());
        // The last group has ranks without a lane.
        for group in [(1, 2), (1, 3), (2, 1), (3, 1), (3, 2), (lanes, 1), (lanes + 2, 1)] {
            let (got, others) = train(&make, &plans, group);
            assert!(got.parameters().unwrap() == expected.parameters().unwrap(), "{group:?}");
            assert!(got.memory().unwrap() == expected.memory().unwrap(), "{group:?}");
            let lanes = others.iter().zip(&reports).flat_map(|(other, all)| other.lanes.iter().zip(&all.lanes));
            assert!(lanes.clone().all(|(other, lane)| other == lane), "{group:?}");
            assert!(others.iter().zip(&reports).all(|(other, all)| other.losses == all.losses), "{group:?}");
        }
    }
}

/// However a rank divides its lanes into passes, the update has the same bits.
#[test]
fn weights_have_the_same_bits_for_any_number_of_passes() {
    let (config, lanes) = (with_dropout(config()), 6);
    let plans = [plan(1, 0..11, lanes), plan(2, 11..14, lanes), plan(3, 14..30, lanes)];
    let make = |most: u32| {
        let mut trainer = trainer(&config, smooth(lanes));
        trainer.passes.most = most;
        trainer
    };
    let (expected, reports) = train(&|| make(u32::MAX), &plans, (1, 1));
    for (most, world) in [(4, 1), (3, 1), (2, 1), (1, 1), (2, 2), (1, 2)] {
        let (got, others) = train(&|| make(most), &plans, (world, 1));
        assert!(got.parameters().unwrap() == expected.parameters().unwrap(), "{most} lanes a pass, {world} ranks");
        assert!(others.iter().zip(&reports).all(|(other, all)| other.losses == all.losses), "{most} lanes a pass");
        assert!(world > 1 || others[2].tokens == reports[2].tokens);
    }
}

/// Whatever vectors the processor has: loops never contract a multiplication and an addition, and products always do.
#[test]
fn weights_have_the_same_bits_with_vectors_of_any_width() {
    let config = with_dropout(odd());
    let plans = [plan(1, 0..11, 8), plan(2, 11..24, 8)];
    let trained = || train(&|| trainer(&config, smooth(8)), &plans, (2, 2)).0.parameters().unwrap().to_vec();
    let found = at_each_width(trained);
    assert!(
        found.windows(2).all(|pair| pair[0].1 == pair[1].1),
        "{:?}",
        found.iter().map(|it| it.0).collect::<Vec<_>>()
    );
}

fn by_worker(spec: TrainSpec) -> TrainSpec {
    TrainSpec { compute: ComputeSpec { summation: Summation::ByWorker, ..spec.compute }, ..spec }
}

/// All that a rank computes is one product a weight, as if there were one lane; ranks agree, whatever their number.
#[test]
fn sums_by_worker_are_those_of_one_lane() {
    let config = with_dropout(config());
    let plans = |lanes| [plan(1, 0..11, lanes), plan(2, 11..13, lanes), plan(3, 13..29, lanes)];
    let (one_lane, _) = train(&|| trainer(&config, smooth(1)), &plans(1), (1, 1));
    let (by_lane, reports) = train(&|| trainer(&config, smooth(8)), &plans(8), (1, 1));
    let make = || trainer(&config, by_worker(smooth(8)));
    let (alone, _) = train(&make, &plans(8), (1, 2));
    assert!(alone.parameters().unwrap() == one_lane.parameters().unwrap());
    assert!(alone.parameters().unwrap() != by_lane.parameters().unwrap(), "lanes do not show");
    for world in [1, 2, 3, 8] {
        let (_, others) = train(&make, &plans(8), (world, 1));
        for (other, report) in others.iter().zip(&reports) {
            assert_eq!((other.losses.len(), other.learning_rate), (8, report.learning_rate));
            assert_close(other, report);
        }
    }
}

/// The same but for the order of sums.
fn assert_close(one: &UpdateReport, other: &UpdateReport) {
    assert!((one.grad_norm / other.grad_norm - 1.0).abs() < 1e-3, "{} {}", one.grad_norm, other.grad_norm);
    let close = |(one, other): (&f32, &f32)| (one - other).abs() < 1e-3;
    assert!(one.losses.iter().zip(&other.losses).all(close), "{:?} {:?}", one.losses, other.losses);
}

/// What is kept and what is computed anew are handed over as one.
#[test]
fn a_lost_peer_costs_its_own_lanes_alone_where_workers_sum() {
    let config = with_dropout(config());
    let (plans, examples) = ([plan(1, 0..11, 8), plan(2, 11..24, 8), plan(3, 24..30, 8)], examples());
    let (_, expected) = train(&|| trainer(&config, smooth(8)), &plans, (1, 1));
    for left in [0, 4, 6] {
        let mut trainer = trainer(&config, by_worker(smooth(8)));
        let mut solo = Solo::new(Cpu, trainer.layout(), 8);
        let mut reports = vec![trainer.step(&plans[0], &[0..8], &examples, &mut solo).unwrap()];
        let mut fragile = Fragile { left, parts: Parts::default() };
        assert!(trainer.step(&plans[1], &[0..3, 5..6], &examples, &mut fragile).is_err());
        assert_eq!(trainer.kept(), vec![0..3, 5..6]);
        let lanes = [0..3, 3..5, 5..6, 6..8];
        reports.push(trainer.step(&plans[1], &lanes, &examples, &mut solo).unwrap());
        assert_eq!(reports[1].lanes, expected[1].lanes);
        reports.push(trainer.step(&plans[2], &lanes, &examples, &mut solo).unwrap());
        reports.iter().zip(&expected).for_each(|(report, expected)| assert_close(report, expected));
    }
}

#[test]
fn a_batch_is_memorised_in_spite_of_dropout() {
    let plans: Vec<_> = (0..20).map(|update| plan(update + 1, 0..8, 4)).collect();
    let constant = |seed| {
        let decay = Decay::new("constant", []).unwrap();
        let schedule = LrSchedule { decay, peak: 2e-3, warmup_updates: 0, total_updates: 20 };
        TrainSpec { seed, schedule, ..spec(OptimizerKind::AdamwTorch, 4) }
    };
    let make = || trainer(&with_dropout(config()), constant(42));
    let (once, reports) = train(&make, &plans, (1, 2));
    let loss = |report: &UpdateReport| report.losses.iter().map(|loss| f64::from(*loss)).sum::<f64>() / 8.0;
    assert!(loss(&reports[19]) < 0.5 * loss(&reports[0]), "{} {}", loss(&reports[0]), loss(&reports[19]));
    assert!(train(&make, &plans, (1, 2)).0.parameters().unwrap() == once.parameters().unwrap());
    let (other, _) = train(&|| trainer(&with_dropout(config()), constant(43)), &plans, (1, 2));
    assert!(other.parameters().unwrap() != once.parameters().unwrap(), "the seed does not show");
}

#[test]
fn a_restored_trainer_goes_on_with_the_same_bits() {
    let plans = [1, 2, 3, 4].map(|update| plan(update, update as u32 * 8..update as u32 * 8 + 8, 4));
    let make = || trainer(&with_dropout(config()), smooth(4));
    let (whole, _) = train(&make, &plans, (1, 1));
    let (half, _) = train(&make, &plans[..2], (1, 1));
    let resume = || {
        let parameters = half.parameters().unwrap().to_vec();
        let mut trainer = Trainer::new(crate::ops::cpu::Cpu, with_dropout(config()), smooth(4), parameters).unwrap();
        trainer.predict(&[RowId(0), RowId(1)], &examples()).unwrap();
        trainer.restore(half.memory().unwrap().into_iter().map(Cow::into_owned).collect(), half.update()).unwrap();
        trainer
    };
    let (resumed, _) = train(&resume, &plans[2..], (1, 1));
    assert!(
        resumed.parameters().unwrap() == whole.parameters().unwrap()
            && resumed.memory().unwrap() == whole.memory().unwrap()
    );
    assert_eq!(resumed.update(), Update(4));
}

#[test]
fn the_report_tells_what_was_computed() {
    let (_, reports) = train(&|| trainer(&config(), smooth(4)), &[plan(1, 0..8, 4)], (1, 1));
    let examples = examples();
    let rows: Vec<Vec<RowId>> = reports[0].lanes.iter().map(|lane| lane.rows.clone()).collect();
    assert_eq!(rows, plan(1, 0..8, 4).lanes);
    assert_eq!(reports[0].tokens, examples[..8].iter().map(|example| example.len() as u64).sum::<u64>());
    assert_eq!(reports[0].learning_rate, 0.0);
}

#[test]
fn logits_of_a_row_have_the_same_bits_in_whatever_company() {
    let examples = examples();
    for config in [with_dropout(config()), odd()] {
        let mut trainer = trainer(&config, smooth(1));
        let rows: Vec<RowId> = (0..examples.len() as u32).map(RowId).collect();
        let all = trainer.predict(&rows, &examples).unwrap();
        assert_eq!(all.iter().map(|prediction| prediction.row).collect::<Vec<_>>(), rows);
        for row in [3, 17, 95] {
            let alone = trainer.predict(&[RowId(row)], &examples).unwrap();
            assert_eq!(alone[0], all[row as usize]);
        }
        assert_eq!(trainer.predict(&[], &examples).unwrap(), []);
    }
}

/// Training keeps all layers' activations, prediction but two: both compute the same.
#[test]
fn training_and_prediction_see_the_same_losses() {
    let examples = examples();
    for num_hidden_layers in 1..4 {
        let config = ModelConfig { num_hidden_layers, ..odd() };
        let plan = plan(1, 0..8, 3);
        let spec = spec(OptimizerKind::AdamwHf, 3);
        let predicted = trainer(&config, spec.clone()).predict(&plan.lanes.concat(), &examples).unwrap();
        let (_, reports) = train(&|| trainer(&config, spec.clone()), &[plan], (1, 2));
        let mut losses = predicted.iter().map(|prediction| prediction.loss.unwrap());
        for (lane, loss) in reports[0].lanes.iter().zip(&reports[0].losses) {
            let expected: f64 = losses.by_ref().take(lane.rows.len()).sum();
            assert!((f64::from(*loss) - expected).abs() < 1e-5, "{num_hidden_layers}: {loss} {expected}");
        }
    }
}

#[test]
fn what_cannot_be_done_is_refused_and_changes_nothing() {
    let mut examples = examples();
    let mut trainer = trainer(&config(), smooth(4));
    let before = trainer.parameters().unwrap().to_vec();
    let mut member = group(1, 4).remove(0);
    let mut refused = |plan: &UpdatePlan, lanes: Range<u32>, examples: &[Example]| {
        trainer.step(plan, &[lanes], examples, &mut member).unwrap_err().to_string()
    };
    assert_eq!(refused(&plan(2, 0..8, 4), 0..4, &examples), "asked for update 2 after 0 updates");
    assert_eq!(refused(&plan(1, 0..8, 4), 0..5, &examples), "update 1: asked for lanes 0..5; the plan has 4");
    assert!(refused(&plan(1, 170..178, 4), 0..4, &examples).contains("row 176 does not exist"));
    examples[3].label = None;
    assert!(refused(&plan(1, 0..8, 4), 0..4, &examples).contains("row 3 has no label"));
    examples[3].tokens[1] = 2000;
    assert!(trainer.predict(&[RowId(3)], &examples).unwrap_err().to_string().contains("token id 2000 at place 1"));
    assert!(trainer.parameters().unwrap() == before && trainer.update() == Update(0));
}

#[test]
fn a_gradient_that_is_no_number_is_an_error_and_changes_nothing() {
    let mut parameters = trainer(&config(), smooth(4)).parameters().unwrap().to_vec();
    let last = parameters.len() - 1;
    parameters[last] = f32::NAN;
    let mut trainer = Trainer::new(crate::ops::cpu::Cpu, config(), smooth(4), parameters.clone()).unwrap();
    let mut member = group(1, 4).remove(0);
    let error = trainer.step(&plan(1, 0..8, 4), &[0..4], &examples(), &mut member).unwrap_err();
    assert!(matches!(&error, StepError::NonFinite { update: Update(1), losses, .. } if losses.len() == 4));
    let text = error.to_string();
    let parts = ["norm is NaN: the weight classifier.bias is not finite itself", "the lanes' losses are 0: NaN"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    let same = |(one, other): (&f32, &f32)| one.to_bits() == other.to_bits();
    assert!(trainer.parameters().unwrap().iter().zip(&parameters).all(same));
    assert!(trainer.memory().unwrap()[0].iter().all(|moment| *moment == 0.0));
}

/// A group of one whose collective breaks after some launches, as if a peer had died.
struct Fragile {
    left: usize,
    parts: Parts,
}

impl Fragile {
    fn take(&mut self) -> Result<(), CollectiveError> {
        self.left = self.left.checked_sub(1).ok_or(CollectiveError::Aborted)?;
        Ok(())
    }
}

impl Collective for Fragile {
    fn rank(&self) -> Rank {
        Rank(0)
    }

    fn world(&self) -> u32 {
        2
    }

    fn launch(&mut self, segment: Segment, sums: Vec<(Node, Vec<f32>)>) -> Result<(), CollectiveError> {
        self.parts.dense.push((segment, sums));
        self.take()
    }

    fn launch_words(&mut self, sums: Vec<(Node, SparseRows)>) -> Result<(), CollectiveError> {
        self.parts.words = Some(sums);
        self.take()
    }

    fn fence(&mut self) -> Result<Summed, CollectiveError> {
        Err(CollectiveError::Aborted)
    }

    fn all_gather(&mut self, _buffer: &mut Vec<f32>, _shards: &[Shard]) -> Result<Traffic, CollectiveError> {
        Err(CollectiveError::Aborted)
    }

    fn reuse(&mut self, sums: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        sums
    }

    fn salvage(&mut self) -> Parts {
        std::mem::take(&mut self.parts)
    }
}

#[test]
fn a_lost_peer_costs_its_own_lanes_alone() {
    let config = with_dropout(config());
    let (plans, examples) = ([plan(1, 0..11, 8), plan(2, 11..24, 8)], examples());
    let make = || trainer(&config, smooth(8));
    let (expected, reports) = train(&make, &plans, (1, 1));
    // It breaks at the first launch, in the middle of the backward pass, at the words, at the losses, at the fence.
    for left in [0, 2, 4, 5, 6] {
        let mut trainer = make();
        let mut solo = Solo::new(Cpu, trainer.layout(), 8);
        trainer.step(&plans[0], &[0..8], &examples, &mut solo).unwrap();
        let mut fragile = Fragile { left, parts: Parts::default() };
        let error = trainer.step(&plans[1], &[0..3, 5..6], &examples, &mut fragile).unwrap_err();
        assert!(matches!(error, StepError::Collective(CollectiveError::Aborted)));
        assert_eq!((trainer.update(), trainer.kept()), (Update(1), vec![0..3, 5..6]), "{left}");
        let mut solo = Solo::new(Cpu, trainer.layout(), 8);
        let report = trainer.step(&plans[1], &[0..3, 3..5, 5..6, 6..8], &examples, &mut solo).unwrap();
        let remembers = trainer.memory().unwrap() == expected.memory().unwrap();
        assert!(remembers && trainer.parameters().unwrap() == expected.parameters().unwrap(), "{left}");
        assert_eq!(UpdateReport { timing: reports[1].timing, ..report }, reports[1]);
        assert!(trainer.kept().is_empty());
    }
}

#[test]
fn what_is_kept_is_dropped_where_other_lanes_are_asked_for() {
    let config = with_dropout(config());
    let (plans, examples) = ([plan(1, 0..11, 8)], examples());
    let (expected, _) = train(&|| trainer(&config, smooth(8)), &plans, (1, 1));
    let mut trainer = trainer(&config, smooth(8));
    let mut fragile = Fragile { left: 9, parts: Parts::default() };
    assert!(trainer.step(&plans[0], &[0..3], &examples, &mut fragile).is_err());
    let mut solo = Solo::new(Cpu, trainer.layout(), 8);
    trainer.step(&plans[0], &[0..8], &examples, &mut solo).unwrap();
    assert!(trainer.parameters().unwrap() == expected.parameters().unwrap());
}

/// A newcomer takes over the state of a rank that has trained, over real sockets, and both go on with the same bits.
#[test]
fn a_state_is_handed_over_to_the_bit() {
    let config = with_dropout(config());
    let plans = [plan(1, 0..11, 8), plan(2, 11..24, 8)];
    let (expected, _) = train(&|| trainer(&config, smooth(8)), &plans, (1, 1));
    for (parameters, moments) in hand_over(&|| trainer(&config, smooth(8)), &plans, Summation::ByLane) {
        assert!(parameters == *expected.parameters().unwrap());
        assert!(expected.memory().unwrap() == moments);
    }
    let [one, other] = hand_over(&|| trainer(&config, by_worker(smooth(8))), &plans, Summation::ByWorker);
    assert!(one == other && one.0 != *expected.parameters().unwrap());
}

/// Parameters and moments of two ranks, the first of which has taken over the second's state after one update of two.
fn hand_over(
    make: &(dyn Fn() -> Trainer + Sync),
    plans: &[UpdatePlan],
    summation: Summation,
) -> [(Vec<f32>, Vec<Vec<f32>>); 2] {
    let examples = examples();
    let (shares, update) = ([vec![0..3, 3..4], vec![4..8]], Update(1));
    let listeners = [(); 2].map(|()| Listener::bind(([127, 0, 0, 1], 0).into()).unwrap());
    let run = &|rank: usize| {
        let mut trainer = make();
        if rank == 1 {
            let mut solo = Solo::new(Cpu, trainer.layout(), 8);
            trainer.step(&plans[0], &[0..8], &examples, &mut solo).unwrap();
        }
        let form = Form {
            generation: Generation(2),
            rank: Rank(rank as u32),
            peers: listeners.iter().map(Listener::endpoint).collect(),
            secret: Secret([3; 32]),
            lanes: shares.to_vec(),
            update,
            line: Generation(1),
            source: Some(Rank(1)),
        };
        let settings = TcpSettings { summation, ..TcpSettings::default() };
        let switch = AbortSwitch::new().unwrap();
        let mut tcp = Tcp::connect(&listeners[rank], &form, trainer.layout(), settings, switch).unwrap();
        let handover = Handover { is_source: rank == 1, lanes: &shares[rank], update };
        trainer.hand_over(handover, &mut tcp).unwrap();
        assert_eq!(trainer.update(), update);
        trainer.step(&plans[1], &shares[rank], &examples, &mut tcp).unwrap();
        (trainer.parameters().unwrap().to_vec(), trainer.memory().unwrap().into_iter().map(Cow::into_owned).collect())
    };
    std::thread::scope(|scope| {
        let ranks = [0, 1].map(|rank| scope.spawn(move || run(rank)));
        ranks.map(|rank| rank.join().unwrap())
    })
}
