//! What an update of BERT-large asks of a GPU: so many launches are its cost where sequences are short.

use medley_common::example::Example;
use medley_common::model::ModelConfig;
use medley_common::spec::{ComputeSpec, OptimizerKind, Precision, Summation, TrainSpec};

use super::Trainer;
use super::fixture::{config, plan, random_parameters, spec};
use crate::collective::Solo;
use crate::layout::Layout;
use crate::ops::cuda::Cuda;
use crate::ops::cuda::tally_test::{Asked, Tally};

/// BERT-large but for its widths, of which the number of launches does not depend.
fn deep() -> ModelConfig {
    ModelConfig {
        vocab_size: 99,
        hidden_size: 128,
        num_hidden_layers: 24,
        num_attention_heads: 16,
        intermediate_size: 512,
        max_position_embeddings: 64,
        ..config()
    }
}

/// What the third update of 32 rows of 45 tokens asks for, when all buffers are as large as they need to be, and all that is
/// recorded has been.
fn update(compute: ComputeSpec) -> Asked {
    update_on(compute, |cuda| cuda)
}

fn update_on(compute: ComputeSpec, device: impl FnOnce(Cuda<Tally>) -> Cuda<Tally>) -> Asked {
    let mut model = deep();
    (model.hidden_dropout, model.attention_dropout, model.classifier_dropout) = (0.1, 0.1, 0.1);
    let tally = Tally::default();
    let spec = TrainSpec { compute, rows_per_update: 32, ..spec(OptimizerKind::AdamwTorch, 8) };
    let layout = Layout::new(&model);
    let (parameters, cuda) = (random_parameters(&layout), device(Cuda::new(tally.clone(), compute.precision)));
    let mut solo = Solo::new(cuda.clone(), &layout, 8);
    let mut trainer = Trainer::new(cuda, model, spec, parameters).unwrap();
    let example = |row: u32| Example {
        tokens: (0..45).map(|place| (7 * row + place) % 99).collect(),
        first_segment: 20,
        label: Some(row % 3),
    };
    let examples: Vec<Example> = (0..32).map(example).collect();
    for number in 1..=3 {
        tally.take();
        trainer.step(&plan(number, 0..32, 8), std::slice::from_ref(&(0..8)), &examples, &mut solo).unwrap();
    }
    tally.take()
}

/// They are counted in `kernels/NOTES.md`; an update that needs more is slower where sequences are short.
#[test]
fn an_update_of_bert_large_asks_for_few_launches() {
    let (precision, summation) = (Precision::Bfloat16, Summation::ByWorker);
    let asked = update(ComputeSpec { precision, summation, ..ComputeSpec::default() });
    assert!(asked.launches() <= 600, "{} launches: {asked:#?}", asked.launches());
    assert!(asked.writes <= 5 && asked.clears == 0, "{asked:#?}");
    // Each segment's step is waited for where the forward pass comes to it.
    assert_eq!((asked.beside, asked.follows), (26, 26));
    assert_reads_a_report(&asked);
}

/// The host waits for all passes together, of which there are eight here, so as to know its own time from the others'; and
/// for what the report is made of, the losses of the lanes and the norm's partial sums.
#[test]
fn no_pass_waits_for_the_device() {
    let (precision, summation) = (Precision::Bfloat16, Summation::ByLane);
    let asked = update(ComputeSpec { precision, summation, ..ComputeSpec::default() });
    assert_eq!(asked.kernels.get("lane_losses"), Some(&8));
    assert!(asked.clears == 0, "{asked:#?}");
    assert_reads_a_report(&asked);
}

/// A pass is 26 parts forward and 26 backward; what is launched besides are losses, words, sums of lanes, and the step.
#[test]
fn passes_of_lanes_are_replayed() {
    let (precision, summation) = (Precision::Bfloat16, Summation::ByLane);
    let compute = ComputeSpec { precision, summation, ..ComputeSpec::default() };
    let (asked, launched) = (update(compute), update_on(compute, Cuda::without_graphs));
    assert_eq!(
        (asked.replays, asked.kernels.get("cross_entropy"), asked.kernels.get("word_gradient")),
        (416, Some(&8), Some(&8))
    );
    assert!(asked.launches() <= 248, "{} launches: {asked:#?}", asked.launches());
    assert!(launched.launches() <= 4800, "{} launches: {launched:#?}", launched.launches());
    // Each segment's step is waited for where the first pass comes to it, replayed or not.
    assert_eq!((asked.beside, asked.follows, launched.follows), (26, 26, 26));
    assert_eq!((asked.writes, asked.allocations), (launched.writes, launched.allocations));
}

fn assert_reads_a_report(asked: &Asked) {
    assert_eq!(asked.waits, 1);
    assert!(asked.reads.len() == 2 && asked.reads[0] == 8 * size_of::<f32>(), "{:?}", asked.reads);
    assert!(asked.reads[1] < 64 * 1024, "{:?}", asked.reads);
}
