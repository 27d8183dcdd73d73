//! The kernels drop the very elements that the CPU drops: at every site, to the bit.

use super::kernels_test::{Case, LANES, Outputs, Scenario, compare, masks};
use crate::ops::attention::{Attention, HeadShape, QueryKeyValue};
use crate::ops::cpu::oracle::packed;
use crate::ops::dropout::Site;
use crate::ops::embedding::Embedding;
use crate::ops::head::{HeadDropout, TanhDropout};
use crate::ops::norm::{Norm, ResidualNorm};
use crate::ops::{Ops, Slice};

const WIDTH: usize = 136;

/// 1 for each element that is there, 0 for each that was dropped.
struct Kept;

fn pattern(values: &[f32]) -> Vec<f32> {
    values.iter().map(|value| f32::from(*value != 0.0)).collect()
}

impl Kept {
    fn of_rows<O: Ops>(case: &Case<'_, O>) -> Outputs {
        let (ops, batch) = (case.ops, packed(&LANES));
        let (tokens, sequences) = (batch.tokens.len(), batch.rows.len());
        let (elements, pack) = (tokens * WIDTH, &ops.load(batch, &masks()).unwrap());
        let [words, positions, types] = [case.wide(13 * WIDTH, 1), case.wide(70 * WIDTH, 2), case.wide(2 * WIDTH, 3)];
        let table = |buffer, rows: usize| Slice { buffer, range: 0..rows * WIDTH };
        let parameters = case.wide(3 * WIDTH, 4);
        let run = |i: usize| Slice { buffer: &parameters, range: i * WIDTH..(i + 1) * WIDTH };
        let (mut z, mut stats) = (case.activation_room(elements), case.room(2 * tokens));
        let mut embedded = case.activation_room(elements);
        ops.embedding(Embedding {
            pack,
            dropout: case.dropout(Site::Embedding),
            words: table(&words, 13),
            positions: table(&positions, 70),
            types: table(&types, 2),
            norm: Norm { gamma: run(0), beta: run(1), epsilon: 1e-12 },
            z: &mut z,
            stats: &mut stats,
            y: &mut embedded,
        })
        .unwrap();
        let (mut z, mut y) = (case.taken(elements, 5), case.activation_room(elements));
        ops.residual_norm(ResidualNorm {
            pack,
            dropout: case.dropout(Site::FeedForwardOutput(7)),
            bias: run(2),
            residual: &case.stored(vec![0.0; elements]),
            norm: Norm { gamma: run(0), beta: run(1), epsilon: 1e-12 },
            z: &mut z,
            stats: &mut stats,
            y: &mut y,
        })
        .unwrap();
        let (mut pooled, mut dropped) = (case.taken(sequences * WIDTH, 6), case.activation_room(sequences * WIDTH));
        let dropout = case.dropout(Site::Pooled);
        ops.tanh_dropout(TanhDropout { pack, hidden: WIDTH, dropout, x: &mut pooled, y: &mut dropped }).unwrap();
        let (x, mut y) = (case.activations(sequences * WIDTH, 7), case.activation_room(sequences * WIDTH));
        if let Some(dropout) = case.dropout(Site::ClassifierInput) {
            ops.head_dropout(HeadDropout { pack, hidden: WIDTH, dropout, x: &x, y: &mut y }).unwrap();
        }
        let classified = if case.dropout(Site::ClassifierInput).is_some() { &y } else { &x };
        vec![
            ("classified", pattern(&case.values(classified, sequences * WIDTH))),
            ("embedded", pattern(&case.values(&embedded, elements))),
            ("added to the residual", pattern(&case.values(&z, elements))),
            ("pooled", pattern(&case.values(&dropped, sequences * WIDTH))),
        ]
    }

    /// The value of a sequence's n-th key has its n-th element alone, so the context shows which keys a query sees.
    fn of_pairs<O: Ops>(case: &Case<'_, O>) -> Outputs {
        let (ops, batch, shape) = (case.ops, packed(&LANES), HeadShape { heads: 2, head_size: 128 });
        let (tokens, hidden) = (batch.tokens.len(), shape.hidden());
        let mut kv = vec![0.0; tokens * 2 * hidden];
        for sequence in 0..batch.rows.len() {
            for (place, token) in batch.sequence(sequence).enumerate() {
                for head in 0..shape.heads {
                    kv[token * 2 * hidden + hidden + head * shape.head_size + place] = 1.0;
                }
            }
        }
        let (q, kv, pack) =
            (&case.activations(tokens * hidden, 1), &case.stored(kv), &ops.load(batch, &masks()).unwrap());
        let (mut context, mut stats) = (case.activation_room(tokens * hidden), case.room(tokens * shape.heads * 2));
        let dropout = case.dropout(Site::Attention(3));
        ops.attention(Attention {
            queries: pack,
            keys: pack,
            shape,
            dropout,
            qkv: QueryKeyValue::Apart { q, kv },
            context: &mut context,
            stats: &mut stats,
        })
        .unwrap();
        vec![("pairs", pattern(&case.values(&context, tokens * hidden)))]
    }
}

impl Scenario for Kept {
    fn run<O: Ops>(&self, case: &Case<'_, O>) -> Outputs {
        Self::of_rows(case).into_iter().chain(Self::of_pairs(case)).collect()
    }
}

#[test]
fn what_is_dropped_is_what_the_cpu_drops() {
    compare(Kept);
}
