//! Times, on a GPU, what decides how products are made: whether a bias's gradient is faster in the product's launch or in one
//! of its own, and what a number of tokens costs the host that no product was made of before.
//! `cargo run --release -p medley-worker --features cuda --example epilogues -- --hidden 1024 --tokens 1440`

use std::error::Error;
use std::ops::Range;
use std::time::Instant;

use clap::Parser;
use medley_common::spec::Precision;
use medley_worker::batch::LaneSpan;
use medley_worker::device::{Device, Place};
use medley_worker::ops::buffer_pool::BufferPool;
use medley_worker::ops::cuda::Cuda;
use medley_worker::ops::cuda::device::Gpu;
use medley_worker::ops::cuda::device::clocked::Clocked;
use medley_worker::ops::linear::{
    ColumnSum, Linear, LinearGradients, LinearInputGradient, LinearShape, LinearWeightGradient, Write,
};
use medley_worker::ops::sum_order::SumOrder;
use medley_worker::ops::{DeviceError, Ops, Slice, SliceMut};

/// What to time.
#[derive(Parser)]
struct Options {
    /// Width of the hidden states.
    #[arg(long, default_value_t = 1024)]
    hidden: usize,
    /// Tokens of an update.
    #[arg(long, default_value_t = 1440)]
    tokens: usize,
    /// Times that each is made, the first of them not timed.
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// Numbers of tokens that are new to cuBLASLt.
    #[arg(long, default_value_t = 16)]
    new: usize,
}

/// A linear layer on the GPU, with bfloat16 for what is multiplied.
struct Layer<O: Ops> {
    ops: O,
    shape: LinearShape,
    x: O::Buffer,
    parameters: O::Buffer,
    y: O::Buffer,
    dx: O::Buffer,
    gradients: O::Buffer,
}

impl<O: Ops> Layer<O> {
    fn new(ops: O, shape: LinearShape) -> Result<Self, DeviceError> {
        let LinearShape { rows, inputs, outputs } = shape;
        let values = |count: usize| (0..count).map(|i| (i * 7919 % 2003) as f32 / 2003.0 - 0.5).collect::<Vec<f32>>();
        let room = |count| {
            let mut buffer = O::Buffer::default();
            ops.grow(&mut buffer, count).map(|()| buffer)
        };
        let [x, y, dx] =
            [rows * inputs, rows * outputs, rows * inputs].map(|count| ops.upload_parameters(values(count)));
        let parameters = ops.upload_parameters(values(outputs * inputs + outputs))?;
        let gradients = room(outputs * inputs + outputs)?;
        Ok(Self { x: x?, y: y?, dx: dx?, parameters, gradients, shape, ops })
    }

    fn weights(&self) -> Range<usize> {
        0..self.shape.inputs * self.shape.outputs
    }

    fn biases(&self) -> Range<usize> {
        self.weights().end..self.weights().end + self.shape.outputs
    }

    fn forward(&mut self) -> Result<(), DeviceError> {
        let weight = Slice { buffer: &self.parameters, range: self.weights() };
        let bias = Some(Slice { buffer: &self.parameters, range: self.biases() });
        self.ops.linear(Linear { shape: self.shape, x: &self.x, weight, bias, y: &mut self.y })
    }

    fn input_gradient(&mut self) -> Result<(), DeviceError> {
        let weight = Slice { buffer: &self.parameters, range: self.weights() };
        let (shape, dy, dx, write) = (self.shape, &self.y, &mut self.dx, Write::Set);
        self.ops.linear_input_gradient(LinearInputGradient { shape, dy, weight, dx, write })
    }

    /// The gradients of weight and bias in one launch, where cuBLASLt has that.
    fn together(&mut self) -> Result<(), DeviceError> {
        let (dweight, dbias) = (self.weights(), self.biases());
        self.ops.linear_gradients(LinearGradients {
            lane: &lane(self.shape.rows),
            dy: &self.y,
            x: &self.x,
            inputs: self.shape.inputs,
            partials: None,
            gradients: &mut self.gradients,
            dweight,
            dbias,
            pool: &mut BufferPool::default(),
        })
    }

    /// The same in two launches.
    fn apart(&mut self) -> Result<(), DeviceError> {
        let (weights, biases) = (self.weights(), self.biases());
        let dweight = SliceMut { buffer: &mut self.gradients, range: weights };
        self.ops.linear_weight_gradient(LinearWeightGradient {
            lanes: &[lane(self.shape.rows)],
            order: &SumOrder::leaf(0),
            dy: &self.y,
            x: &self.x,
            inputs: self.shape.inputs,
            dweight,
            pool: &mut BufferPool::default(),
        })?;
        let sum = SliceMut { buffer: &mut self.gradients, range: biases };
        self.ops.column_sum(ColumnSum { rows: 0..self.shape.rows, x: &self.y, sum })
    }
}

fn lane(rows: usize) -> LaneSpan {
    LaneSpan { lane: 0, sequences: 0..0, tokens: 0..rows, blocks: 0..0 }
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = Options::parse();
    let Place::Cuda { ordinal, .. } = Device::Cuda.place(None)? else { return Err("there is no GPU".into()) };
    let gpu = Gpu::open(ordinal, false)?;
    epilogues(&options, &Clocked::new(gpu.clone()))?;
    new_numbers(&options, &Cuda::new(gpu, Precision::Bfloat16))
}

/// Of queries and attention's output; of keys and values; of queries, keys and values at once; of the feed-forward's two.
fn shapes(hidden: usize, rows: usize) -> [LinearShape; 5] {
    let widths = [(1, 1), (1, 2), (1, 3), (1, 4), (4, 1)];
    widths.map(|(inputs, outputs)| LinearShape { rows, inputs: inputs * hidden, outputs: outputs * hidden })
}

fn epilogues(options: &Options, clocked: &Clocked) -> Result<(), Box<dyn Error>> {
    let cuda = Cuda::new(clocked.clone(), Precision::Bfloat16);
    for shape in shapes(options.hidden, options.tokens) {
        let mut layer = Layer::new(cuda.clone(), shape)?;
        let mut microseconds = |make: fn(&mut Layer<_>) -> Result<(), DeviceError>| {
            make(&mut layer)?;
            clocked.take()?;
            (0..options.rounds).try_for_each(|_| make(&mut layer))?;
            let seconds: f64 = clocked.take()?.values().map(|taken| taken.seconds).sum();
            Ok::<f64, DeviceError>(1e6 * seconds / options.rounds as f64)
        };
        let (together, apart) = (microseconds(Layer::together)?, microseconds(Layer::apart)?);
        println!(
            "bias's gradient, {} to {} wide, {} tokens: {together:.1} us in the product's launch, {apart:.1} us in one of its own",
            shape.inputs, shape.outputs, shape.rows
        );
    }
    Ok(())
}

/// Forward, input and weight gradients of all shapes, for each of some numbers of tokens: the first time, and again.
fn new_numbers(options: &Options, cuda: &Cuda<Gpu>) -> Result<(), Box<dyn Error>> {
    let (mut first, mut again) = (Vec::new(), Vec::new());
    for number in 1..=options.new {
        let mut layers = Vec::new();
        for shape in shapes(options.hidden, options.tokens + number) {
            layers.push(Layer::new(cuda.clone(), shape)?);
        }
        for times in [&mut first, &mut again] {
            cuda.wait()?;
            let start = Instant::now();
            for layer in &mut layers {
                layer.forward()?;
                layer.input_gradient()?;
                layer.together()?;
            }
            times.push(start.elapsed().as_secs_f64());
        }
    }
    let [first, again] = [first, again].map(|mut times| {
        times.sort_by(f64::total_cmp);
        1e3 * times[times.len() / 2]
    });
    println!("a new number of tokens: {first:.2} ms of the host for 15 products, {again:.2} ms once they are known");
    Ok(())
}
