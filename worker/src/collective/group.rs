//! What all ranks of a group know alike: who they are, who has which lanes, and who adds what.

use std::collections::BTreeMap;
use std::ops::Range;

use medley_common::identity::{Generation, Rank};
use medley_common::lane::{LaneTree, Node};
use medley_common::message::Form;
use medley_common::spec::Summation;

use super::{CollectiveError, TcpSettings};
use crate::layout::{Layout, Segment, shard};

/// More ranks than any tree of lanes can use well; bounds what a wrong `Form` can cost.
const MOST_RANKS: usize = 1024;

/// A frame of a dense segment has at most 64 MB.
const MOST_CHUNK_ELEMENTS: usize = 1 << 24;

/// Elements of a segment, and how they are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub length: usize,
    /// Where each rank is given its own share of the sum alone: the multiples that the segment is cut at.
    pub piece: Option<usize>,
}

impl Extent {
    /// That of a segment whose sum is given to all ranks.
    pub(super) fn whole(length: usize) -> Self {
        Self { length, piece: None }
    }
}

/// The facts of a group.
#[derive(Debug)]
pub(super) struct Group {
    pub generation: Generation,
    /// This worker's rank.
    pub rank: usize,
    pub addresses: Vec<String>,
    pub tree: LaneTree,
    /// The nodes that each rank hands over, in lane order; a rank without lanes has none.
    pub covers: Vec<Vec<Node>>,
    /// Elements of each dense segment.
    pub lengths: BTreeMap<Segment, usize>,
    /// Rows of the word embedding.
    pub vocabulary: usize,
    /// Elements of a row.
    pub hidden: usize,
    /// Elements of a frame of a dense segment.
    pub chunk_elements: usize,
}

impl Group {
    pub(super) fn new(form: &Form, layout: &Layout, settings: TcpSettings) -> Result<Self, CollectiveError> {
        let TcpSettings { chunk_elements, summation, .. } = settings;
        let world = form.peers.len();
        let rank = form.rank.0 as usize;
        let invalid = |problem: String| Err(CollectiveError::Invalid { problem });
        if rank >= world || form.lanes.len() != world || world > MOST_RANKS {
            let lanes = form.lanes.len();
            return invalid(format!("rank {rank} cannot be in a group of {world} ranks with lanes for {lanes}"));
        }
        if !(1..=MOST_CHUNK_ELEMENTS).contains(&chunk_elements) {
            return invalid(format!("chunk_elements is {chunk_elements}; expected 1 to {MOST_CHUNK_ELEMENTS}"));
        }
        let mut runs: Vec<&Range<u32>> = form.lanes.iter().flatten().collect();
        runs.sort_unstable_by_key(|run| (run.start, run.end));
        let mut end = 0;
        for run in runs {
            if run.start != end || run.end <= run.start {
                return invalid(format!("lanes {run:?} do not follow on lane {end}"));
            }
            end = run.end;
        }
        let (Some(words), Some(segments)) = (layout.slots().first(), layout.segments().get(1..)) else {
            return invalid("the layout is empty".to_owned());
        };
        let (tree, covers) = match summation {
            Summation::ByLane => {
                let tree = LaneTree::new(end);
                (tree, form.lanes.iter().map(|lanes| cover(tree, lanes)).collect())
            }
            // A worker is a leaf.
            Summation::ByWorker => {
                (LaneTree::new(number(world).0), (0..world).map(|rank| vec![leaf(number(rank))]).collect())
            }
        };
        let lengths = segments.iter().map(|(segment, range)| (*segment, range.len()));
        Ok(Self {
            generation: form.generation,
            rank,
            addresses: form.peers.clone(),
            tree,
            covers,
            lengths: lengths.chain([(Segment::Losses, end as usize)]).collect(),
            vocabulary: words.shape.first().copied().unwrap_or(0),
            hidden: words.shape.get(1).copied().unwrap_or(0),
            chunk_elements,
        })
    }

    pub(super) fn world(&self) -> usize {
        self.addresses.len()
    }

    /// The nodes that this rank hands over.
    pub(super) fn cover(&self) -> &[Node] {
        &self.covers[self.rank]
    }

    /// The ranks other than this one.
    pub(super) fn peers(&self) -> impl Iterator<Item = usize> + use<> {
        let rank = self.rank;
        (0..self.world()).filter(move |peer| *peer != rank)
    }

    /// The elements that `rank` adds up.
    pub(super) fn share(&self, extent: Extent, rank: usize) -> Range<usize> {
        shard(extent.length, number(rank).0, number(self.world()).0, extent.piece.unwrap_or(1))
    }

    pub(super) fn connection(&self, peer: usize, doing: &'static str, source: std::io::Error) -> CollectiveError {
        CollectiveError::Connection { peer: number(peer), address: self.address(peer), doing, source }
    }

    pub(super) fn protocol(&self, peer: usize, problem: String) -> CollectiveError {
        CollectiveError::Protocol { peer: number(peer), address: self.address(peer), problem }
    }

    /// Whether a peer is reached at this rank's own address: on this machine, unless something lies before it.
    pub(super) fn is_beside(&self, peer: usize) -> bool {
        let host = |rank: usize| self.addresses.get(rank).and_then(|address| address.rsplit_once(':'));
        matches!((host(peer), host(self.rank)), (Some((theirs, _)), Some((own, _))) if theirs == own)
    }

    fn address(&self, peer: usize) -> String {
        self.addresses.get(peer).cloned().unwrap_or_default()
    }
}

/// The nodes that a rank with these runs of lanes hands over, in lane order.
pub(crate) fn cover(tree: LaneTree, lanes: &[Range<u32>]) -> Vec<Node> {
    lanes.iter().flat_map(|run| tree.cover(run.clone())).collect()
}

/// The node of all that a rank hands over, where ranks sum their lanes at once.
pub(crate) fn leaf(rank: Rank) -> Node {
    Node { level: 0, index: rank.0 }
}

/// A rank's number as messages carry it.
pub(super) fn number(rank: usize) -> Rank {
    Rank(u32::try_from(rank).unwrap_or(u32::MAX))
}

/// A range in chunks of equal length, the last one possibly short.
#[derive(Debug, Clone)]
pub(super) struct Chunks {
    range: Range<usize>,
    elements: usize,
}

impl Chunks {
    pub(super) fn new(range: Range<usize>, elements: usize) -> Self {
        Self { range, elements }
    }

    pub(super) fn count(&self) -> usize {
        self.range.len().div_ceil(self.elements)
    }

    pub(super) fn get(&self, chunk: usize) -> Range<usize> {
        let start = self.range.start + chunk * self.elements;
        start..(start + self.elements).min(self.range.end)
    }
}
