//! Attention against the CPU's, by lanes and by matrix units.

use medley_common::identity::RowId;
use medley_common::spec::Precision;

use super::Cuda;
use super::driver::Driver;
use super::drivers_test::{DriverTest, on_each_driver};
use super::kernels_test::{Case, Outputs, Scenario, compare};
use crate::batch::Batch;
use crate::ops::attention::{Attention, AttentionBackward, HeadShape};
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
        let (ops, keys, queries) = (case.ops, &case.ops.load(batch).unwrap(), &case.ops.load(asked).unwrap());
        let (dropout, seed) = (case.dropout(Site::Attention(2)), 3 * tokens as u64);
        let [q, kv] = &self.inputs(case, [asking, tokens], seed);
        let (mut context, mut stats) = (case.activation_room(asking * hidden), case.room(asking * shape.heads * 2));
        let (context_mut, stats_mut) = (&mut context, &mut stats);
        ops.attention(Attention { queries, keys, shape, dropout, q, kv, context: context_mut, stats: stats_mut })
            .unwrap();
        let (mut dq, mut dkv) = (case.activation_room(asking * hidden), case.activation_room(tokens * 2 * hidden));
        ops.attention_backward(AttentionBackward {
            queries,
            keys,
            shape,
            dropout,
            q,
            kv,
            context: &context,
            stats: &stats,
            dcontext: &case.activations(asking * hidden, seed + 2),
            dq: &mut dq,
            dkv: &mut dkv,
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

struct Company;

impl Company {
    const SHAPE: HeadShape = HeadShape { heads: 2, head_size: 64 };

    /// The bits of what attention makes of each of some sequences: [context, dq, dkv].
    fn bits<D: Driver>(cuda: &Cuda<D>, lengths: &[usize], [q, kv, dcontext]: [&[f32]; 3]) -> [Vec<u32>; 3] {
        let (hidden, batch) = (Self::SHAPE.hidden(), sequences(lengths));
        let (tokens, pack) = (batch.tokens.len(), &cuda.load(batch).unwrap());
        let stored = |values: &[f32]| cuda.upload_parameters(values.to_vec()).unwrap();
        let room = |count| {
            let mut buffer = super::Buffer::default();
            cuda.grow_activations(&mut buffer, count).unwrap();
            buffer
        };
        let (q, kv, dcontext) = (&stored(q), &stored(kv), &stored(dcontext));
        let [mut context, mut dq, mut dkv] = [1, 1, 2].map(|widths| room(widths * tokens * hidden));
        let mut stats = super::Buffer::default();
        cuda.grow(&mut stats, tokens * Self::SHAPE.heads * 2).unwrap();
        let (queries, keys, shape, dropout) = (pack, pack, Self::SHAPE, None);
        let (context_mut, stats_mut) = (&mut context, &mut stats);
        cuda.attention(Attention { queries, keys, shape, dropout, q, kv, context: context_mut, stats: stats_mut })
            .unwrap();
        let (context_ref, stats, dq_mut, dkv_mut) = (&context, &stats, &mut dq, &mut dkv);
        cuda.attention_backward(AttentionBackward {
            queries,
            keys,
            shape,
            dropout,
            q,
            kv,
            context: context_ref,
            stats,
            dcontext,
            dq: dq_mut,
            dkv: dkv_mut,
        })
        .unwrap();
        let read = |buffer: &super::Buffer<D::Memory>, count| {
            let values = cuda.read(Slice { buffer, range: 0..count }).unwrap();
            values.into_iter().map(f32::to_bits).collect()
        };
        [(&context, 1), (&dq, 1), (&dkv, 2)].map(|(buffer, widths)| read(buffer, widths * tokens * hidden))
    }
}

impl DriverTest for Company {
    fn run<D: Driver + Clone>(&self, driver: D) {
        let (cuda, lengths) = (Cuda::new(driver, Precision::Bfloat16), [20, 140, 70]);
        let hidden = Self::SHAPE.hidden();
        let [q, kv, dcontext] = [(1, 1), (2, 2), (1, 3)].map(|(widths, seed)| noise(230 * widths * hidden, seed));
        let together = Self::bits(&cuda, &lengths, [&q, &kv, &dcontext]);
        let mut first = 0;
        for length in lengths {
            let of = |widths: usize| first * widths * hidden..(first + length) * widths * hidden;
            let alone = Self::bits(&cuda, &[length], [&q[of(1)], &kv[of(2)], &dcontext[of(1)]]);
            let same = [1, 1, 2].into_iter().zip(&together).map(|(widths, all)| all[of(widths)].to_vec());
            assert!(same.eq(alone), "a sequence of {length}");
            first += length;
        }
    }
}

/// How much there is room for at once follows from the longest sequence: the others must not show it.
#[test]
fn a_sequence_has_the_same_bits_in_any_company() {
    on_each_driver(&Company);
}
