//! Times the updates of a MiniLM-shaped classifier on random rows, an evaluation, and on a GPU every kernel of an update:
//! `cargo run --release -p medley-worker --example step -- --rows 16 --length 64 --threads 2 --dropout 0.1`.

use std::borrow::Cow;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc;
use std::time::Instant;

use clap::Parser;
use medley_common::example::Example;
use medley_common::identity::{Digest, Generation, Rank, RowId, Update};
use medley_common::message::{Failure, FailureKind, Form, Timing};
use medley_common::model::{Family, ModelConfig};
use medley_common::plan::{UpdatePlan, mix};
use medley_common::save::SaveId;
use medley_common::schedule::{Decay, LrSchedule};
use medley_common::secret::Secret;
use medley_common::spec::{ComputeSpec, OptimizerKind, OptimizerSpec, Precision, Summation, TrainSpec, TuningSpec};
use medley_worker::collective::{AbortSwitch, Collective, Connect, Listener, Rendezvous};
use medley_worker::device::{Device, Work};
use medley_worker::layout::Layout;
use medley_worker::ops::{DeviceError, Ops};
use medley_worker::state_copy::StateCopy;
use medley_worker::trainer::{BLOCK_ROWS, Trainer};
use medley_worker::weights::digest;

#[cfg(feature = "cuda")]
mod kernels;
mod rows;

/// What to time; the model's shape defaults to MiniLM-L6.
#[derive(Parser)]
struct Options {
    /// Rows of an update.
    #[arg(long, default_value_t = 16)]
    rows: u32,
    /// Tokens of a row, on average.
    #[arg(long, default_value_t = 64)]
    length: u32,
    /// How far rows differ: the standard deviation of the logarithm of their lengths.
    #[arg(long, default_value_t = 0.0)]
    spread: f64,
    /// Rows to predict after the updates, twice; none where it is 0.
    #[arg(long, default_value_t = 0)]
    evaluate: u32,
    /// Time every kernel of the updates instead, on a GPU.
    #[arg(long)]
    kernels: bool,
    /// Lanes of an update.
    #[arg(long, default_value_t = 8)]
    lanes: u32,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// All dropout rates.
    #[arg(long, default_value_t = 0.1)]
    dropout: f64,
    /// Updates to time, after some that are not timed, in which all rows are computed once.
    #[arg(long, default_value_t = 20)]
    updates: u64,
    /// Width of the hidden states.
    #[arg(long, default_value_t = 384)]
    hidden: u32,
    /// Encoder layers.
    #[arg(long, default_value_t = 6)]
    layers: u32,
    /// Width of an attention head.
    #[arg(long, default_value_t = 32)]
    head: u32,
    /// What to compute on.
    #[arg(long, default_value = "cpu")]
    device: Device,
    /// Numbers of products and activations, on a GPU.
    #[arg(long, value_enum, default_value = "float32")]
    precision: PrecisionFlag,
    /// Sum lane by lane, so that the result does not depend on the number of workers.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    reproducible: bool,
    /// Compute activations again in the backward pass.
    #[arg(long)]
    gradient_checkpointing: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum PrecisionFlag {
    Float32,
    Tf32,
    Float16,
    Bfloat16,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse();
    rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global()?;
    let precision = match options.precision {
        PrecisionFlag::Float32 => Precision::Float32,
        PrecisionFlag::Tf32 => Precision::Tf32,
        PrecisionFlag::Float16 => Precision::Float16,
        PrecisionFlag::Bfloat16 => Precision::Bfloat16,
    };
    let gradient_checkpointing = options.gradient_checkpointing;
    let summation = if options.reproducible { Summation::ByLane } else { Summation::ByWorker };
    let compute = ComputeSpec { precision, gradient_checkpointing, summation, ..ComputeSpec::default() };
    let place = options.device.place(None)?;
    println!("{place}, {precision}");
    if options.kernels {
        #[cfg(feature = "cuda")]
        return kernels::time(&place, &Updates { options, compute });
        #[cfg(not(feature = "cuda"))]
        return Err("--kernels is of a build with CUDA".into());
    }
    Ok(place.compute(&spec(&options, compute), false, Updates { options, compute })?)
}

/// The updates to time.
struct Updates {
    options: Options,
    compute: ComputeSpec,
}

/// Updates for each of which there are rows of their own.
const DISTINCT: u32 = 4;

/// What was timed.
struct Timed {
    /// Seconds of each update and where they went, the fastest first.
    runs: Vec<(f64, Timing)>,
    /// Of the parameters after them.
    digest: Digest,
    digest_seconds: f64,
    /// Of a copy of the state: what a save keeps the updates waiting for.
    copy_seconds: f64,
    /// The most bytes of buffers, where the device counts them.
    peak_bytes: Option<u64>,
    /// Seconds of an evaluation, and of the same once more.
    evaluations: Option<[f64; 2]>,
}

impl Work for Updates {
    fn run<O: Ops>(self, ops: O, connect: Connect<O::Buffer>) -> Result<(), Failure> {
        let internal = |message: String| Failure { kind: FailureKind::Internal, message };
        let Timed { runs, digest, digest_seconds, copy_seconds, peak_bytes, evaluations } =
            self.time(ops, &connect, &|| Ok(())).map_err(|error| internal(error.to_string()))?;
        let (seconds, timing) = &runs[runs.len() / 2];
        println!(
            "median of {}: {:.1} ms an update (forward {:.1}, backward {:.1}, wait {:.1}, optimizer {:.1}), {:.1} rows a second; fastest {:.1} ms",
            runs.len(),
            seconds * 1e3,
            timing.forward_seconds * 1e3,
            timing.backward_seconds * 1e3,
            timing.wait_seconds * 1e3,
            timing.optimizer_seconds * 1e3,
            f64::from(self.options.rows) / seconds,
            runs[0].0 * 1e3,
        );
        if let Some(bytes) = peak_bytes {
            println!("at most {} MiB of buffers", bytes >> 20);
        }
        if let Some([first, again]) = evaluations {
            let rows = self.options.evaluate;
            println!("evaluation of {rows} rows: {:.1} ms, the first time {:.1} ms", again * 1e3, first * 1e3);
        }
        println!("a digest of the parameters took {:.1} ms: {digest}", digest_seconds * 1e3);
        println!("a copy of the state, for a save, took {:.1} ms", copy_seconds * 1e3);
        // For programs that compare.
        println!("{{\"ms_per_update\": {:.3}}}", seconds * 1e3);
        Ok(())
    }
}

impl Updates {
    /// Makes the updates; `warm` is called once all rows have been computed, before the first update that is timed.
    fn time<O: Ops>(
        &self,
        ops: O,
        connect: &Connect<O::Buffer>,
        warm: &dyn Fn() -> Result<(), DeviceError>,
    ) -> Result<Timed, Box<dyn std::error::Error>> {
        let options = &self.options;
        let mut alone = self.alone(connect)?;
        let mut trainer = self.trainer(ops)?;
        let examples = rows::random(options, model(options).vocab_size);
        let mut runs: Vec<(f64, Timing)> = Vec::new();
        for update in 1..=options.updates + u64::from(DISTINCT) {
            if update == u64::from(DISTINCT) + 1 {
                warm()?;
            }
            let first = (update as u32 % DISTINCT) * options.rows;
            let lane =
                |lane: u32| (0..options.rows).filter(|i| i % options.lanes == lane).map(|i| RowId(first + i)).collect();
            let plan = UpdatePlan { update: Update(update), lanes: (0..options.lanes).map(lane).collect() };
            let start = Instant::now();
            let report = trainer.step(&plan, std::slice::from_ref(&(0..options.lanes)), &examples, alone.as_mut())?;
            if update > u64::from(DISTINCT) {
                runs.push((start.elapsed().as_secs_f64(), report.timing));
            }
        }
        runs.sort_by(|left, right| left.0.total_cmp(&right.0));
        let evaluations = match options.evaluate {
            0 => None,
            count => Some([evaluate(&mut trainer, count, &examples)?, evaluate(&mut trainer, count, &examples)?]),
        };
        let peak_bytes = trainer.peak_bytes();
        let start = Instant::now();
        let digest = digest(&trainer.parameters()?);
        let digest_seconds = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let save = SaveId { update: trainer.update(), generation: Generation(1) };
        let memory = trainer.memory()?.into_iter().map(Cow::into_owned).collect();
        let copy = StateCopy::take(&trainer, save, memory)?;
        let copy_seconds = start.elapsed().as_secs_f64();
        drop(copy);
        Ok(Timed { runs, digest, digest_seconds, copy_seconds, peak_bytes, evaluations })
    }

    /// The group of one worker.
    fn alone<B>(&self, connect: &Connect<B>) -> Result<Box<dyn Collective<B>>, Box<dyn std::error::Error>> {
        let listener = Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let form = Form {
            generation: Generation(1),
            rank: Rank(0),
            peers: vec![listener.endpoint()],
            secret: Secret([0; 32]),
            lanes: vec![vec![0..self.options.lanes]],
            update: Update(0),
            line: Generation(0),
            source: None,
        };
        let (switch, (_, told)) = (AbortSwitch::new()?, mpsc::channel());
        let rendezvous = Rendezvous { switch: &switch, tell: &|_| {}, told: &told };
        Ok(connect(&listener, &form, &Layout::new(&model(&self.options)), &rendezvous)?)
    }

    fn trainer<O: Ops>(&self, ops: O) -> Result<Trainer<O>, Box<dyn std::error::Error>> {
        let options = &self.options;
        let model = model(options);
        let layout = Layout::new(&model);
        let value = |i: usize| ((mix(i as u64) >> 40) as f32 / (1 << 23) as f32 - 1.0) * 0.03;
        let mut parameters: Vec<f32> = (0..layout.len()).map(value).collect();
        for slot in layout.slots().iter().filter(|slot| slot.name.ends_with("LayerNorm.weight")) {
            parameters[slot.range.clone()].fill(1.0);
        }
        let spec = spec(options, self.compute);
        Ok(Trainer::new(ops, model, spec, parameters)?)
    }
}

/// Predicts the first `count` rows as a run does; the seconds that it took.
fn evaluate<O: Ops>(
    trainer: &mut Trainer<O>,
    count: u32,
    examples: &[Example],
) -> Result<f64, Box<dyn std::error::Error>> {
    let start = Instant::now();
    let rows: Vec<RowId> = (0..count).map(RowId).collect();
    for block in rows.chunks(BLOCK_ROWS as usize) {
        trainer.predict(block, examples)?;
    }
    Ok(start.elapsed().as_secs_f64())
}

fn spec(options: &Options, compute: ComputeSpec) -> TrainSpec {
    TrainSpec {
        seed: 42,
        data_seed: None,
        rows_per_update: options.rows,
        lanes: options.lanes,
        schedule: LrSchedule { decay: Decay::linear(), peak: 1e-5, warmup_updates: 0, total_updates: options.updates },
        optimizer: OptimizerSpec {
            kind: OptimizerKind::AdamwTorch,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            max_grad_norm: Some(1.0),
        },
        tuning: TuningSpec::default(),
        label_smoothing: 0.0,
        class_weights: Vec::new(),
        compute,
    }
}

fn model(options: &Options) -> ModelConfig {
    ModelConfig {
        family: Family::Bert,
        vocab_size: 30_522,
        hidden_size: options.hidden,
        num_hidden_layers: options.layers,
        num_attention_heads: options.hidden / options.head,
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
