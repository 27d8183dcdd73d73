//! The optimizer's step beside the next forward pass, on whatever computes: updates come to the same bits where each step is
//! waited for.

use medley_common::example::Example;
use medley_common::model::ModelConfig;
use medley_common::spec::{ComputeSpec, OptimizerKind, Precision, TrainSpec};

use super::Trainer;
use super::fixture::{config, plan, random_parameters, spec};
use crate::collective::Solo;
use crate::layout::Layout;
use crate::ops::cuda::Cuda;
use crate::ops::cuda::driver::Driver;
use crate::ops::cuda::drivers_test::{DriverTest, is_fast, on_each_driver};

const LANES: u32 = 2;
const ROWS: u32 = 8;

struct Settled(Precision);

/// Layers as wide as BERT-large's where that takes no time: their steps take as long as a forward pass.
fn model() -> ModelConfig {
    let [hidden_size, num_hidden_layers, num_attention_heads] = if is_fast() { [1024, 4, 16] } else { [32, 2, 2] };
    let dropout = 0.1;
    ModelConfig {
        vocab_size: 40,
        hidden_size,
        num_hidden_layers,
        num_attention_heads,
        intermediate_size: 4 * hidden_size,
        max_position_embeddings: 16,
        hidden_dropout: dropout,
        attention_dropout: dropout,
        classifier_dropout: dropout,
        ..config()
    }
}

impl DriverTest for Settled {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let (model, updates) = (model(), if is_fast() { 12 } else { 2 });
        let layout = Layout::new(&model);
        let example = |row: u32| Example {
            tokens: (0..4 + row % 5).map(|place| (7 * row + 3 * place) % 40).collect(),
            first_segment: 2,
            label: Some(row % 3),
        };
        let examples: Vec<Example> = (0..ROWS).map(example).collect();
        let compute = ComputeSpec { precision: self.0, ..ComputeSpec::default() };
        let spec = TrainSpec { compute, ..spec(OptimizerKind::AdamwTorch, LANES) };
        let course = |is_settled: bool| -> Vec<u32> {
            let cuda = Cuda::new(driver.clone(), self.0);
            let mut solo = Solo::new(cuda.clone(), &layout, LANES);
            let mut trainer = Trainer::new(cuda, model.clone(), spec.clone(), random_parameters(&layout)).unwrap();
            for update in 1..=updates {
                let lanes = std::slice::from_ref(&(0..LANES));
                trainer.step(&plan(update, 0..ROWS, LANES), lanes, &examples, &mut solo).unwrap();
                if is_settled {
                    trainer.wait().unwrap();
                }
            }
            trainer.parameters().unwrap().iter().map(|value| value.to_bits()).collect()
        };
        assert!(course(false) == course(true), "{}", self.0);
    }
}

#[test]
fn steps_come_to_the_same_whether_they_are_waited_for_or_not() {
    for precision in [Precision::Float32, Precision::Bfloat16] {
        on_each_driver(&Settled(precision));
    }
}
