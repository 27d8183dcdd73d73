//! Which parameters each rank steps, and remembers something of, where the optimizer's state is sharded.
//!
//! The trained parameters are cut into as many runs as there are ranks, of almost equal length. Each rank moves those of
//! its own run alone, by the same sums as ever, and all ranks then take each other's: an optimizer moves every element for
//! itself, so the result has the same bits. This is stage 1 of ZeRO (Rajbhandari et al., 2020).

use std::ops::Range;

use medley_common::spec::TuningSpec;

use crate::layout::{Layout, Segment};

/// Where shards begin, in elements, so that a device moves several at once; a row of the word embedding is never cut.
const ALIGNMENT: usize = 64;

/// The shards of all ranks, in their order: runs of the flat buffer, some of which may be empty.
#[must_use]
pub(crate) fn shards(layout: &Layout, tuning: &TuningSpec, world: u32) -> Vec<Range<usize>> {
    let trained = || layout.segments().iter().filter(|(segment, _)| segment.is_trained(tuning));
    let start = trained().map(|(_, range)| range.start).min().unwrap_or(0);
    let end = trained().map(|(_, range)| range.end).max().unwrap_or(0);
    let (words, width) = (layout.range(Segment::Words), layout.slots().first().map_or(1, |words| words.shape[1]));
    let bound = |rank: u32| {
        let place = start + ((end - start) as u128 * u128::from(rank) / u128::from(world.max(1))) as usize;
        match (rank, words.contains(&place)) {
            (0, _) => start,
            (rank, _) if rank == world => end,
            (_, true) => place - (place - words.start) % width,
            (_, false) => (place - place % ALIGNMENT).max(words.end).max(start),
        }
    };
    (0..world).map(|rank| bound(rank)..bound(rank + 1)).collect()
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
    fn shards_are_the_trained_parameters_and_cut_no_word() {
        for (vocabulary, frozen_layers) in [(53, None), (2000, None), (53, Some(1)), (53, Some(2))] {
            let (layout, tuning) = (layout(vocabulary), TuningSpec { frozen_layers, ..TuningSpec::default() });
            let words = layout.range(Segment::Words).end;
            let first = layout.dense_segments(&tuning).next().unwrap().1.start;
            let start = if frozen_layers.is_none() { 0 } else { first };
            for world in [1, 2, 3, 5, 7, 300] {
                let shards = shards(&layout, &tuning, world);
                assert_eq!((shards.len(), shards[0].start), (world as usize, start));
                assert!(shards.windows(2).all(|pair| pair[0].end == pair[1].start), "{shards:?}");
                assert_eq!(shards[shards.len() - 1].end, layout.len());
                let even = (layout.len() - start).div_ceil(world as usize);
                for shard in shards {
                    assert!(shard.start <= shard.end && shard.len() <= even + ALIGNMENT.max(12), "{shard:?} of {even}");
                    assert!(shard.start >= words || shard.start % 12 == 0);
                }
            }
        }
    }
}
