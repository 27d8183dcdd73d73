//! Batches of a number of tokens that others have too.

use super::{Batch, LaneSpan};

/// Tokens of padded batches are a multiple of this.
const BUCKET_TOKENS: usize = 32;
/// Tokens that a device computes in less time than the host needs to ask for it: where there are more, nothing is gained.
const MOST_TOKENS: usize = 2048;

impl Batch {
    /// The rows of a lane, and one sequence more, of 1 to `BUCKET_TOKENS` tokens, which fills them up to a multiple of that:
    /// so that many batches have one shape, that of a lane depends on its own rows alone, and whatever is computed for
    /// tokens is what it is without it.
    ///
    /// It is made of tokens that the first sequence has, so there is nothing that the model could not compute. It has no
    /// label, and no lane reports its loss: all of its gradients are 0 where its activations are finite, and what is summed
    /// over tokens has 0 more of them.
    /// A batch that has no rows, more tokens than are worth it, or not one lane, stays as it is.
    #[must_use]
    pub fn padded(mut self) -> Self {
        let ([LaneSpan { lane, .. }], Some(row)) = (&self.lanes[..], self.rows.first()) else { return self };
        let (lane, row, sequences, tokens) = (*lane, *row, self.rows.len(), self.tokens.len());
        let end = (tokens + 1).next_multiple_of(BUCKET_TOKENS);
        if end > MOST_TOKENS {
            return self;
        }
        for token in (0..self.offsets[1]).cycle().take(end - tokens) {
            self.tokens.push(self.tokens[token]);
            self.positions.push(self.positions[token]);
            self.segments.push(self.segments[token]);
            self.sequences.push(sequences as u32);
        }
        self.rows.push(row);
        self.labels.push(None);
        self.loss_lanes.push(u32::MAX);
        self.offsets.push(end);
        self.lanes.clear();
        self.blocks.clear();
        self.push_lane(lane, 0..sequences + 1, 0..end);
        Self { is_padded: true, ..self }
    }
}

#[cfg(test)]
mod tests {
    use medley_common::identity::RowId;

    use super::*;

    /// Sequences of these lengths, in one lane.
    fn batch(lengths: &[usize]) -> Batch {
        let mut batch = Batch { offsets: vec![0], ..Batch::default() };
        for (sequence, length) in (0..).zip(lengths) {
            batch.tokens.extend((0..*length as u32).map(|place| 7 + place));
            batch.positions.extend(0..*length as u32);
            batch.segments.extend(vec![0; *length]);
            batch.sequences.extend(vec![sequence; *length]);
            batch.rows.push(RowId(sequence));
            batch.labels.push(Some(1));
            batch.loss_lanes.push(3);
            batch.offsets.push(batch.tokens.len());
        }
        let (sequences, tokens) = (batch.rows.len(), batch.tokens.len());
        batch.push_lane(3, 0..sequences, 0..tokens);
        batch
    }

    #[test]
    fn a_sequence_fills_up_the_tokens() {
        for (lengths, expected) in [(vec![5, 3], 32), (vec![31], 32), (vec![2, 30], 64), (vec![40, 24], 96)] {
            let (plain, padded) = (batch(&lengths), batch(&lengths).padded());
            let tokens = plain.tokens.len();
            assert_eq!((padded.tokens.len(), padded.is_padded), (expected, true));
            assert_eq!((padded.rows.len(), padded.blocks.len()), (lengths.len() + 1, expected / BUCKET_TOKENS));
            assert_eq!(
                (&padded.tokens[..tokens], &padded.offsets[..=lengths.len()]),
                (&plain.tokens[..], &plain.offsets[..])
            );
            assert_eq!(padded.sequence(lengths.len()), tokens..expected);
            assert!(
                padded.tokens[tokens..].iter().zip(&padded.positions[tokens..]).all(|(word, place)| *word == 7 + place)
            );
            assert_eq!((padded.labels.last(), padded.loss_lanes.last()), (Some(&None), Some(&u32::MAX)));
            assert_eq!((padded.lanes[0].lane, padded.lanes[0].tokens.clone()), (3, 0..expected));
            assert!(padded.first_tokens().is_padded);
        }
        assert_eq!(Batch::default().padded(), Batch::default());
        assert_eq!(batch(&[1000, 1048]).padded(), batch(&[1000, 1048]));
    }
}
