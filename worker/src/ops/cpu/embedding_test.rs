use super::*;
use crate::ops::cpu::oracle;
use crate::ops::cpu::oracle::{assert_close, noise};
use crate::ops::dropout::Site;
use crate::ops::norm::Norm;
use crate::ops::{Slice, SliceMut};

const WIDTH: usize = 20;
const WORDS: usize = 13;
const POSITIONS: usize = 70;
const TYPES: usize = 2;

/// The sums of `rows` of a sparse gradient as a whole matrix.
fn dense(sparse: &SparseRows) -> Vec<f32> {
    let mut whole = vec![0.0; WORDS * WIDTH];
    for (row, values) in sparse.rows.iter().zip(sparse.values.chunks_exact(WIDTH)) {
        whole[*row as usize * WIDTH..][..WIDTH].copy_from_slice(values);
    }
    whole
}

#[test]
fn values_and_gradients_are_those_of_the_plain_formula() {
    let batch = oracle::packed(&[&[0, 5, 3]]);
    let (tokens, lane) = (batch.tokens.len(), &batch.lanes[0]);
    let (words, positions, types) = (noise(WORDS * WIDTH, 1), noise(POSITIONS * WIDTH, 2), noise(TYPES * WIDTH, 3));
    let (gamma, beta, dy) = (noise(WIDTH, 4), noise(WIDTH, 5), noise(tokens * WIDTH, 6));
    let whole = |buffer| Slice::<Vec<f32>> { buffer, range: 0..buffer.len() };
    for dropout in [None, Some(oracle::dropout(Site::Embedding))] {
        let (mut z, mut y, mut stats) = (vec![0.0; tokens * WIDTH], vec![0.0; tokens * WIDTH], vec![0.0; tokens * 2]);
        forward(Embedding {
            pack: &batch,
            dropout,
            words: whole(&words),
            positions: whole(&positions),
            types: whole(&types),
            norm: Norm { gamma: whole(&gamma), beta: whole(&beta), epsilon: 1e-12 },
            z: &mut z,
            stats: &mut stats,
            y: &mut y,
        });
        let mut dz = vec![f32::NAN; tokens * WIDTH];
        let width = (TYPES + 2) * WIDTH;
        let mut partials = vec![f32::NAN; batch.blocks.len() * width];
        backward(EmbeddingBackward {
            pack: &batch,
            dropout,
            dy: &dy,
            z: &z,
            stats: &stats,
            gamma: whole(&gamma),
            types: TYPES,
            dz: &mut dz,
            partials: &mut partials,
        });
        let mut dpositions = vec![f32::NAN; POSITIONS * WIDTH];
        let slice = SliceMut { range: 0..dpositions.len(), buffer: &mut dpositions };
        position_gradient(PositionGradient { pack: &batch, lane, hidden: WIDTH, dz: &dz, dpositions: slice });
        let dwords = word_gradient(WordGradient { pack: &batch, lane, hidden: WIDTH, dz: &dz });
        assert!(dwords.rows.is_sorted_by(|left, right| left < right));

        let tables = [(&words, WORDS), (&positions, POSITIONS), (&types, TYPES)];
        let [w, p, t] = tables.map(|(table, rows)| oracle::variable(table, &[rows, WIDTH]));
        let [g, b] = [&gamma, &beta].map(|values| oracle::variable(values, &[WIDTH]));
        let rows = |table: &candle_core::Var, ids: &[u32]| {
            let ids = candle_core::Tensor::new(ids, &candle_core::Device::Cpu).unwrap();
            table.index_select(&ids, 0).unwrap()
        };
        let sum = (rows(&w, &batch.tokens) + rows(&p, &batch.positions)).unwrap();
        let sum = (sum + rows(&t, &batch.segments)).unwrap();
        let factors =
            dropout.map_or(vec![1.0; tokens * WIDTH], |dropout| oracle::token_factors(&batch, dropout, WIDTH));
        let expected = (oracle::layer_norm(&sum, &g, &b, 1e-12) * oracle::tensor(&factors, &[tokens, WIDTH])).unwrap();
        assert_close("y", &y, &oracle::flat(&expected), 2e-6);
        let [dw, dp, dt, dg, db] =
            oracle::gradients(&expected, &oracle::tensor(&dy, &[tokens, WIDTH]), [&w, &p, &t, &g, &b]);
        assert_close("words", &dense(&dwords), &dw, 1e-5);
        assert_close("positions", &dpositions, &dp, 1e-5);
        let sums = oracle::sum_blocks(&partials, batch.blocks.len(), width);
        assert_close("types, gamma, beta", &sums, &[dt, dg, db].concat(), 1e-5);
    }
}

#[test]
fn gradients_of_a_lane_take_only_its_tokens() {
    let batch = oracle::packed(&[&[0], &[4, 2], &[5]]);
    let dz = vec![1.0; batch.tokens.len()];
    let lane = &batch.lanes[1];
    let dwords = word_gradient(WordGradient { pack: &batch, lane, hidden: 1, dz: &dz });
    // Row 4 has the tokens 12 and 0, row 2 the token 6.
    assert_eq!(dwords, SparseRows { rows: vec![0, 6, 12], values: vec![1.0, 1.0, 1.0] });
    let mut dpositions = vec![f32::NAN; 4];
    let slice = SliceMut { buffer: &mut dpositions, range: 0..4 };
    position_gradient(PositionGradient { pack: &batch, lane, hidden: 1, dz: &dz, dpositions: slice });
    assert_eq!(dpositions, [2.0, 1.0, 0.0, 0.0]);
}
