//! Which parameters each rank steps, and remembers something of, where the optimizer's state is sharded.
//!
//! Every segment is cut into as many runs as there are ranks. Each rank is given the sum of its own run's gradient alone
//! (reduce-scatter), moves those parameters by the same sums as ever, and all ranks then take each other's (all-gather): an
//! optimizer moves every element for itself, so the result has the same bits. This is stage 1 of ZeRO (Rajbhandari et al.,
//! 2020). The gradient of the word embedding, of which few rows are touched, is known to all ranks.

use std::ops::Range;

use medley_common::spec::TuningSpec;

use crate::layout::{Layout, Segment, shard};

/// The shard of each rank: runs of the flat buffer, in its order, all of parameters that are trained. Those of dense segments
/// begin at a multiple of `piece` elements within their segment, and of the word embedding no row is cut.
#[must_use]
pub(crate) fn shards(layout: &Layout, tuning: &TuningSpec, world: u32, piece: usize) -> Vec<Vec<Range<usize>>> {
    let width = layout.slots().first().map_or(1, |words| words.shape[1]);
    let of_rank = |rank: u32| {
        let segments = layout.segments().iter().filter(|(segment, _)| segment.is_trained(tuning));
        let runs = segments.map(|(segment, whole)| {
            let piece = if *segment == Segment::Words { width } else { piece };
            let within = shard(whole.len(), rank, world, piece);
            whole.start + within.start..whole.start + within.end
        });
        runs.filter(|run| !run.is_empty()).collect()
    };
    (0..world).map(of_rank).collect()
}

#[cfg(test)]
mod tests {
    use medley_common::model::{Family, ModelConfig};

    use super::*;

    fn layout(vocab_size: u32) -> Layout {
        Layout::new(&ModelConfig {
            family: Family::Bert,
            vocab_size,
            hidden_size: 12,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            intermediate_size: 20,
            max_position_embeddings: 9,
            type_vocab_size: 2,
            layer_norm_eps: 1e-12,
            hidden_dropout: 0.0,
            attention_dropout: 0.0,
            classifier_dropout: 0.0,
            initializer_range: 0.02,
            num_labels: 3,
        })
    }

    #[test]
    fn shards_are_the_trained_parameters_and_cut_no_word_and_no_piece() {
        for (vocabulary, frozen_layers) in [(53, None), (2000, None), (53, Some(1)), (53, Some(2))] {
            let (layout, tuning) = (layout(vocabulary), TuningSpec { frozen_layers, ..TuningSpec::default() });
            for (world, piece) in [(1, 64), (2, 64), (3, 1), (5, 64), (7, 4), (300, 16)] {
                let shards = shards(&layout, &tuning, world, piece);
                assert_eq!(shards.len(), world as usize);
                let mut taken = vec![0; layout.len()];
                shards.iter().flatten().for_each(|run| taken[run.clone()].iter_mut().for_each(|times| *times += 1));
                for (segment, whole) in layout.segments() {
                    let expected = u32::from(segment.is_trained(&tuning));
                    assert!(taken[whole.clone()].iter().all(|times| *times == expected), "{segment:?}");
                    let unit = if *segment == Segment::Words { 12 } else { piece };
                    for run in shards.iter().flatten().filter(|run| whole.contains(&run.start)) {
                        assert!((run.start - whole.start).is_multiple_of(unit) && run.end <= whole.end, "{run:?}");
                        assert!(run.len() < whole.len() / world as usize + 2 * unit, "{run:?} of {whole:?}");
                    }
                }
            }
        }
    }
}
