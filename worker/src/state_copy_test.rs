use medley_common::identity::{Generation, Update};
use medley_common::model::{Family, ModelConfig};
use medley_common::save::Piece;

use super::*;

fn copy() -> StateCopy {
    let config = ModelConfig {
        family: Family::Bert,
        vocab_size: 7,
        hidden_size: 4,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 6,
        max_position_embeddings: 5,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout: 0.0,
        attention_dropout: 0.0,
        classifier_dropout: 0.0,
        initializer_range: 0.02,
        num_labels: 3,
    };
    let layout = Layout::new(&config);
    let values = |scale: f32| (0..layout.len()).map(|place| (place as f32 * scale).sin()).collect::<Vec<_>>();
    StateCopy {
        save: SaveId { update: Update(9), generation: Generation(2) },
        parameters: values(1.0),
        kind: OptimizerKind::AdamwTorch,
        memory: vec![values(0.5), values(0.25)],
        loss_scale: None,
        digest: OnceLock::new(),
        layout,
    }
}

/// Whatever the number of ranks, what they send is one rank's file.
#[test]
fn the_pieces_of_all_ranks_are_the_file() {
    let copy = copy();
    for kind in [ArtifactKind::Weights, ArtifactKind::Optimizer] {
        let file = copy.file(kind).unwrap();
        let whole = file.to_vec();
        for count in [1, 2, 3, 7] {
            let mut sent = Vec::new();
            for index in 0..count {
                let range = Piece { index, count }.range(file.len() as u64);
                let (mut place, end) = (range.start as usize, range.end as usize);
                while place < end {
                    let chunk = file.read(place..(place + 13).min(end));
                    place += chunk.len();
                    sent.extend(chunk);
                }
            }
            assert!(sent == whole, "{count} pieces of {kind:?}");
        }
        assert_eq!(file.read(whole.len() - 1..whole.len() + 9), whole[whole.len() - 1..]);
    }
}

#[test]
fn what_was_not_copied_cannot_be_sent() {
    let copy = StateCopy { memory: Vec::new(), ..copy() };
    assert!(copy.file(ArtifactKind::Weights).is_ok());
    assert!(matches!(copy.file(ArtifactKind::Optimizer), Err(WeightsError::Length { .. })));
    assert_eq!(copy.digest(), weights::digest(&copy.parameters));
}
