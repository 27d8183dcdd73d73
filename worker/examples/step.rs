//! Times the updates of a MiniLM-shaped classifier on random rows:
//! `cargo run --release -p medley-worker --example step -- --rows 16 --length 64 --threads 2 --dropout 0.1`.

use std::time::Instant;

use clap::Parser;
use medley_common::example::Example;
use medley_common::identity::{Rank, RowId, Update};
use medley_common::lane::Node;
use medley_common::message::Timing;
use medley_common::model::ModelConfig;
use medley_common::plan::{UpdatePlan, mix};
use medley_common::schedule::{Decay, LrSchedule};
use medley_common::spec::{ComputeSpec, OptimizerKind, OptimizerSpec, TrainSpec};
use medley_worker::collective::{Collective, CollectiveError, SparseRows, Summed};
use medley_worker::layout::{Layout, Segment};
use medley_worker::ops::cpu::Cpu;
use medley_worker::trainer::Trainer;

/// What to time; the model's shape defaults to MiniLM-L6.
#[derive(Parser)]
struct Options {
    /// Rows of an update.
    #[arg(long, default_value_t = 16)]
    rows: u32,
    /// Tokens of a row.
    #[arg(long, default_value_t = 64)]
    length: u32,
    /// Lanes of an update.
    #[arg(long, default_value_t = 8)]
    lanes: u32,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// All dropout rates.
    #[arg(long, default_value_t = 0.1)]
    dropout: f64,
    /// Updates to time, after two that are not timed.
    #[arg(long, default_value_t = 20)]
    updates: u64,
    /// Width of the hidden states.
    #[arg(long, default_value_t = 384)]
    hidden: u32,
    /// Encoder layers.
    #[arg(long, default_value_t = 6)]
    layers: u32,
}

/// A group of one whose share is the whole tree.
#[derive(Default)]
struct Alone(Summed);

impl Collective for Alone {
    fn rank(&self) -> Rank {
        Rank(0)
    }

    fn world(&self) -> u32 {
        1
    }

    fn launch(&mut self, segment: Segment, sums: Vec<(Node, Vec<f32>)>) -> Result<(), CollectiveError> {
        self.0.segments.extend(sums.into_iter().map(|(_, sum)| (segment, sum)));
        Ok(())
    }

    fn launch_words(&mut self, sums: Vec<(Node, SparseRows)>) -> Result<(), CollectiveError> {
        self.0.words = sums.into_iter().next().map(|(_, rows)| rows).unwrap_or_default();
        Ok(())
    }

    fn fence(&mut self) -> Result<Summed, CollectiveError> {
        Ok(std::mem::take(&mut self.0))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global()?;
    let mut trainer = trainer(&options)?;
    let vocabulary = u64::from(model(&options).vocab_size);
    let row = |row: u32| Example {
        tokens: (0..options.length).map(|i| (mix(u64::from(row) << 32 | u64::from(i)) % vocabulary) as u32).collect(),
        first_segment: options.length / 2,
        label: Some(row % 3),
    };
    let examples: Vec<Example> = (0..4 * options.rows).map(row).collect();
    let mut runs: Vec<(f64, Timing)> = Vec::new();
    for update in 1..=options.updates + 2 {
        let first = (update as u32 % 4) * options.rows;
        let lane =
            |lane: u32| (0..options.rows).filter(|i| i % options.lanes == lane).map(|i| RowId(first + i)).collect();
        let plan = UpdatePlan { update: Update(update), lanes: (0..options.lanes).map(lane).collect() };
        let start = Instant::now();
        let report = trainer.step(&plan, 0..options.lanes, &examples, &mut Alone::default())?;
        if update > 2 {
            runs.push((start.elapsed().as_secs_f64(), report.timing));
        }
    }
    runs.sort_by(|left, right| left.0.total_cmp(&right.0));
    let (seconds, timing) = &runs[runs.len() / 2];
    println!(
        "median of {}: {:.1} ms an update (forward {:.1}, backward {:.1}, optimizer {:.1}), {:.1} rows a second; fastest {:.1} ms",
        runs.len(),
        seconds * 1e3,
        timing.forward_seconds * 1e3,
        timing.backward_seconds * 1e3,
        timing.optimizer_seconds * 1e3,
        f64::from(options.rows) / seconds,
        runs[0].0 * 1e3,
    );
    // For programs that compare.
    println!("{{\"ms_per_update\": {:.3}}}", seconds * 1e3);
    Ok(())
}

fn model(options: &Options) -> ModelConfig {
    ModelConfig {
        vocab_size: 30_522,
        hidden_size: options.hidden,
        num_hidden_layers: options.layers,
        num_attention_heads: options.hidden / 32,
        intermediate_size: 4 * options.hidden,
        max_position_embeddings: 512,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout: options.dropout,
        attention_dropout: options.dropout,
        classifier_dropout: options.dropout,
        initializer_range: 0.02,
        num_labels: 3,
    }
}

fn trainer(options: &Options) -> Result<Trainer, Box<dyn std::error::Error>> {
    let model = model(options);
    let layout = Layout::new(&model);
    let value = |i: usize| ((mix(i as u64) >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.03;
    let mut parameters: Vec<f32> = (0..layout.len()).map(value).collect();
    for slot in layout.slots().iter().filter(|slot| slot.name.ends_with("LayerNorm.weight")) {
        parameters[slot.range.clone()].fill(1.0);
    }
    let spec = TrainSpec {
        seed: 42,
        rows_per_update: options.rows,
        lanes: options.lanes,
        schedule: LrSchedule { decay: Decay::Constant, peak: 1e-5, warmup_updates: 0, total_updates: options.updates },
        optimizer: OptimizerSpec {
            kind: OptimizerKind::AdamwTorch,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            max_grad_norm: Some(1.0),
        },
        label_smoothing: 0.0,
        compute: ComputeSpec::default(),
    };
    Ok(Trainer::new(Cpu, model, spec, parameters)?)
}
