//! Times the matrix products of an encoder layer, as a training step makes them on the CPU; `tests/peers/compare.py products`
//! puts PyTorch's beside them. `cargo run --release -p medley-worker --example products -- --hidden 768 --threads 2`
//!
//! The last line is JSON: the speed of forward, of the gradients of the input and of those of the weights, in GFLOP/s, two
//! operations for each number that is multiplied and added.

use std::hint::black_box;
use std::ops::Range;
use std::time::Instant;

use clap::Parser;
use medley_worker::batch::LaneSpan;
use medley_worker::ops::buffer_pool::BufferPool;
use medley_worker::ops::cpu::Cpu;
use medley_worker::ops::linear::{Linear, LinearInputGradient, LinearShape, LinearWeightGradient, Write};
use medley_worker::ops::sum_order::SumOrder;
use medley_worker::ops::{DeviceError, Ops, Slice, SliceMut};

/// What to time.
#[derive(Parser)]
struct Options {
    /// Width of the hidden states.
    #[arg(long, default_value_t = 384)]
    hidden: usize,
    /// Tokens of all rows.
    #[arg(long, default_value_t = 1024)]
    tokens: usize,
    /// Lanes of an update: gradients of weights are made for each.
    #[arg(long, default_value_t = 8)]
    lanes: usize,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Times that all products are made; the median counts.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
}

/// A linear layer, and what goes through it.
struct Layer {
    shape: LinearShape,
    x: Vec<f32>,
    weight: Vec<f32>,
    y: Vec<f32>,
    dx: Vec<f32>,
    dweight: Vec<f32>,
}

/// Makes a layer's products of one kind, of so many lanes.
type Make = fn(&mut Layer, usize) -> Result<(), DeviceError>;

impl Layer {
    fn new(rows: usize, inputs: usize, outputs: usize) -> Self {
        let values = |length: usize| (0..length).map(|i| (i * 7919 % 2003) as f32 / 2003.0 - 0.5).collect();
        Self {
            shape: LinearShape { rows, inputs, outputs },
            x: values(rows * inputs),
            weight: values(inputs * outputs),
            y: values(rows * outputs),
            dx: vec![0.0; rows * inputs],
            dweight: vec![0.0; inputs * outputs],
        }
    }

    fn forward(&mut self) -> Result<(), DeviceError> {
        let weight = Slice { buffer: &self.weight, range: 0..self.weight.len() };
        Cpu.linear(Linear { shape: self.shape, x: black_box(&self.x), weight, bias: None, y: &mut self.y })
    }

    fn input_gradient(&mut self) -> Result<(), DeviceError> {
        let weight = Slice { buffer: &self.weight, range: 0..self.weight.len() };
        let (shape, dy, dx) = (self.shape, black_box(&self.y), &mut self.dx);
        Cpu.linear_input_gradient(LinearInputGradient { shape, dy, weight, dx, write: Write::Set })
    }

    fn weight_gradient(&mut self, lanes: usize) -> Result<(), DeviceError> {
        let LinearShape { rows, inputs, .. } = self.shape;
        let tokens = |lane: usize| rows * lane / lanes..rows * (lane + 1) / lanes;
        let span = |lane: usize| LaneSpan { lane: lane as u32, sequences: 0..0, tokens: tokens(lane), blocks: 0..0 };
        let spans: Vec<LaneSpan> = (0..lanes).map(span).collect();
        let range = 0..self.dweight.len();
        let (dy, x, dweight) = (black_box(&self.y), &self.x, SliceMut { buffer: &mut self.dweight, range });
        let (order, pool) = (&halves(0..lanes), &mut BufferPool::default());
        Cpu.linear_weight_gradient(LinearWeightGradient { lanes: &spans, order, dy, x, inputs, dweight, pool })
    }
}

/// The sum of these lanes as the sum of two halves.
fn halves(lanes: Range<usize>) -> SumOrder {
    let middle = lanes.start + lanes.len().div_ceil(2);
    if lanes.len() < 2 {
        SumOrder::leaf(lanes.start)
    } else {
        halves(lanes.start..middle).plus(halves(middle..lanes.end))
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Options { hidden, tokens, lanes, threads, rounds } = Options::parse();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
    // Queries; keys and values; attention's output; the feed-forward's two.
    let sizes = [(1, 1), (1, 2), (1, 1), (1, 4), (4, 1)];
    let mut layers = sizes.map(|(inputs, outputs)| Layer::new(tokens, inputs * hidden, outputs * hidden));
    let operations: usize = layers.iter().map(|it| 2 * tokens * it.shape.inputs * it.shape.outputs).sum();
    let mut times = [(); 3].map(|()| Vec::with_capacity(rounds));
    for round in 0..=rounds {
        let kinds: [Make; 3] = [|layer, _| layer.forward(), |layer, _| layer.input_gradient(), Layer::weight_gradient];
        for (make, times) in kinds.into_iter().zip(&mut times) {
            let start = Instant::now();
            pool.install(|| layers.iter_mut().try_for_each(|layer| make(layer, lanes)))?;
            if round > 0 {
                times.push(start.elapsed().as_secs_f64());
            }
        }
    }
    let [forward, input_gradient, weight_gradient] = times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        operations as f64 / times[times.len() / 2] / 1e9
    });
    println!(
        r#"{{"forward_gflops": {forward:.2}, "input_gradient_gflops": {input_gradient:.2}, "weight_gradient_gflops": {weight_gradient:.2}}}"#
    );
    Ok(())
}
