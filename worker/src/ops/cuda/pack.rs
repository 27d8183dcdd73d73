//! A batch with everything that kernels ask of it, moved to the device in one copy.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

use super::Cuda;
use super::attention::{MATRIX_TILE, TILE};
use super::driver::{Argument, Driver};
use crate::batch::{Batch, LaneSpan};
use crate::ops::DeviceError;
use crate::ops::dropout::Masks;

/// A batch in the device's memory.
#[derive(Debug)]
pub struct Pack<M> {
    batch: Batch,
    /// The key of all dropout, in two numbers, and the parts; there until it is dropped.
    numbers: Option<M>,
    /// Where the numbers of a padded batch go then.
    shelf: Shelf<M>,
    pub(super) key: u64,
    places: [Range<usize>; Part::ALL.len()],
    /// Rows of attention that a block of threads computes.
    pub(super) tiles: usize,
    /// The same by matrix units.
    pub(super) matrix_tiles: usize,
    /// Tokens of the longest sequence.
    pub(super) longest: usize,
    words: Vec<LaneWords>,
}

/// Memory for the numbers of padded batches, by their shape. What was recorded for a batch reads those of the next of its
/// shape where it has read its own, so this memory is never given back: some 50 bytes for a token of each shape.
pub(super) type Shelf<M> = Rc<RefCell<BTreeMap<Shape, Vec<M>>>>;

/// Tokens and sequences of a batch: where all parts lie but those of the words, which come last.
type Shape = [usize; 2];

impl<M> Drop for Pack<M> {
    fn drop(&mut self) {
        if let Some(numbers) = self.numbers.take().filter(|_| self.batch.is_padded) {
            self.shelf.borrow_mut().entry(shape(&self.batch)).or_default().push(numbers);
        }
    }
}

fn shape(batch: &Batch) -> Shape {
    [batch.tokens.len(), batch.rows.len()]
}

/// The words that occur in a lane.
#[derive(Debug)]
pub(super) struct LaneWords {
    lane: u32,
    /// Ascending.
    pub(super) rows: Vec<u32>,
    /// Where the first of them stands among the words of all lanes.
    pub(super) first: usize,
}

/// A part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The place of each token in its sequence, `[T]`.
    Positions,
    /// The sequence of each token, `[T]`.
    Sequences,
    /// The data row of each sequence, `[S]`.
    Rows,
    /// The id of each token, `[T]`.
    Tokens,
    /// The segment of each token, `[T]`.
    Segments,
    /// The first token of each sequence, and the number of tokens, `[S + 1]`.
    Offsets,
    /// The label of each sequence, -1 for none, `[S]`.
    Labels,
    /// The lane that the loss of each sequence is reported of, `[S]`.
    LossLanes,
    /// The first token of each block, and the number of tokens, `[B + 1]`.
    Blocks,
    /// Sequence and first token therein of each run of at most [`TILE`] tokens of a sequence, `[.., 2]`; -1 where a padded
    /// batch has fewer than one of its shape can have.
    Tiles,
    /// The same of at most [`MATRIX_TILE`] tokens.
    MatrixTiles,
    /// For the words of each lane, one lane after another, the first of their tokens in [`Part::WordTokens`], and the
    /// number of these, `[words + 1]`.
    WordStarts,
    /// The tokens of each word, `[T]`.
    WordTokens,
}

impl Part {
    /// In the order in which they lie. What depends on more than a padded batch's shape comes last.
    const ALL: [Self; 13] = [
        Self::Positions,
        Self::Sequences,
        Self::Rows,
        Self::Tokens,
        Self::Segments,
        Self::Offsets,
        Self::Labels,
        Self::LossLanes,
        Self::Blocks,
        Self::Tiles,
        Self::MatrixTiles,
        Self::WordStarts,
        Self::WordTokens,
    ];
}

impl<M> AsRef<Batch> for Pack<M> {
    fn as_ref(&self) -> &Batch {
        &self.batch
    }
}

impl<M> Pack<M> {
    /// The words of a lane.
    pub(super) fn words(&self, lane: &LaneSpan) -> Option<&LaneWords> {
        self.words.iter().find(|words| words.lane == lane.lane)
    }
}

impl<D: Driver> Cuda<D> {
    pub(super) fn pack(&self, batch: Batch, masks: &Masks) -> Result<Pack<D::Memory>, DeviceError> {
        let (words, starts, tokens) = words(&batch);
        let (small, large) = (tiles(&batch, TILE), tiles(&batch, MATRIX_TILE));
        let (tiles, matrix_tiles) = (small.len() / 2, large.len() / 2);
        // Of a padded batch, nothing that launches are made of depends on more than its shape.
        let longest = if batch.is_padded {
            batch.tokens.len()
        } else {
            (0..batch.rows.len()).map(|sequence| batch.sequence(sequence).len()).max().unwrap_or(0)
        };
        let parts = Part::ALL.map(|part| match part {
            Part::Positions => ints(&batch.positions),
            Part::Sequences => ints(&batch.sequences),
            Part::Rows => batch.rows.iter().map(|row| row.0 as i32).collect(),
            Part::Tokens => ints(&batch.tokens),
            Part::Segments => ints(&batch.segments),
            Part::Offsets => batch.offsets.iter().map(|offset| *offset as i32).collect(),
            Part::Labels => batch.labels.iter().map(|label| label.map_or(-1, |label| label as i32)).collect(),
            Part::LossLanes => ints(&batch.loss_lanes),
            Part::Blocks => {
                let starts = batch.blocks.iter().map(|block| block.start as i32);
                starts.chain([batch.tokens.len() as i32]).collect()
            }
            Part::Tiles => small.clone(),
            Part::MatrixTiles => large.clone(),
            Part::WordStarts => starts.clone(),
            Part::WordTokens => tokens.clone(),
        });
        let key = masks.key();
        let mut numbers: Vec<i32> = vec![key as i32, (key >> 32) as i32];
        let places = parts.map(|part| {
            let start = numbers.len();
            numbers.extend(part);
            start..numbers.len()
        });
        let bytes = bytemuck::cast_slice(&numbers);
        let mut memory = if batch.is_padded {
            // There may be as many words as tokens.
            let missing = batch.tokens.len() + 1 - places[Part::WordStarts as usize].len();
            let kept = self.shelf.borrow_mut().get_mut(&shape(&batch)).and_then(Vec::pop);
            kept.map_or_else(|| self.take(bytes.len() + missing * size_of::<i32>()), Ok)?
        } else {
            self.take(bytes.len())?
        };
        self.driver.write(&mut memory, bytes)?;
        let (numbers, shelf) = (Some(memory), Rc::clone(&self.shelf));
        Ok(Pack { batch, numbers, shelf, key, places, tiles, matrix_tiles, longest, words })
    }

    /// Where the key of all dropout lies.
    pub(super) fn key_of(&self, pack: &Pack<D::Memory>) -> u64 {
        pack.numbers.as_ref().map_or(0, |numbers| self.driver.address(numbers))
    }

    /// Where a part of a batch begins.
    pub(super) fn part(&self, pack: &Pack<D::Memory>, part: Part) -> Argument {
        self.part_from(pack, part, 0)
    }

    /// Where the numbers of a part from `index` on begin.
    pub(super) fn part_from(&self, pack: &Pack<D::Memory>, part: Part, index: usize) -> Argument {
        let at = pack.places[part as usize].start + index;
        Argument::Address(self.key_of(pack) + (at * size_of::<i32>()) as u64)
    }
}

fn ints(values: &[u32]) -> Vec<i32> {
    values.iter().map(|value| *value as i32).collect()
}

/// Sequence and first token therein of each run of at most `rows` tokens.
fn tiles(batch: &Batch, rows: usize) -> Vec<i32> {
    let sequences = 0..batch.rows.len();
    let of = |sequence: usize| (0..batch.sequence(sequence).len()).step_by(rows).map(move |first| (sequence, first));
    let mut tiles: Vec<i32> =
        sequences.flat_map(of).flat_map(|(sequence, first)| [sequence as i32, first as i32]).collect();
    if batch.is_padded {
        // Each sequence may leave a tile that has a single token.
        let most = (batch.tokens.len() + (rows - 1) * batch.rows.len()) / rows;
        tiles.resize(2 * most, -1);
    }
    tiles
}

/// The words of each lane; where the tokens of each word start; and the tokens.
fn words(batch: &Batch) -> (Vec<LaneWords>, Vec<i32>, Vec<i32>) {
    let (mut lanes, mut starts, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    for span in &batch.lanes {
        let mut places = BTreeMap::<u32, Vec<i32>>::new();
        for token in span.tokens.clone() {
            places.entry(batch.tokens[token]).or_default().push(token as i32);
        }
        lanes.push(LaneWords { lane: span.lane, rows: places.keys().copied().collect(), first: starts.len() });
        for places in places.into_values() {
            starts.push(tokens.len() as i32);
            tokens.extend(places);
        }
    }
    starts.push(tokens.len() as i32);
    (lanes, starts, tokens)
}
