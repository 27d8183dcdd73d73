//! Who sends which elements of a segment to whom: all ranks of a group know it without asking.
//!
//! Each rank adds up a share of every segment; the others send it their nodes' elements there. Messages between two
//! ranks meet in their order, so both must name them in the same one: that of the sender's nodes.

use std::ops::Range;

use medley_common::lane::Node;

use super::group::{Extent, Group};

/// Some elements of the sum below a node, on their way to the rank that adds them up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parcel {
    /// The rank at the other end.
    pub peer: usize,
    /// One of the sender's nodes.
    pub node: Node,
    /// The elements within the segment; at least one.
    pub range: Range<usize>,
}

impl Group {
    /// What this rank sends of a segment.
    pub(super) fn outgoing(&self, extent: Extent) -> Vec<Parcel> {
        let of = |peer| parcels(peer, self.cover(), self.share(extent, peer));
        self.peers().flat_map(of).collect()
    }

    /// What this rank is sent of a segment.
    pub(super) fn incoming(&self, extent: Extent) -> Vec<Parcel> {
        let of = |peer: usize| parcels(peer, &self.covers[peer], self.share(extent, self.rank));
        self.peers().flat_map(of).collect()
    }
}

fn parcels(peer: usize, nodes: &[Node], range: Range<usize>) -> impl Iterator<Item = Parcel> {
    let nodes = if range.is_empty() { &[] } else { nodes };
    nodes.iter().map(move |node| Parcel { peer, node: *node, range: range.clone() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use medley_common::message::Lanes;

    use super::super::local_group::{layout, split};
    use super::super::local_transport::seats;
    use super::*;

    fn groups(lanes: &[Lanes]) -> Vec<Arc<Group>> {
        seats(&layout(), lanes).into_iter().map(|seat| seat.group).collect()
    }

    fn even(lanes: u32, world: u32) -> Vec<Lanes> {
        let run = |run: Range<u32>| if run.is_empty() { Lanes::new() } else { vec![run] };
        split(lanes, world).into_iter().map(run).collect()
    }

    /// What one rank sends another is what that one awaits, in that order; and every element of every node comes to the
    /// one rank that adds it up, once.
    fn check(lanes: &[Lanes], extent: Extent) {
        let groups = groups(lanes);
        let mut arrived = BTreeMap::<Node, Vec<u32>>::new();
        for (rank, group) in groups.iter().enumerate() {
            for node in group.cover() {
                let seen = arrived.entry(*node).or_insert_with(|| vec![0; extent.length]);
                seen[group.share(extent, rank)].iter_mut().for_each(|times| *times += 1);
            }
            for parcel in group.outgoing(extent) {
                assert!(!parcel.range.is_empty() && group.share(extent, parcel.peer) == parcel.range);
                arrived.get_mut(&parcel.node).unwrap()[parcel.range].iter_mut().for_each(|times| *times += 1);
            }
            for peer in group.peers() {
                let to = |parcel: &Parcel| (parcel.peer == peer).then(|| (parcel.node, parcel.range.clone()));
                let from = |parcel: &Parcel| (parcel.peer == rank).then(|| (parcel.node, parcel.range.clone()));
                let sent: Vec<_> = group.outgoing(extent).iter().filter_map(to).collect();
                let awaited: Vec<_> = groups[peer].incoming(extent).iter().filter_map(from).collect();
                assert_eq!(sent, awaited, "rank {rank} to rank {peer}, lanes {lanes:?}");
            }
        }
        assert!(arrived.values().flatten().all(|times| *times == 1), "lanes {lanes:?}");
    }

    #[test]
    fn both_ends_name_the_same_parcels() {
        for world in [1, 2, 3, 4, 5, 7] {
            for lanes in [5, 8, 32] {
                for (length, piece) in
                    [(0, None), (1, None), (6, Some(4)), (64, Some(16)), (1001, None), (1001, Some(64))]
                {
                    check(&even(lanes, world), Extent { length, piece });
                }
            }
        }
        // What is left of others is in several runs.
        check(&[vec![0..1, 1..2, 6..7], vec![2..6], vec![], vec![7..8]], Extent::whole(101));
    }

    /// Where the number of ranks is a power of two, as much travels as in any all-reduce.
    #[test]
    fn powers_of_two_send_one_node() {
        for world in [2_u32, 4, 8] {
            for group in groups(&even(8, world)) {
                let sent: usize = group.outgoing(Extent::whole(8000)).iter().map(|parcel| parcel.range.len()).sum();
                assert_eq!(sent, 8000 - 8000 / world as usize);
            }
        }
    }
}
