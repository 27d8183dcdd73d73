//! Rows to token ids, as Hugging Face's `tokenizer(sentences1, sentences2, truncation=True, max_length=M)`, or
//! `tokenizer(sentences, …)` where a row is one sentence.
//!
//! That is the call on lists, as `run_glue` makes it: an empty second sentence still gets its `[SEP]`, which the call
//! on single strings leaves out.

use std::num::NonZeroUsize;
use std::thread;

use medley_common::example::Example;

use super::rows::{Row, Text};
use super::sequence_limit::SequenceLimit;
use crate::tokenizer::{PairTokenizer, TokenizerError};

/// The rows of a split as token ids.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoded {
    /// One example a row, in row order.
    pub examples: Vec<Example>,
    /// Rows that lost tokens to the limit.
    pub truncated: u64,
}

/// Encodes all rows on all cores; the result does not depend on their number. Blocks.
///
/// # Errors
/// The tokenizer fails on a row, which a checked one never does.
pub fn encode_rows(tokenizer: &PairTokenizer, rows: &[Row], limit: SequenceLimit) -> Result<Encoded, TokenizerError> {
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let chunks: Vec<&[Row]> = rows.chunks(rows.len().div_ceil(threads).max(1)).collect();
    let mut parts: Vec<Result<Encoded, TokenizerError>> = chunks.iter().map(|_| Ok(Encoded::default())).collect();
    thread::scope(|scope| {
        for (part, chunk) in parts.iter_mut().zip(chunks) {
            scope.spawn(move || *part = encode_chunk(tokenizer, chunk, limit));
        }
    });
    parts.into_iter().try_fold(Encoded::default(), |mut all, part| {
        let part = part?;
        all.examples.extend(part.examples);
        all.truncated += part.truncated;
        Ok(all)
    })
}

fn encode_chunk(tokenizer: &PairTokenizer, rows: &[Row], limit: SequenceLimit) -> Result<Encoded, TokenizerError> {
    let mut encoded = Encoded { examples: Vec::with_capacity(rows.len()), truncated: 0 };
    let (vocabulary, limit) = (tokenizer.vocabulary(), limit.tokens() as usize);
    for row in rows {
        let (first, second) = match &row.text {
            Text::Single(only) => (tokenizer.pieces(only, row.line)?, None),
            Text::Pair(first, second) => {
                (tokenizer.pieces(first, row.line)?, Some(tokenizer.pieces(second, row.line)?))
            }
        };
        let room = limit - vocabulary.special_tokens(second.is_some()) as usize;
        let (kept_first, kept_second) = match &second {
            None => (first.len().min(room), 0),
            Some(second) => longest_first(first.len(), second.len(), room),
        };
        let cut_second = second.as_ref().is_some_and(|second| kept_second < second.len());
        encoded.truncated += u64::from(kept_first < first.len() || cut_second);
        let second = second.as_ref().map(|second| &second[..kept_second]);
        let (tokens, first_segment) = vocabulary.frame(tokenizer.special_ids(), &first[..kept_first], second);
        encoded.examples.push(Example { tokens, first_segment, label: row.label });
    }
    Ok(encoded)
}

/// How many tokens of each sentence stay: the rule `longest_first` of the tokenizers crate's `truncate_encodings`.
///
/// The shorter sentence stays whole while it takes at most half the room; else both get half, and an odd token goes
/// to the longer one (to the second of two equally long ones).
fn longest_first(first: usize, second: usize, room: usize) -> (usize, usize) {
    if first + second <= room {
        return (first, second);
    }
    let shorter = first.min(second);
    let (short, long) = if shorter <= room / 2 { (shorter, room - shorter) } else { (room / 2, room - room / 2) };
    if first > second { (long, short) } else { (short, long) }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;
    use tokenizers::utils::truncation::{TruncationParams, truncate_encodings};
    use tokenizers::{Encoding, Token};

    use super::*;
    use crate::dataset::labels::LabelSet;
    use crate::dataset::layout::RowLayout;
    use crate::dataset::rows::{Labels, read_rows};
    use crate::tokenizer::Vocabulary;

    fn tokenizer() -> PairTokenizer {
        PairTokenizer::load(&fixture().join("model"), Vocabulary::WordPiece, None).unwrap()
    }

    fn fixture() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/tiny-bert")
    }

    fn encoding(tokens: usize) -> Encoding {
        let token = |id| Token::new(id as u32, String::new(), (0, 0));
        Encoding::from_tokens((0..tokens).map(token).collect(), 0)
    }

    #[test]
    fn order_does_not_depend_on_threads() {
        let tokenizer = tokenizer();
        let file = fixture().join("rows.jsonl");
        let read = read_rows(&file, &RowLayout::default(), &LabelSet::default(), Labels::Required).unwrap();
        let limit = SequenceLimit::new(48, &tokenizer, 128).unwrap();
        let all = encode_rows(&tokenizer, &read.rows, limit).unwrap();
        let alone = encode_chunk(&tokenizer, &read.rows, limit).unwrap();
        assert_eq!(all, alone);
        assert_eq!(all.examples.len(), read.rows.len());
        assert!(all.truncated > 0 && all.truncated < read.rows.len() as u64);
        assert!(all.examples.iter().zip(&read.rows).all(|(example, row)| example.label == row.label));
        assert_eq!(encode_rows(&tokenizer, &[], limit).unwrap(), Encoded::default());
    }

    #[test]
    fn empty_sentences_keep_their_frame() {
        let tokenizer = tokenizer();
        let limit = SequenceLimit::new(5, &tokenizer, 128).unwrap();
        let row = |text| Row { line: 1, text, label: Some(2), pair_id: None };
        let pair = |first: &str, second: &str| row(Text::Pair(first.into(), second.into()));
        let single = |only: &str| row(Text::Single(only.into()));
        let rows = [pair("", ""), pair("(((", ""), single(""), single("((((")];
        let encoded = encode_rows(&tokenizer, &rows, limit).unwrap();
        let example = |tokens: &[u32], first_segment| Example { tokens: tokens.into(), first_segment, label: Some(2) };
        assert_eq!(encoded.examples[..2], [example(&[2, 3, 3], 2), example(&[2, 9, 9, 3, 3], 4)]);
        assert_eq!(encoded.examples[2..], [example(&[2, 3], 2), example(&[2, 9, 9, 9, 3], 5)], "all of segment 0");
        assert_eq!(encoded.truncated, 2);
    }

    #[test]
    fn the_limit_is_the_least_of_three() {
        let tokenizer = tokenizer();
        let tokens = |asked, positions| SequenceLimit::new(asked, &tokenizer, positions).map(SequenceLimit::tokens);
        assert_eq!(tokens(512, 512), Ok(128), "tokenizer_config.json says 128");
        assert_eq!(tokens(512, 64), Ok(64));
        assert_eq!(tokens(32, 64), Ok(32));
        assert_eq!(tokens(4, 64).unwrap_err().to_string(), "max_seq_length is 4; expected at least 5");
    }

    proptest! {
        #[test]
        fn truncation_is_that_of_the_tokenizers_crate(first in 0usize..60, second in 0usize..60, room in 2usize..60) {
            let params = TruncationParams { max_length: room, ..TruncationParams::default() };
            let (one, two) = truncate_encodings(encoding(first), Some(encoding(second)), &params).unwrap();
            prop_assert_eq!(longest_first(first, second, room), (one.len(), two.unwrap().len()));
        }
    }
}
