//! Attention against the CPU's, by lanes and by matrix units.

use std::ops::Range;

use medley_common::identity::RowId;
use medley_common::spec::Precision;

use super::driver::Driver;
use super::drivers_test::{DriverTest, on_each_driver};
use super::kernels_test::{Case, Outputs, Scenario, compare, masks};
use super::{Buffer, Cuda};
use crate::batch::Batch;
use crate::ops::attention::{Attention, AttentionBackward, HeadShape, QueryKeyValue};
use crate::ops::cpu::oracle::noise;
use crate::ops::dropout::Site;
use crate::ops::{Ops, Slice};

/// Sequences of so many tokens of data rows 5, 6, 7 ..
fn sequences(lengths: &[usize]) -> Batch {
    let of_each = |value: fn(usize, usize) -> usize| -> Vec<u32> {
        let sequence = |(i, length): (usize, &usize)| (0..*length).map(move |place| value(i, place) as u32);
        lengths.iter().enumerate().flat_map(sequence).collect()
    };
    let ends = lengths.iter().scan(0, |end, length| {
        *end += length;
        Some(*end)
    });
    Batch {
        rows: (5..).take(lengths.len()).map(RowId).collect(),
        offsets: std::iter::once(0).chain(ends).collect(),
        tokens: of_each(|_, _| 0),
        positions: of_each(|_, place| place),
        segments: of_each(|_, _| 0),
        sequences: of_each(|sequence, _| sequence),
        labels: vec![None; lengths.len()],
        loss_lanes: vec![0; lengths.len()],
        ..Batch::default()
    }
}

/// Attention of all tokens, or of the first tokens, to all.
struct Attending {
    shape: HeadShape,
    lengths: Vec<usize>,
    firsts: bool,
    /// Four times this is added to queries, and this taken from keys, all of which are then eighths: so large scores are exact.
    apart: Option<f32>,
}

impl Attending {
    /// Queries, `[Q, H]`, and keys and values, `[T, 2 H]`.
    fn inputs<O: Ops>(&self, case: &Case<'_, O>, [asking, tokens]: [usize; 2], seed: u64) -> [O::Buffer; 2] {
        let (queries, pairs) = (asking * self.shape.hidden(), tokens * 2 * self.shape.hidden());
        let Some(apart) = self.apart else {
            return [case.activations(queries, seed), case.activations(pairs, seed + 1)];
        };
        let eighths = |count, seed| noise(count, seed).into_iter().map(|value| (value * 8.0).round() / 8.0);
        let of_keys = |place: usize| place % (2 * self.shape.hidden()) < self.shape.hidden();
        let taken = |(place, value)| if of_keys(place) { value - apart } else { value };
        let q = eighths(queries, seed).map(|value| value + 4.0 * apart).collect();
        [case.stored(q), case.stored(eighths(pairs, seed + 1).enumerate().map(taken).collect())]
    }
}

impl Scenario for Attending {
    fn run<O: Ops>(&self, case: &Case<'_, O>) -> Outputs {
        let (batch, shape, hidden) = (sequences(&self.lengths), self.shape, self.shape.hidden());
        let asked = if self.firsts { batch.first_tokens() } else { batch.clone() };
        let (tokens, asking) = (batch.tokens.len(), asked.tokens.len());
        let (ops, keys, queries) =
            (case.ops, &case.ops.load(batch, &masks()).unwrap(), &case.ops.load(asked, &masks()).unwrap());
        let (dropout, seed) = (case.dropout(Site::Attention(2)), 3 * tokens as u64);
        let [q, kv] = &self.inputs(case, [asking, tokens], seed);
        let (mut context, mut stats) = (case.activation_room(asking * hidden), case.room(asking * shape.heads * 2));
        let (context_mut, stats_mut, qkv) = (&mut context, &mut stats, QueryKeyValue::Apart { q, kv });
        ops.attention(Attention { queries, keys, shape, dropout, qkv, context: context_mut, stats: stats_mut })
            .unwrap();
        let (mut dq, mut dkv) = (case.activation_room(asking * hidden), case.activation_room(tokens * 2 * hidden));
        ops.attention_backward(AttentionBackward {
            queries,
            keys,
            shape,
            dropout,
            qkv: QueryKeyValue::Apart { q: (q, &mut dq), kv: (kv, &mut dkv) },
            context: &context,
            stats: &stats,
            dcontext: &case.activations(asking * hidden, seed + 2),
        })
        .unwrap();
        vec![
            ("context", case.values(&context, asking * hidden)),
            ("stats", case.values(&stats, asking * shape.heads * 2)),
            ("dq", case.values(&dq, asking * hidden)),
            ("dkv", case.values(&dkv, tokens * 2 * hidden)),
        ]
    }
}

#[test]
fn attention_is_the_cpus() {
    for (heads, head_size) in [(4, 8), (3, 32), (2, 64), (1, 96), (1, 128)] {
        for firsts in [false, true] {
            let lengths = vec![5, 40, 2, 33, 17, 64, 24];
            compare(Attending { shape: HeadShape { heads, head_size }, lengths, firsts, apart: None });
        }
    }
}

/// On both sides of what a warp takes at a time, a block of threads computes, and shared memory has room for.
#[test]
fn attention_is_the_cpus_at_every_length() {
    for head_size in [32, 64] {
        for length in [1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 129, 300] {
            let shape = HeadShape { heads: if length > 65 { 1 } else { 2 }, head_size };
            // A sequence of one token alone has gradients of 0, which say nothing of what is near them.
            for firsts in [false, true] {
                compare(Attending { shape, lengths: vec![length, 3], firsts, apart: None });
            }
        }
    }
}

/// Where all scores are far below 0, what stands in the place of keys and queries that there are not would be far above.
#[test]
fn nothing_comes_of_tokens_that_there_are_not() {
    let (shape, lengths) = (HeadShape { heads: 2, head_size: 64 }, vec![5, 17]);
    compare(Attending { shape, lengths, firsts: false, apart: Some(2.0) });
}

/// Queries, keys, values and the gradient of the context, in rows of their own, of all tokens of some sequences.
struct Values {
    q: Vec<f32>,
    kv: Vec<f32>,
    dcontext: Vec<f32>,
}

/// The bits of what attention makes of values: [context, dq, dkv].
type Bits = [Vec<u32>; 3];

/// Values, and where their gradient goes.
type WithGradient<'a, M> = (&'a Buffer<M>, &'a mut Buffer<M>);

impl Values {
    const SHAPE: HeadShape = HeadShape { heads: 2, head_size: 64 };

    fn of(tokens: usize) -> Self {
        let noise = |widths: usize, seed| noise(tokens * widths * Self::SHAPE.hidden(), seed);
        Self { q: noise(1, 1), kv: noise(2, 2), dcontext: noise(1, 3) }
    }

    /// Those of some of the tokens.
    fn part(&self, tokens: &Range<usize>) -> Self {
        let of = |values: &[f32], widths: usize| part(values, widths * Self::SHAPE.hidden(), tokens);
        Self { q: of(&self.q, 1), kv: of(&self.kv, 2), dcontext: of(&self.dcontext, 1) }
    }

    /// What is in rows of their own, as queries, keys and values that are.
    fn apart<D: Driver>(&self, cuda: &Cuda<D>, lengths: &[usize]) -> Bits {
        let (q, kv) = (&stored(cuda, &self.q), &stored(cuda, &self.kv));
        let [mut dq, mut dkv] = [&self.q, &self.kv].map(|values| room(cuda, values.len()));
        let gradients = QueryKeyValue::Apart { q: (q, &mut dq), kv: (kv, &mut dkv) };
        let context = self.attend(cuda, lengths, QueryKeyValue::Apart { q, kv }, gradients);
        [context, bits(cuda, &dq, self.q.len()), bits(cuda, &dkv, self.kv.len())]
    }

    /// The same of queries, keys and values in the same rows.
    fn together<D: Driver>(&self, cuda: &Cuda<D>, lengths: &[usize]) -> Bits {
        let hidden = Self::SHAPE.hidden();
        let rows = self.q.chunks(hidden).zip(self.kv.chunks(2 * hidden));
        let qkv = stored(cuda, &rows.flat_map(|(q, kv)| [q, kv].concat()).collect::<Vec<_>>());
        let mut dqkv = room(cuda, self.q.len() + self.kv.len());
        let gradients = QueryKeyValue::Together((&qkv, &mut dqkv));
        let context = self.attend(cuda, lengths, QueryKeyValue::Together(&qkv), gradients);
        let rows = bits(cuda, &dqkv, self.q.len() + self.kv.len());
        let columns = |of: Range<usize>| rows.chunks(3 * hidden).flat_map(|row| &row[of.clone()]).copied().collect();
        [context, columns(0..hidden), columns(hidden..3 * hidden)]
    }

    /// The context's bits.
    fn attend<D: Driver>(
        &self,
        cuda: &Cuda<D>,
        lengths: &[usize],
        qkv: QueryKeyValue<&Buffer<D::Memory>>,
        gradients: QueryKeyValue<WithGradient<'_, D::Memory>>,
    ) -> Vec<u32> {
        let (shape, pack, mut stats) =
            (Self::SHAPE, &cuda.load(sequences(lengths), &masks()).unwrap(), Buffer::default());
        cuda.grow(&mut stats, self.q.len() / shape.head_size * 2).unwrap();
        let (queries, keys, dropout, mut context) = (pack, pack, None, room(cuda, self.q.len()));
        let (context_mut, stats_mut) = (&mut context, &mut stats);
        cuda.attention(Attention { queries, keys, shape, dropout, qkv, context: context_mut, stats: stats_mut })
            .unwrap();
        let (qkv, context, stats, dcontext) = (gradients, &context, &stats, &stored(cuda, &self.dcontext));
        cuda.attention_backward(AttentionBackward { queries, keys, shape, dropout, qkv, context, stats, dcontext })
            .unwrap();
        bits(cuda, context, self.q.len())
    }
}

fn stored<D: Driver>(cuda: &Cuda<D>, values: &[f32]) -> Buffer<D::Memory> {
    cuda.upload_parameters(values.to_vec()).unwrap()
}

fn room<D: Driver>(cuda: &Cuda<D>, count: usize) -> Buffer<D::Memory> {
    let mut buffer = Buffer::default();
    cuda.grow_activations(&mut buffer, count).unwrap();
    buffer
}

fn bits<D: Driver>(cuda: &Cuda<D>, buffer: &Buffer<D::Memory>, count: usize) -> Vec<u32> {
    cuda.read(Slice { buffer, range: 0..count }).unwrap().into_iter().map(f32::to_bits).collect()
}

/// Some rows of so many columns.
fn part<T: Copy>(values: &[T], width: usize, rows: &Range<usize>) -> Vec<T> {
    values[rows.start * width..rows.end * width].to_vec()
}

struct Company;

impl DriverTest for Company {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let (cuda, lengths) = (Cuda::new(driver, Precision::Bfloat16), [20, 140, 70]);
        let values = Values::of(230);
        let [context, dq, dkv] = values.apart(&cuda, &lengths);
        let mut first = 0;
        for length in lengths {
            let tokens = first..first + length;
            let of = |bits: &[u32], widths: usize| part(bits, widths * Values::SHAPE.hidden(), &tokens);
            let alone = values.part(&tokens).apart(&cuda, &[length]);
            assert!([of(&context, 1), of(&dq, 1), of(&dkv, 2)] == alone, "a sequence of {length}");
            first += length;
        }
    }
}

/// How much there is room for at once follows from the longest sequence: the others must not show it.
#[test]
fn a_sequence_has_the_same_bits_in_any_company() {
    on_each_driver(&Company);
}

struct Standing;

impl DriverTest for Standing {
    fn run<D: Driver + Clone>(&self, driver: D) {
        for precision in [Precision::Float32, Precision::Bfloat16, Precision::Float16] {
            let (cuda, lengths, values) = (Cuda::new(driver.clone(), precision), [20, 1, 70], Values::of(91));
            assert!(values.together(&cuda, &lengths) == values.apart(&cuda, &lengths), "{precision:?}");
        }
    }
}

/// All but the last layer have queries, keys and values in the same rows.
#[test]
fn queries_keys_and_values_have_the_same_bits_wherever_they_stand() {
    on_each_driver(&Standing);
}
