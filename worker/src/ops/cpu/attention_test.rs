use candle_core::{D, Tensor};

use super::*;
use crate::ops::attention::QueryKeyValue;
use crate::ops::cpu::oracle;
use crate::ops::cpu::oracle::{assert_close, noise};
use crate::ops::dropout::Site;

const SHAPE: HeadShape = HeadShape { heads: 4, head_size: 5 };
const HIDDEN: usize = 20;

/// The queries and the keys and values of `[T, 3 H]`.
fn split(batches: [&Batch; 2], qkv: &[f32]) -> [Vec<f32>; 2] {
    let [queries, keys] = batches;
    let firsts = (0..keys.rows.len()).flat_map(|i| keys.sequence(i).take(queries.sequence(i).len()));
    let q = firsts.flat_map(|token| &qkv[token * 3 * HIDDEN..][..HIDDEN]).copied().collect();
    let kv = qkv.chunks_exact(3 * HIDDEN).flat_map(|row| &row[HIDDEN..]).copied().collect();
    [q, kv]
}

/// The context and the gradients of queries and of keys and values.
fn run(
    [queries, keys]: [&Batch; 2],
    dropout: Option<Dropout>,
    [q, kv]: &[Vec<f32>; 2],
    dcontext: &Vec<f32>,
) -> [Vec<f32>; 3] {
    let (tokens, asking, shape) = (keys.tokens.len(), queries.tokens.len(), SHAPE);
    let (mut context, mut stats) = (vec![f32::NAN; asking * HIDDEN], vec![0.0; asking * SHAPE.heads * 2 + 3]);
    let (mut dq, mut dkv) = (vec![f32::NAN; asking * HIDDEN], vec![f32::NAN; tokens * 2 * HIDDEN]);
    let qkv = QueryKeyValue::Apart { q, kv };
    forward(Attention { queries, keys, shape, dropout, qkv, context: &mut context, stats: &mut stats });
    let qkv = QueryKeyValue::Apart { q: (q, &mut dq), kv: (kv, &mut dkv) };
    let (context_ref, stats) = (&context, &stats);
    backward(AttentionBackward { queries, keys, shape, dropout, qkv, context: context_ref, stats, dcontext });
    [context, dq, dkv]
}

/// The attention of one sequence: queries `[queries, H]`, keys and values `[tokens, 2 H]` to `[queries, H]`.
fn plain(q: &Tensor, kv: &Tensor, factors: Option<&Tensor>) -> Tensor {
    let (asking, tokens) = (q.dim(0).unwrap(), kv.dim(0).unwrap());
    let heads = |x: Tensor, rows: usize| {
        x.contiguous()
            .unwrap()
            .reshape((rows, SHAPE.heads, SHAPE.head_size))
            .unwrap()
            .transpose(0, 1)
            .unwrap()
            .contiguous()
            .unwrap()
    };
    let q = heads(q.clone(), asking);
    let [k, v] = [0, HIDDEN].map(|first| heads(kv.narrow(1, first, HIDDEN).unwrap(), tokens));
    let scores = (q.matmul(&k.t().unwrap().contiguous().unwrap()).unwrap() / (SHAPE.head_size as f64).sqrt()).unwrap();
    let mut probabilities = candle_nn::ops::softmax(&scores, D::Minus1).unwrap();
    if let Some(factors) = factors {
        probabilities = (probabilities * factors).unwrap();
    }
    probabilities.matmul(&v).unwrap().transpose(0, 1).unwrap().contiguous().unwrap().reshape((asking, HIDDEN)).unwrap()
}

#[test]
fn values_and_gradients_are_those_of_the_plain_formula() {
    let keys = oracle::packed(&[&[0, 2, 4], &[], &[3, 6]]);
    let qkv: Vec<f32> = noise(keys.tokens.len() * 3 * HIDDEN, 1).iter().map(|value| value * 3.0).collect();
    for queries in [keys.clone(), keys.first_tokens()] {
        for dropout in [None, Some(oracle::dropout(Site::Attention(1)))] {
            check([&queries, &keys], dropout, &split([&queries, &keys], &qkv));
        }
    }
}

fn check([queries, keys]: [&Batch; 2], dropout: Option<Dropout>, inputs: &[Vec<f32>; 2]) {
    let dcontext = noise(queries.tokens.len() * HIDDEN, 2);
    let [context, dq, dkv] = oracle::with_threads(|| run([queries, keys], dropout, inputs, &dcontext));
    for (sequence, row) in keys.rows.iter().enumerate() {
        let [asking, tokens] = [queries, keys].map(|batch| batch.sequence(sequence));
        let part = |values: &[f32], range: &Range<usize>, width: usize| {
            values[range.start * width..range.end * width].to_vec()
        };
        let count = tokens.len();
        let factors = dropout.map(|dropout| {
            let mask = dropout.row(*row);
            let factor =
                |head: usize| (0..asking.len() * count).map(move |i| mask.factor((head * count * count + i) as u32));
            let factors: Vec<f32> = (0..SHAPE.heads).flat_map(factor).collect();
            oracle::tensor(&factors, &[SHAPE.heads, asking.len(), count])
        });
        let q = oracle::variable(&part(&inputs[0], &asking, HIDDEN), &[asking.len(), HIDDEN]);
        let kv = oracle::variable(&part(&inputs[1], &tokens, 2 * HIDDEN), &[count, 2 * HIDDEN]);
        let y = plain(&q, &kv, factors.as_ref());
        assert_close("context", &part(&context, &asking, HIDDEN), &oracle::flat(&y), 2e-6);
        let dy = oracle::tensor(&part(&dcontext, &asking, HIDDEN), &[asking.len(), HIDDEN]);
        let [expected_dq, expected_dkv] = oracle::gradients(&y, &dy, [&q, &kv]);
        assert_close("dq", &part(&dq, &asking, HIDDEN), &expected_dq, 1e-5);
        assert_close("dkv", &part(&dkv, &tokens, 2 * HIDDEN), &expected_dkv, 1e-5);
    }
}

#[test]
fn queries_keys_and_values_have_the_same_bits_wherever_they_stand() {
    let (pack, shape, dropout) =
        (&oracle::packed(&[&[0, 2, 4], &[3]]), SHAPE, Some(oracle::dropout(Site::Attention(1))));
    let (queries, keys, tokens) = (pack, pack, pack.tokens.len());
    let (qkv, dcontext) = (noise(tokens * 3 * HIDDEN, 1), &noise(tokens * HIDDEN, 2));
    let [expected, dq, dkv] = run([pack; 2], dropout, &split([pack; 2], &qkv), dcontext);
    let (mut context, mut stats) = (vec![f32::NAN; tokens * HIDDEN], vec![0.0; tokens * SHAPE.heads * 2]);
    let mut dqkv = vec![f32::NAN; tokens * 3 * HIDDEN];
    let together = QueryKeyValue::Together(&qkv);
    forward(Attention { queries, keys, shape, dropout, qkv: together, context: &mut context, stats: &mut stats });
    assert!(context == expected);
    let (qkv, context, stats) = (QueryKeyValue::Together((&qkv, &mut dqkv)), &context, &stats);
    backward(AttentionBackward { queries, keys, shape, dropout, qkv, context, stats, dcontext });
    assert!(split([pack; 2], &dqkv) == [dq, dkv]);
}

#[test]
fn a_sequence_has_the_same_bits_in_whatever_company() {
    let dropout = Some(oracle::dropout(Site::Attention(0)));
    let (alone, together) = (oracle::packed(&[&[3]]), oracle::packed(&[&[9], &[3, 1]]));
    let (qkv, dcontext) = (noise(together.tokens.len() * 3 * HIDDEN, 1), noise(together.tokens.len() * HIDDEN, 2));
    let range = together.sequence(1);
    let part = |values: &[f32], width: usize| values[range.start * width..range.end * width].to_vec();
    let [context, dq, dkv] = run([&together; 2], dropout, &split([&together; 2], &qkv), &dcontext);
    let inputs = split([&alone; 2], &part(&qkv, 3 * HIDDEN));
    let one = run([&alone; 2], dropout, &inputs, &part(&dcontext, HIDDEN));
    assert!(one == [part(&context, HIDDEN), part(&dq, HIDDEN), part(&dkv, 2 * HIDDEN)]);
}
