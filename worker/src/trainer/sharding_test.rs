use medley_common::identity::Update;
use medley_common::lane::LaneTree;
use medley_common::message::{Lanes, UpdateReport};
use medley_common::model::ModelConfig;
use medley_common::plan::UpdatePlan;
use medley_common::spec::{ComputeSpec, OptimizerKind, Precision, TrainSpec};

use super::*;
use crate::collective::Solo;
use crate::collective::local_transport::{Seat, seats};
use crate::layout::Layout;
use crate::ops::cpu::Cpu;
use crate::ops::cuda::Cuda;
use crate::ops::cuda::drivers_test::host;
use crate::trainer::fixture::{Member, config, examples, group, plan, random_parameters, spec, train};
use crate::trainer::recipes_test::recipes;

const LANES: u32 = 4;

/// Sizes that no number of ranks divides, and few words: shards begin anywhere.
fn model() -> ModelConfig {
    let [hidden_dropout, attention_dropout, classifier_dropout] = [0.1; 3];
    ModelConfig {
        hidden_size: 70,
        num_attention_heads: 5,
        intermediate_size: 130,
        vocab_size: 2001,
        hidden_dropout,
        attention_dropout,
        classifier_dropout,
        ..config()
    }
}

fn plans() -> [UpdatePlan; 3] {
    [plan(1, 0..8, LANES), plan(2, 8..11, LANES), plan(3, 11..19, LANES)]
}

fn make(recipe: &TrainSpec, shards: bool) -> Trainer {
    let parameters = random_parameters(&Layout::new(&model()));
    let make = if shards { Trainer::sharded } else { Trainer::new };
    make(Cpu, model(), recipe.clone(), parameters).unwrap()
}

/// What updates come to: parameters, what all ranks remember, and the norms of the gradients.
#[derive(Debug, PartialEq)]
struct Course {
    parameters: Vec<f32>,
    memory: Vec<Vec<f32>>,
    norms: Vec<f64>,
}

fn norms(reports: &[UpdateReport]) -> Vec<f64> {
    reports.iter().map(|report| report.grad_norm).collect()
}

/// Makes the updates of `plans` with `world` ranks that hold shards, from what `restored` is; what each came to, and of how
/// many parameters it remembers something.
fn sharded(
    recipe: &TrainSpec,
    world: u32,
    plans: &[UpdatePlan],
    restored: Option<&Course>,
) -> Vec<(Course, Vec<usize>)> {
    let examples = &examples();
    let run = |mut member: Member, share: Range<u32>| {
        let mut trainer = make(recipe, true);
        if let Some(course) = restored {
            let parameters = trainer.ops.upload_parameters(course.parameters.clone()).unwrap();
            trainer.parameters = parameters;
            trainer.restore(course.memory.clone(), Update(plans[0].update.0 - 1)).unwrap();
        }
        assert!(trainer.memory().unwrap().iter().all(|memory| memory.is_empty()), "nothing before there is a group");
        trainer.cut(member.rank().0, world).unwrap();
        let share: Lanes = Some(share).into_iter().filter(|run| !run.is_empty()).collect();
        let step = |plan| trainer.step(plan, &share, examples, &mut member).unwrap();
        let reports: Vec<_> = plans.iter().map(step).collect();
        let lengths = trainer.memory().unwrap().iter().map(|memory| memory.len()).collect();
        let memory = trainer.gather_memory(&mut member).unwrap();
        (Course { parameters: trainer.parameters().unwrap().into_owned(), memory, norms: norms(&reports) }, lengths)
    };
    std::thread::scope(|scope| {
        let ranks = group(world, LANES).into_iter().zip(LaneTree::new(LANES).assign(world));
        let ranks: Vec<_> = ranks.map(|(member, share)| scope.spawn(move || run(member, share))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn whole(recipe: &TrainSpec, plans: &[UpdatePlan]) -> Course {
    let (trainer, reports) = train(&|| make(recipe, false), plans, (1, 1));
    let memory = trainer.memory().unwrap().into_iter().map(Cow::into_owned).collect();
    Course { parameters: trainer.parameters().unwrap().into_owned(), memory, norms: norms(&reports) }
}

#[test]
fn shards_have_the_bits_of_the_whole_and_an_even_part_of_its_size() {
    let usual = ("usual", spec(OptimizerKind::AdamwHf, LANES));
    for (name, recipe) in recipes().into_iter().chain([usual]) {
        let expected = whole(&recipe, &plans());
        let trained = Layout::new(&model());
        let trained = trained.segments().iter().filter(|(segment, _)| segment.is_trained(&recipe.tuning));
        let trained: usize = trained.map(|(_, range)| range.len()).sum();
        for world in [1, 2, 3, 5] {
            let ranks = sharded(&recipe, world, &plans(), None);
            for (course, lengths) in &ranks {
                assert!(*course == expected, "{name} with {world}");
                // In each of five segments, a piece more.
                let most = trained.div_ceil(world as usize) + 5 * Cpu::PIECE;
                assert!(lengths.iter().all(|length| *length <= most), "{name}: {lengths:?} of {trained} with {world}");
            }
            let all: usize = ranks.iter().flat_map(|(_, lengths)| lengths).sum();
            assert_eq!(all, recipe.optimizer.kind.memory().len() * trained, "{name}: each once, with {world}");
        }
    }
}

/// A checkpoint of two ranks is gone on from by three, and by one that holds no shards.
#[test]
fn what_is_gathered_is_restored_by_any_number_of_ranks() {
    let recipe = spec(OptimizerKind::AdamwTorch, LANES);
    let expected = whole(&recipe, &plans());
    let (stopped, _) = sharded(&recipe, 2, &plans()[..2], None).swap_remove(1);
    for world in [1, 3] {
        for (course, _) in sharded(&recipe, world, &plans()[2..], Some(&stopped)) {
            assert!((&course.parameters, &course.memory) == (&expected.parameters, &expected.memory), "with {world}");
        }
    }
}

/// On a device, in half precision: the copy that products read is of what other ranks have moved, too.
#[test]
fn shards_on_devices_are_no_different() {
    let Some(emulator) = host() else { return };
    let model = || ModelConfig { vocab_size: 99, ..config() };
    let compute = ComputeSpec { precision: Precision::Bfloat16, ..ComputeSpec::default() };
    let recipe = TrainSpec { compute, ..spec(OptimizerKind::AdamwHf, LANES) };
    let cuda = Cuda::new(emulator, Precision::Bfloat16);
    let layout = Layout::new(&model());
    let mut examples = examples();
    examples.iter_mut().flat_map(|example| &mut example.tokens).for_each(|token| *token %= 99);
    let parameters = || random_parameters(&layout);
    let mut trainer = Trainer::new(cuda.clone(), model(), recipe.clone(), parameters()).unwrap();
    let mut solo = Solo::new(cuda.clone(), &layout, LANES);
    for plan in &plans()[..2] {
        trainer.step(plan, std::slice::from_ref(&(0..LANES)), &examples, &mut solo).unwrap();
    }
    let expected = (trainer.parameters().unwrap().into_owned(), trainer.gather_memory(&mut solo).unwrap());
    let lanes: [Lanes; 2] = [vec![0..3], vec![3..4]];
    let (examples, recipe, emulator) = (&examples, &recipe, &emulator);
    let run = &|rank: u32, seat: Seat, lanes: Lanes| {
        let cuda = Cuda::new(*emulator, Precision::Bfloat16);
        let mut collective = seat.join(cuda.clone());
        let mut trainer = Trainer::sharded(cuda, model(), recipe.clone(), parameters()).unwrap();
        trainer.cut(rank, 2).unwrap();
        for plan in &plans()[..2] {
            trainer.step(plan, &lanes, examples, &mut collective).unwrap();
        }
        let memory = trainer.gather_memory(&mut collective).unwrap();
        assert!((trainer.parameters().unwrap().into_owned(), memory) == expected, "rank {rank}");
    };
    std::thread::scope(|scope| {
        let ranks = (0..).zip(seats(&layout, &lanes)).zip(lanes);
        let ranks: Vec<_> = ranks.map(|((rank, seat), lanes)| scope.spawn(move || run(rank, seat, lanes))).collect();
        ranks.into_iter().for_each(|rank| rank.join().unwrap());
    });
}
