//! The sum of the word embedding's rows.
//!
//! As for a dense segment, each rank adds up a share, here a range of row numbers; a node's rows there are one frame.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use medley_common::lane::Node;

use super::exchange::{Admission, Exchange, Next};
use super::frame::{Header, Kind};
use super::group::{Extent, Group};
use super::pool::Pool;
use super::tree_sum::{RowsView, sum_rows};
use super::{CollectiveError, Parts, SparseRows, Summed};
use crate::layout::Segment;

pub(super) struct Words {
    group: Arc<Group>,
    sequence: u64,
    /// Elements of a row: those of the embedding, or none where rows alone are told.
    width: usize,
    /// This rank's rows by node of its cover; `None` where the node's lanes are empty.
    own: Vec<Option<SparseRows>>,
    progress: Vec<Progress>,
    /// What has arrived of this rank's share.
    parts: BTreeMap<Node, SparseRows>,
    /// The sum of each rank's share, this rank's own included.
    sums: Vec<Option<SparseRows>>,
}

/// How far the exchange with one peer is.
#[derive(Debug, Default)]
struct Progress {
    parts_sent: usize,
    sum_sent: bool,
    parts_received: usize,
    /// The rows that are being received.
    incoming: SparseRows,
}

impl Words {
    /// A sum of this rank's `nodes`, whose rows have `width` elements.
    pub(super) fn new(
        group: Arc<Group>,
        sequence: u64,
        (nodes, width): (Vec<(Node, SparseRows)>, usize),
    ) -> Result<Self, CollectiveError> {
        let mut own: Vec<Option<SparseRows>> = group.cover().iter().map(|_| None).collect();
        for (node, rows) in nodes {
            let place = group.cover().iter().position(|known| *known == node).and_then(|place| own.get_mut(place));
            let Some(place @ None) = place else {
                let problem = format!("{node:?} of the words is not one of this rank's nodes, or is there twice");
                return Err(CollectiveError::Invalid { problem });
            };
            check(&rows, &(0..group.vocabulary), width).map_err(|problem| CollectiveError::Invalid { problem })?;
            *place = Some(rows);
        }
        let progress = group.addresses.iter().map(|_| Progress::default()).collect();
        let sums = group.addresses.iter().map(|_| None).collect();
        let mut words = Self { group, sequence, width, own, progress, parts: BTreeMap::new(), sums };
        words.add_up();
        Ok(words)
    }

    fn share(&self, owner: usize) -> Range<usize> {
        self.group.share(Extent::whole(self.group.vocabulary), owner)
    }

    /// Rows of this rank's node at `place` of its cover that `owner` adds up.
    fn rows(&self, place: usize, owner: usize) -> Option<RowsView<'_>> {
        let rows = self.own.get(place)?.as_ref()?;
        Some(RowsView::whole(rows).within(&self.share(owner), self.width))
    }

    fn header(&self, kind: Kind, node: Node, rows: Option<RowsView<'_>>) -> Header {
        Header {
            kind,
            present: rows.is_some(),
            generation: self.group.generation,
            sequence: self.sequence,
            segment: Segment::Words,
            node,
            offset: 0,
            count: rows.map_or(0, |rows| u32::try_from(rows.rows.len()).unwrap_or(u32::MAX)),
        }
    }

    /// Adds up this rank's share once all parts of it have arrived.
    fn add_up(&mut self) {
        let rank = self.group.rank;
        if self.group.peers().any(|peer| self.expects(peer, Kind::Part)) {
            return;
        }
        let theirs = self.parts.iter().map(|(node, rows)| (*node, RowsView::whole(rows)));
        let ours = self.group.cover().iter().enumerate();
        let ours = ours.filter_map(|(place, node)| Some((*node, self.rows(place, rank)?)));
        let sum = sum_rows(self.group.tree, &theirs.chain(ours).collect(), self.width);
        self.sums[rank] = Some(sum);
    }
}

impl Exchange for Words {
    fn next(&self, peer: usize, kind: Kind) -> Next {
        let progress = &self.progress[peer];
        match kind {
            Kind::Part => match self.group.cover().get(progress.parts_sent) {
                None => Next::Done,
                Some(node) => Next::Frame(self.header(kind, *node, self.rows(progress.parts_sent, peer))),
            },
            Kind::Sum if progress.sum_sent => Next::Done,
            Kind::Sum => match &self.sums[self.group.rank] {
                None => Next::NotYet,
                Some(sum) => Next::Frame(self.header(kind, self.group.tree.root(), Some(RowsView::whole(sum)))),
            },
        }
    }

    fn payload(&self, peer: usize, header: &Header) -> [&[u8]; 2] {
        let view = match header.kind {
            Kind::Part => self.rows(self.progress[peer].parts_sent, peer),
            Kind::Sum => self.sums[self.group.rank].as_ref().map(RowsView::whole),
        };
        view.map_or([&[], &[]], |view| [bytemuck::cast_slice(view.rows), bytemuck::cast_slice(view.values)])
    }

    fn sent(&mut self, peer: usize, kind: Kind) {
        match kind {
            Kind::Part => self.progress[peer].parts_sent += 1,
            Kind::Sum => self.progress[peer].sum_sent = true,
        }
    }

    fn expects(&self, peer: usize, kind: Kind) -> bool {
        match kind {
            Kind::Part => self.progress[peer].parts_received < self.group.covers[peer].len(),
            Kind::Sum => self.sums[peer].is_none(),
        }
    }

    fn admit(&mut self, peer: usize, header: &Header, _pool: &mut Pool) -> Result<Admission, String> {
        let (node, owner) = match header.kind {
            Kind::Part => (self.group.covers[peer].get(self.progress[peer].parts_received), self.group.rank),
            Kind::Sum => (Some(&self.group.tree.root()), peer),
        };
        let due = node.map(|node| Header {
            present: header.present || header.kind == Kind::Sum,
            count: header.count,
            ..self.header(header.kind, *node, None)
        });
        let rows = header.count as usize;
        if due != Some(*header) || rows > self.share(owner).len() || (rows > 0 && !header.present) {
            return Err(format!("sent {header:?} where at most {} words were due", self.share(owner).len()));
        }
        let values = vec![0.0; rows * self.width];
        self.progress[peer].incoming = SparseRows { rows: vec![0; rows], values };
        Ok(Admission::Granted)
    }

    fn space(&mut self, peer: usize, _header: &Header, taken: usize) -> &mut [u8] {
        let SparseRows { rows, values } = &mut self.progress[peer].incoming;
        let (rows, values): (&mut [u8], &mut [u8]) = (bytemuck::cast_slice_mut(rows), bytemuck::cast_slice_mut(values));
        if taken < rows.len() { &mut rows[taken..] } else { &mut values[taken - rows.len()..] }
    }

    fn received(&mut self, peer: usize, header: &Header, _pool: &mut Pool) -> Result<(), String> {
        let rows = std::mem::take(&mut self.progress[peer].incoming);
        let owner = if header.kind == Kind::Part { self.group.rank } else { peer };
        check(&rows, &self.share(owner), self.width)?;
        match header.kind {
            Kind::Sum => self.sums[peer] = Some(rows),
            Kind::Part => {
                self.progress[peer].parts_received += 1;
                if header.present {
                    self.parts.insert(header.node, rows);
                }
                self.add_up();
            }
        }
        Ok(())
    }

    fn finish(self: Box<Self>, summed: &mut Summed) {
        let sums = self.sums.into_iter().flatten();
        for sum in sums {
            summed.words.rows.extend(sum.rows);
            summed.words.values.extend(sum.values);
        }
        summed.spare.extend(self.own.into_iter().flatten().map(|rows| (Segment::Words, rows.values)));
    }

    fn salvage(self: Box<Self>, parts: &mut Parts) {
        let own = self.group.cover().iter().zip(self.own);
        parts.words = Some(own.filter_map(|(node, rows)| Some((*node, rows?))).collect());
    }
}

/// Rows ascend, each once, within `range`, and have their values.
fn check(rows: &SparseRows, range: &Range<usize>, hidden: usize) -> Result<(), String> {
    let ascending = rows.rows.windows(2).all(|pair| pair[0] < pair[1]);
    let ends = rows.rows.first().into_iter().chain(rows.rows.last());
    if !ascending || !ends.into_iter().all(|row| range.contains(&(*row as usize))) {
        return Err(format!("words are not ascending within {range:?}"));
    }
    if rows.rows.len() * hidden != rows.values.len() {
        return Err(format!("{} words have {} elements, not {hidden} each", rows.rows.len(), rows.values.len()));
    }
    Ok(())
}
