//! The optimizer's step beside the next forward pass: however late it is, updates come to what they do where it is made at
//! once.

use medley_common::example::Example;
use medley_common::identity::{Rank, RowId, Update};
use medley_common::message::{Lanes, UpdateReport};
use medley_common::model::ModelConfig;
use medley_common::plan::UpdatePlan;
use medley_common::spec::{ComputeSpec, OptimizerKind, Precision, SgdSpec, Summation, TrainSpec, TuningSpec};

use super::Trainer;
use super::fixture::{config, plan, random_parameters, spec};
use super::handover::Handover;
use crate::collective::local_transport::{Seat, seats};
use crate::collective::{Collective, Solo};
use crate::layout::Layout;
use crate::ops::cuda::Cuda;
use crate::ops::cuda::drivers_test::host;
use crate::ops::cuda::emulator::{Emulator, held};
use crate::optim::loss_scale::LossScale;

const LANES: u32 = 2;
const UPDATES: u64 = 3;

type Device = Cuda<Emulator>;

/// As small as it can be: every update is made many times.
fn model() -> ModelConfig {
    let [hidden_dropout, attention_dropout, classifier_dropout] = [0.1; 3];
    ModelConfig {
        vocab_size: 40,
        hidden_size: 32,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 64,
        max_position_embeddings: 16,
        hidden_dropout,
        attention_dropout,
        classifier_dropout,
        ..config()
    }
}

/// Rows of 4 to 8 tokens.
fn examples() -> Vec<Example> {
    let example = |row: u32| Example {
        tokens: (0..4 + row % 5).map(|place| (7 * row + 3 * place) % 40).collect(),
        first_segment: 2,
        label: Some(row % 3),
    };
    (0..16).map(example).collect()
}

fn planned(update: u64) -> UpdatePlan {
    let first = 4 * (update as u32 - 1);
    plan(update, first..first + 4, LANES)
}

/// All that decides how a step is made, and how what follows it is computed.
fn recipes() -> Vec<(&'static str, Vec<Precision>, TrainSpec)> {
    use Precision::{Bfloat16, Float32};
    let adamw = || spec(OptimizerKind::AdamwTorch, LANES);
    let sgd = |momentum| spec(OptimizerKind::Sgd(SgdSpec { momentum, ..SgdSpec::default() }), LANES);
    let tuned = |frozen_layers, layer_lr_decay| TuningSpec { frozen_layers, layer_lr_decay };
    let mut clipped = adamw();
    clipped.optimizer.max_grad_norm = Some(0.1);
    let compute =
        |summation, gradient_checkpointing| ComputeSpec { summation, gradient_checkpointing, ..ComputeSpec::default() };
    vec![
        ("clipped", vec![Float32, Bfloat16], clipped),
        ("groups", vec![Float32, Bfloat16], TrainSpec { tuning: tuned(None, Some(0.75)), ..adamw() }),
        ("frozen", vec![Float32, Bfloat16], TrainSpec { tuning: tuned(Some(1), None), ..adamw() }),
        ("momentum", vec![Bfloat16], sgd(0.9)),
        ("descent", vec![Float32], sgd(0.0)),
        ("computed again", vec![Bfloat16], TrainSpec { compute: compute(Summation::ByWorker, true), ..adamw() }),
        ("lane by lane", vec![Float32], TrainSpec { compute: compute(Summation::ByLane, false), ..adamw() }),
    ]
}

fn trainer(device: Device, spec: TrainSpec) -> Trainer<Device> {
    Trainer::new(device, model(), spec, random_parameters(&Layout::new(&model()))).unwrap()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// What a trainer holds, looked at in one of several orders: who comes first sees what the step has left.
fn look(trainer: &mut Trainer<Device>, examples: &[Example], order: u64) -> [Vec<Vec<u32>>; 3] {
    let mut seen: [Vec<Vec<u32>>; 3] = Default::default();
    for at in 0..3 {
        let what = (order + at) as usize % 3;
        seen[what] = match what {
            0 => vec![bits(&trainer.parameters().unwrap())],
            1 => trainer.memory().unwrap().iter().map(|memory| bits(memory)).collect(),
            _ => {
                let predictions = trainer.predict(&[RowId(14), RowId(15)], examples).unwrap();
                predictions.iter().map(|prediction| bits(&prediction.logits)).collect()
            }
        };
    }
    seen
}

/// What updates come to.
#[derive(Debug, PartialEq)]
struct Course {
    numbers: Vec<(Vec<u32>, u64)>,
    /// After each update that was looked at, and at the end.
    seen: Vec<[Vec<Vec<u32>>; 3]>,
}

fn numbers(report: &UpdateReport) -> (Vec<u32>, u64) {
    (bits(&report.losses), report.grad_norm.to_bits())
}

fn course(device: Emulator, spec: &TrainSpec, looks: bool) -> Course {
    let (cuda, layout, examples) = (Cuda::new(device, spec.compute.precision), Layout::new(&model()), examples());
    let mut solo = Solo::new(cuda.clone(), &layout, LANES);
    let mut trainer = trainer(cuda, spec.clone());
    let mut course = Course { numbers: Vec::new(), seen: Vec::new() };
    for update in 1..=UPDATES {
        let lanes = std::slice::from_ref(&(0..LANES));
        let report = trainer.step(&planned(update), lanes, &examples, &mut solo).unwrap();
        course.numbers.push(numbers(&report));
        let segments = layout.dense_segments(&spec.tuning).count();
        assert_eq!(held(), if device.late { segments } else { 0 }, "nothing of a step was asked for yet");
        if looks || update == UPDATES {
            course.seen.push(look(&mut trainer, &examples, update));
        }
    }
    course
}

#[test]
fn a_late_step_shows_nowhere() {
    let Some(emulator) = host() else { return };
    for (name, precisions, spec) in recipes() {
        for precision in precisions {
            let spec = TrainSpec { compute: ComputeSpec { precision, ..spec.compute }, ..spec.clone() };
            let of = |late, looks| course(Emulator { late, ..emulator }, &spec, looks);
            let (expected, late) = (of(false, true), of(true, true));
            assert!(late == expected, "{name}, {precision}: looked at after each update");
            let late = of(true, false);
            let is_same = late.numbers == expected.numbers && late.seen[..] == expected.seen[UPDATES as usize - 1..];
            assert!(is_same, "{name}, {precision}");
        }
    }
}

/// The second update of three overflows.
fn interrupted(device: Emulator) -> Vec<u32> {
    let cuda = Cuda::new(device, Precision::Float16);
    let compute = ComputeSpec { precision: Precision::Float16, ..ComputeSpec::default() };
    let mut solo = Solo::new(cuda.clone(), &Layout::new(&model()), LANES);
    let mut trainer = trainer(cuda, TrainSpec { compute, ..spec(OptimizerKind::AdamwHf, LANES) });
    let examples = examples();
    for (update, scale) in [(1, 1024.0), (2, 1e9), (3, 1024.0)] {
        trainer.restore_loss_scale(LossScale { scale, good_updates: 0, skipped_updates: 0 });
        let lanes = std::slice::from_ref(&(0..LANES));
        let report = trainer.step(&planned(update), lanes, &examples, &mut solo).unwrap();
        assert_eq!(report.skipped, update == 2);
        assert_eq!(held() == 0, !device.late || report.skipped, "an update that is skipped makes no step");
    }
    bits(&trainer.parameters().unwrap())
}

#[test]
fn a_skipped_update_makes_no_step() {
    let Some(emulator) = host() else { return };
    let of = |late| interrupted(Emulator { late, ..emulator });
    assert!(of(true) == of(false));
}

/// Two ranks make two updates, the second rank takes over the state of the first, and both make one more.
fn handed_over(device: Emulator) -> Vec<Vec<u32>> {
    let lanes: [Lanes; 2] = [vec![0..1], vec![1..2]];
    let rank = |(seat, lanes): (Seat, &Lanes)| {
        let cuda = Cuda::new(device, Precision::Bfloat16);
        let compute =
            ComputeSpec { precision: Precision::Bfloat16, summation: Summation::ByLane, ..ComputeSpec::default() };
        let mut trainer = trainer(cuda.clone(), TrainSpec { compute, ..spec(OptimizerKind::AdamwHf, LANES) });
        let (mut collective, examples) = (seat.join(cuda), examples());
        for update in 1..=3 {
            trainer.step(&planned(update), lanes, &examples, &mut collective).unwrap();
            if update == 2 {
                let is_source = collective.rank() == Rank(0);
                trainer.hand_over(Handover { is_source, lanes, update: Update(2) }, &mut collective).unwrap();
            }
        }
        bits(&trainer.parameters().unwrap())
    };
    std::thread::scope(|scope| {
        let seats = seats(&Layout::new(&model()), &lanes).into_iter().zip(&lanes);
        let ranks: Vec<_> = seats.map(|seat| scope.spawn(|| rank(seat))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn a_state_is_handed_over_with_its_last_step() {
    let Some(emulator) = host() else { return };
    let [late, expected] = [true, false].map(|late| handed_over(Emulator { late, ..emulator }));
    assert!(late == expected && late[0] == late[1]);
}
