//! A WordPiece vocabulary learnt from texts, for models that are trained from scratch.
//!
//! The rule is that of the tokenizers crate's `WordPieceTrainer` (byte-pair merges by frequency; Sennrich et al.,
//! 2016). That trainer numbers symbols in the order of a randomly seeded hash map, so that ties, and with them the
//! vocabulary, differ from run to run; here every tie goes to the symbols that were found first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::{Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

use super::TokenizerError;
use super::settings::TokenizerSettings;

/// Most distinct characters, as in Hugging Face's `BertWordPieceTokenizer.train`; rarer ones become `[UNK]`.
const ALPHABET_LIMIT: usize = 1000;
/// A pair of symbols that occurs once teaches nothing and may be a name.
const LEAST_COUNT: u64 = 2;
/// Longer words are `[UNK]` to WordPiece.
const WORD_LIMIT_CHARACTERS: usize = 100;
/// Marks a piece that continues a word.
const CONTINUATION: &str = "##";

/// Learns the lines of a lower-casing `vocab.txt` with at most `size` tokens: special tokens, characters, merged
/// pieces. Equal texts give equal lines, whatever their order.
///
/// # Errors
/// There is no word, or `size` cannot hold even the characters.
pub fn learn_vocabulary<'a>(
    texts: impl IntoIterator<Item = &'a str>,
    size: u32,
) -> Result<Vec<String>, TokenizerError> {
    let words = count_words(texts);
    if words.is_empty() {
        return Err(TokenizerError::NoWords);
    }
    let special = TokenizerSettings::default().special;
    let mut vocabulary: Vec<String> = special.all().map(str::to_owned).into();
    let mut merger = Merger::new(&words);
    vocabulary.extend(merger.symbols.iter().cloned());
    if vocabulary.len() > size as usize {
        return Err(TokenizerError::TooSmall { size, least: vocabulary.len() });
    }
    while vocabulary.len() < size as usize {
        match merger.merge_most_frequent() {
            Some(Merged::New(piece)) => vocabulary.push(piece),
            Some(Merged::Known) => {}
            None => break,
        }
    }
    Ok(vocabulary)
}

/// How often each word occurs, as the tokenizer itself will split the texts.
fn count_words<'a>(texts: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, u64> {
    let normalizer = BertNormalizer::new(true, true, None, true);
    let mut words = BTreeMap::new();
    for text in texts {
        let mut pieces = PreTokenizedString::from(text);
        let split = pieces
            .normalize(|piece| normalizer.normalize(piece))
            .and_then(|()| BertPreTokenizer.pre_tokenize(&mut pieces));
        if split.is_err() {
            continue;
        }
        for (word, ..) in pieces.get_splits(OffsetReferential::Normalized, OffsetType::Byte) {
            if !word.is_empty() && word.chars().nth(WORD_LIMIT_CHARACTERS).is_none() {
                *words.entry(word.to_owned()).or_insert(0) += 1;
            }
        }
    }
    words
}

type Pair = (usize, usize);

/// The words as symbols, and where each pair of neighbours occurs.
struct Merger {
    symbols: Vec<String>,
    ids: BTreeMap<String, usize>,
    words: Vec<(Vec<usize>, u64)>,
    pairs: BTreeMap<Pair, Occurrences>,
    /// The pairs by count, most frequent first, earlier symbols first.
    queue: BTreeSet<(Reverse<u64>, Pair)>,
}

#[derive(Default)]
struct Occurrences {
    count: u64,
    words: BTreeSet<usize>,
}

enum Merged {
    New(String),
    Known,
}

impl Merger {
    fn new(counts: &BTreeMap<String, u64>) -> Self {
        let alphabet = alphabet(counts);
        let kept = || counts.iter().filter(|(word, _)| word.chars().all(|c| alphabet.contains(&c)));
        let inner: BTreeSet<char> = kept().flat_map(|(word, _)| word.chars().skip(1)).collect();
        let symbols: Vec<String> =
            alphabet.iter().map(char::to_string).chain(inner.iter().map(|c| format!("{CONTINUATION}{c}"))).collect();
        let ids: BTreeMap<String, usize> = symbols.iter().cloned().enumerate().map(|(id, text)| (text, id)).collect();
        let spell = |(place, c): (usize, char)| {
            let text = if place == 0 { c.to_string() } else { format!("{CONTINUATION}{c}") };
            ids.get(&text).copied()
        };
        let words: Vec<(Vec<usize>, u64)> =
            kept().map(|(word, count)| (word.chars().enumerate().filter_map(spell).collect(), *count)).collect();
        let mut merger = Self { symbols, ids, words, pairs: BTreeMap::new(), queue: BTreeSet::new() };
        (0..merger.words.len()).for_each(|word| merger.enter(word));
        merger
    }

    /// Makes the most frequent pair one symbol, everywhere.
    fn merge_most_frequent(&mut self) -> Option<Merged> {
        let (Reverse(count), pair) = self.queue.first().copied()?;
        if count < LEAST_COUNT {
            return None;
        }
        let right = &self.symbols[pair.1];
        let text = format!("{}{}", self.symbols[pair.0], right.strip_prefix(CONTINUATION).unwrap_or(right));
        let known = self.ids.get(&text).copied();
        let id = known.unwrap_or(self.symbols.len());
        if known.is_none() {
            self.symbols.push(text.clone());
            self.ids.insert(text.clone(), id);
        }
        let places = self.pairs.get(&pair).map(|occurrences| occurrences.words.clone()).unwrap_or_default();
        for word in places {
            self.leave(word);
            self.words[word].0 = merged(&self.words[word].0, pair, id);
            self.enter(word);
        }
        Some(if known.is_some() { Merged::Known } else { Merged::New(text) })
    }

    /// Counts the pairs of a word.
    fn enter(&mut self, word: usize) {
        let (symbols, count) = &self.words[word];
        for pair in symbols.windows(2).map(|two| (two[0], two[1])) {
            let occurrences = self.pairs.entry(pair).or_default();
            self.queue.remove(&(Reverse(occurrences.count), pair));
            occurrences.count += count;
            occurrences.words.insert(word);
            self.queue.insert((Reverse(occurrences.count), pair));
        }
    }

    /// Takes the pairs of a word out of the counts.
    fn leave(&mut self, word: usize) {
        let (symbols, count) = &self.words[word];
        for pair in symbols.windows(2).map(|two| (two[0], two[1])) {
            let Some(occurrences) = self.pairs.get_mut(&pair) else { continue };
            self.queue.remove(&(Reverse(occurrences.count), pair));
            occurrences.count = occurrences.count.saturating_sub(*count);
            occurrences.words.remove(&word);
            if occurrences.count == 0 {
                self.pairs.remove(&pair);
            } else {
                self.queue.insert((Reverse(occurrences.count), pair));
            }
        }
    }
}

/// The most frequent characters, ties in code point order.
fn alphabet(counts: &BTreeMap<String, u64>) -> BTreeSet<char> {
    let mut characters: BTreeMap<char, u64> = BTreeMap::new();
    for (word, count) in counts {
        word.chars().for_each(|c| *characters.entry(c).or_default() += count);
    }
    let mut by_count: Vec<(Reverse<u64>, char)> = characters.into_iter().map(|(c, n)| (Reverse(n), c)).collect();
    by_count.sort_unstable();
    by_count.into_iter().take(ALPHABET_LIMIT).map(|(_, c)| c).collect()
}

/// `symbols` with every `pair`, found from the left, replaced by `id`.
fn merged(symbols: &[usize], pair: Pair, id: usize) -> Vec<usize> {
    let mut out = Vec::with_capacity(symbols.len());
    let mut rest = symbols;
    while let [first, tail @ ..] = rest {
        let joins = *first == pair.0 && tail.first() == Some(&pair.1);
        out.push(if joins { id } else { *first });
        rest = if joins { &tail[1..] } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::PairTokenizer;

    const TEXTS: [&str; 4] = [
        "The patient denies chest pain.",
        "Chest pain, chest X-ray.",
        "the Pátient is in pain",
        "hug hugs pug hugging",
    ];

    #[test]
    fn frequent_words_become_tokens() {
        let lines = learn_vocabulary(TEXTS, 80).unwrap();
        assert_eq!(lines[..5], ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]);
        for word in ["chest", "pain", "patient", "the", "hug"] {
            assert!(lines.contains(&word.to_owned()), "{word} in {lines:?}");
        }
        assert!(lines.len() <= 80 && !lines.contains(&"hugging".to_owned()), "a word seen once is not learnt");
        assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), lines.len());
        let tokenizer = PairTokenizer::from_word_pieces(&lines, TokenizerSettings::default()).unwrap();
        let unk = tokenizer.special_ids().unk;
        let ids = tokenizer.pieces("Chest pain denies", 1).unwrap();
        assert!(!ids.contains(&unk) && ids.len() > 3);
        assert_eq!(tokenizer.pieces("日", 1).unwrap(), [unk]);
    }

    #[test]
    fn order_of_texts_does_not_matter() {
        let mut turned = TEXTS;
        turned.reverse();
        assert_eq!(learn_vocabulary(TEXTS, 60).unwrap(), learn_vocabulary(turned, 60).unwrap());
    }

    /// Written down from another process: the ties (all of count 2) fall the same way in every one.
    #[test]
    fn ties_do_not_depend_on_the_process() {
        let lines = learn_vocabulary(TEXTS, 64).unwrap();
        assert_eq!(lines[lines.len() - 3..], ["##tien", "patien", "patient"]);
    }

    #[test]
    fn impossible_sizes_are_named() {
        let error = learn_vocabulary(TEXTS, 20).unwrap_err();
        assert!(matches!(error, TokenizerError::TooSmall { size: 20, .. }), "{error}");
        assert!(matches!(learn_vocabulary(["", " \n"], 100), Err(TokenizerError::NoWords)));
        assert!(matches!(learn_vocabulary([], 100), Err(TokenizerError::NoWords)));
    }
}
