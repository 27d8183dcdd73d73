//! Times the operations of a training step on the CPU, in MiniLM's shapes: 16 rows of 45 tokens in 8 lanes, on one thread
//! and on all. `cargo bench -p medley-worker --bench ops -- [NAME]`
// A benchmark that cannot be set up has nothing else to say.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use medley_common::example::Example;
use medley_common::identity::{RowId, Update};
use medley_common::model::{Family, ModelConfig};
use medley_worker::batch::{Batch, Labels, LaneSpan, Source};
use medley_worker::ops::adamw::{AdamW, Coefficients};
use medley_worker::ops::attention::{Attention, AttentionBackward, HeadShape, QueryKeyValue};
use medley_worker::ops::buffer_pool::BufferPool;
use medley_worker::ops::cpu::Cpu;
use medley_worker::ops::dropout::{Masks, Site};
use medley_worker::ops::embedding::{Embedding, WordGradient};
use medley_worker::ops::gelu::{BiasGelu, BiasGeluBackward};
use medley_worker::ops::head::CrossEntropy;
use medley_worker::ops::linear::{ColumnSum, Linear, LinearInputGradient, LinearShape, LinearWeightGradient, Write};
use medley_worker::ops::norm::{Norm, ResidualNorm, ResidualNormBackward};
use medley_worker::ops::step::StepRun;
use medley_worker::ops::sum_order::SumOrder;
use medley_worker::ops::{Ops, Slice, SliceMut};

const ROWS: u32 = 16;
const TOKENS: usize = 45;
const LANES: u32 = 8;
const HIDDEN: usize = 384;
const INNER: usize = 1536;
const HEADS: HeadShape = HeadShape { heads: 12, head_size: 32 };
const WORDS: usize = 30_522;
/// Elements of an encoder layer.
const LAYER: usize = 1_774_464;

fn model() -> ModelConfig {
    ModelConfig {
        family: Family::Bert,
        vocab_size: WORDS as u32,
        hidden_size: HIDDEN as u32,
        num_hidden_layers: 6,
        num_attention_heads: 12,
        intermediate_size: INNER as u32,
        max_position_embeddings: 512,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout: 0.1,
        attention_dropout: 0.1,
        classifier_dropout: 0.1,
        initializer_range: 0.02,
        num_labels: 3,
    }
}

/// Rows that are packed, and numbers that are neither 0 nor large.
fn pack() -> Batch {
    let row = |row: u32| Example {
        tokens: (0..TOKENS as u32).map(|token| (row * 7919 + token * 104_729) % WORDS as u32).collect(),
        first_segment: TOKENS as u32 / 2,
        label: Some(row % 3),
    };
    let examples: Vec<Example> = (0..ROWS).map(row).collect();
    let lanes: Vec<Vec<RowId>> =
        (0..LANES).map(|lane| (0..ROWS).filter(|row| row % LANES == lane).map(RowId).collect()).collect();
    let lanes = (0..LANES).map(|lane| (lane, lanes[lane as usize].as_slice()));
    let model = model();
    Batch::pack(lanes, Source { examples: &examples, model: &model, labels: Labels::Required }).unwrap()
}

fn values(length: usize) -> Vec<f32> {
    (0..length).map(|i| ((i * 7919 % 2003) as f32 / 1001.5 - 1.0) * 0.5).collect()
}

fn all(buffer: &Vec<f32>) -> Slice<'_, Vec<f32>> {
    Slice { buffer, range: 0..buffer.len() }
}

fn all_mut(buffer: &mut Vec<f32>) -> SliceMut<'_, Vec<f32>> {
    let range = 0..buffer.len();
    SliceMut { buffer, range }
}

/// Times `op` on one thread and on all, where there are more.
fn time(c: &mut Criterion, name: &str, mut op: impl FnMut() + Send) {
    let most = std::thread::available_parallelism().map_or(1, usize::from);
    for threads in if most == 1 { vec![1] } else { vec![1, most] } {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        c.bench_function(&format!("{name}/{threads} threads"), |b| pool.install(|| b.iter(&mut op)));
    }
}

fn linear(c: &mut Criterion) {
    let (tokens, rows) = (ROWS as usize * TOKENS, LinearShape { rows: 0, inputs: HIDDEN, outputs: INNER });
    let shape = LinearShape { rows: tokens, ..rows };
    let (x, weight, bias) = (values(tokens * HIDDEN), values(INNER * HIDDEN), values(INNER));
    let (mut y, dy) = (values(tokens * INNER), values(tokens * INNER));
    let (mut dx, mut dweight, mut sum) = (values(tokens * HIDDEN), values(INNER * HIDDEN), values(INNER));
    time(c, "linear", || {
        let (weight, bias) = (all(&weight), Some(all(&bias)));
        Cpu.linear(Linear { shape, x: black_box(&x), weight, bias, y: &mut y }).unwrap();
    });
    time(c, "linear_input_gradient", || {
        let (dy, weight, dx) = (black_box(&dy), all(&weight), &mut dx);
        Cpu.linear_input_gradient(LinearInputGradient { shape, dy, weight, dx, write: Write::Set }).unwrap();
    });
    // As a lane has them.
    let rows = 0..tokens / LANES as usize;
    let lanes = &[LaneSpan { lane: 0, sequences: 0..0, tokens: rows.clone(), blocks: 0..0 }];
    let (order, pool, inputs) = (&SumOrder::leaf(0), &mut BufferPool::default(), HIDDEN);
    time(c, "linear_weight_gradient", || {
        let (dy, x, dweight) = (black_box(&dy), &x, all_mut(&mut dweight));
        let gradient = LinearWeightGradient { lanes, order, dy, x, inputs, dweight, pool };
        Cpu.linear_weight_gradient(gradient).unwrap();
    });
    time(c, "column_sum", || {
        let (rows, x, sum) = (rows.clone(), black_box(&dy), all_mut(&mut sum));
        Cpu.column_sum(ColumnSum { rows, x, sum }).unwrap();
    });
}

fn attention(c: &mut Criterion) {
    let (pack, masks) = (pack(), Masks::new(&model(), 42, Update(1)));
    let tokens = ROWS as usize * TOKENS;
    let (qkv, dcontext) = (values(tokens * 3 * HIDDEN), values(tokens * HIDDEN));
    let (mut context, mut stats) = (values(tokens * HIDDEN), values(tokens * HEADS.heads * 2));
    let mut dqkv = values(tokens * 3 * HIDDEN);
    let (queries, keys, shape, dropout) = (&pack, &pack, HEADS, masks.at(Site::Attention(0)));
    time(c, "attention", || {
        let (qkv, context, stats) = (QueryKeyValue::Together(black_box(&qkv)), &mut context, &mut stats);
        Cpu.attention(Attention { queries, keys, shape, dropout, qkv, context, stats }).unwrap();
    });
    time(c, "attention_backward", || {
        let qkv = QueryKeyValue::Together((black_box(&qkv), &mut dqkv));
        let (context, stats, dcontext) = (&context, &stats, &dcontext);
        let op = AttentionBackward { queries, keys, shape, dropout, qkv, context, stats, dcontext };
        Cpu.attention_backward(op).unwrap();
    });
}

fn norm(c: &mut Criterion) {
    let (pack, masks) = (pack(), Masks::new(&model(), 42, Update(1)));
    let (pack, dropout, tokens) = (&pack, masks.at(Site::FeedForwardOutput(0)), ROWS as usize * TOKENS);
    let (residual, bias, gamma, beta) = (values(tokens * HIDDEN), values(HIDDEN), values(HIDDEN), values(HIDDEN));
    let (mut z, mut stats, mut y) = (values(tokens * HIDDEN), values(tokens * 2), values(tokens * HIDDEN));
    let (mut dz, mut du, mut partials) =
        (values(tokens * HIDDEN), values(tokens * HIDDEN), values(pack.blocks.len() * 3 * HIDDEN));
    time(c, "residual_norm", || {
        let norm = Norm { gamma: all(&gamma), beta: all(&beta), epsilon: 1e-12 };
        let (bias, residual, z, stats, y) = (all(&bias), &residual, &mut z, &mut stats, &mut y);
        Cpu.residual_norm(ResidualNorm { pack, dropout, bias, residual, norm, z, stats, y }).unwrap();
    });
    time(c, "residual_norm_backward", || {
        let (dy, z, stats, gamma) = (black_box(&residual), &z, &stats, all(&gamma));
        let (dz, du, partials) = (&mut dz, &mut du, &mut partials);
        let op = ResidualNormBackward { pack, dropout, dy, z, stats, gamma, dz, du, partials };
        Cpu.residual_norm_backward(op).unwrap();
    });
}

fn gelu(c: &mut Criterion) {
    let (pack, tokens) = (pack(), ROWS as usize * TOKENS);
    let pack = &pack;
    let (u, bias, mut a) = (values(tokens * INNER), values(INNER), values(tokens * INNER));
    let (mut gradient, mut partials) = (values(tokens * INNER), values(pack.blocks.len() * INNER));
    time(c, "bias_gelu", || {
        Cpu.bias_gelu(BiasGelu { pack, u: black_box(&u), bias: all(&bias), a: &mut a }).unwrap();
    });
    time(c, "bias_gelu_backward", || {
        let (u, bias, gradient, partials) = (black_box(&u), all(&bias), &mut gradient, &mut partials);
        Cpu.bias_gelu_backward(BiasGeluBackward { pack, u, bias, gradient, partials }).unwrap();
    });
}

fn ends(c: &mut Criterion) {
    let (pack, masks) = (pack(), Masks::new(&model(), 42, Update(1)));
    let (pack, dropout, tokens) = (&pack, masks.at(Site::Embedding), ROWS as usize * TOKENS);
    let (words, positions, types) = (values(WORDS * HIDDEN), values(512 * HIDDEN), values(2 * HIDDEN));
    let (gamma, beta) = (values(HIDDEN), values(HIDDEN));
    let (mut z, mut stats, mut y) = (values(tokens * HIDDEN), values(tokens * 2), values(tokens * HIDDEN));
    time(c, "embedding", || {
        let norm = Norm { gamma: all(&gamma), beta: all(&beta), epsilon: 1e-12 };
        let (words, positions, types) = (all(&words), all(&positions), all(&types));
        let (z, stats, y) = (&mut z, &mut stats, &mut y);
        Cpu.embedding(Embedding { pack, dropout, words, positions, types, norm, z, stats, y }).unwrap();
    });
    let dz = values(tokens * HIDDEN);
    time(c, "word_gradient", || {
        let (lane, hidden, dz) = (&pack.lanes[0], HIDDEN, black_box(&dz));
        black_box(Cpu.word_gradient(WordGradient { pack, lane, hidden, dz }).unwrap());
    });
    let rows = ROWS as usize;
    let (logits, mut dlogits, mut losses) = (values(rows * 3), values(rows * 3), values(rows));
    time(c, "cross_entropy", || {
        let (labels, smoothing, gradient_scale, class_weights) = (3, 0.0, 1.0, &[][..]);
        let (logits, dlogits, losses) = (black_box(&logits), &mut dlogits, &mut losses);
        let op = CrossEntropy { pack, labels, smoothing, class_weights, gradient_scale, logits, dlogits, losses };
        Cpu.cross_entropy(op).unwrap();
    });
}

fn optimizer(c: &mut Criterion) {
    let gradient = values(LAYER);
    let (mut parameters, mut first, mut second) = (values(LAYER), values(LAYER), vec![0.01; LAYER]);
    let coefficients = Coefficients {
        gradient_scale: 1.0,
        beta1: 0.9,
        one_minus_beta1: 0.1,
        beta2: 0.999,
        one_minus_beta2: 0.001,
        step_size: 1e-5,
        root_scale: 1.0,
        epsilon: 1e-8,
        decay_before: 1e-7,
        decay_after: 0.0,
    };
    time(c, "square_sum", || {
        black_box(Cpu.square_sum(&[all(black_box(&gradient))]).unwrap());
    });
    time(c, "adamw", || {
        let runs = vec![StepRun { range: 0..LAYER, decays: true, gradient: all(black_box(&gradient)) }];
        let [parameters, first, second] =
            [&mut parameters, &mut first, &mut second].map(|buffer| SliceMut { buffer, range: 0..LAYER });
        Cpu.adamw(AdamW { coefficients, parameters, first, second, runs }).unwrap();
    });
}

criterion_group!(ops, linear, attention, norm, gelu, ends, optimizer);
criterion_main!(ops);
