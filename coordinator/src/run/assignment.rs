//! Who computes which lanes.

use std::ops::Range;

use medley_common::lane::LaneTree;
use medley_common::message::Lanes;

/// The lanes of each rank, of which each keeps the gradients of those in `kept`: nobody computes again what somebody
/// has, and what is missing goes to those that have the fewest.
///
/// Where nobody keeps anything, contiguous runs of equal length. A rank's kept lanes that another has, too, do not
/// count.
pub(super) fn assign(tree: LaneTree, kept: &[Lanes]) -> Vec<Lanes> {
    let world = u32::try_from(kept.len()).unwrap_or(u32::MAX);
    if kept.iter().all(Vec::is_empty) {
        return tree
            .assign(world)
            .into_iter()
            .map(|run| Some(run).into_iter().filter(|run| !run.is_empty()).collect())
            .collect();
    }
    let mut taken = vec![false; tree.lanes() as usize];
    let mut shares: Vec<Lanes> = Vec::new();
    for runs in kept {
        let free = |run: &Range<u32>| run.end <= tree.lanes() && run.clone().all(|lane| !taken[lane as usize]);
        let share = if runs.iter().all(free) { runs.clone() } else { Lanes::new() };
        share.iter().cloned().flatten().for_each(|lane| taken[lane as usize] = true);
        shares.push(share);
    }
    let mut added: Vec<Lanes> = vec![Lanes::new(); shares.len()];
    for lane in (0..tree.lanes()).filter(|lane| !taken[*lane as usize]) {
        let load = |rank: &usize| count(&shares[*rank]) + count(&added[*rank]);
        let Some(rank) = (0..shares.len()).min_by_key(load) else { continue };
        match added[rank].last_mut().filter(|run| run.end == lane) {
            Some(run) => run.end += 1,
            None => added[rank].push(lane..lane + 1),
        }
    }
    for (share, added) in shares.iter_mut().zip(added) {
        share.extend(added);
        share.sort_by_key(|run| run.start);
    }
    shares
}

fn count(lanes: &Lanes) -> usize {
    lanes.iter().map(|run| run.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_each_lane_once(shares: &[Lanes], lanes: u32) {
        let mut all: Vec<u32> = shares.iter().flatten().cloned().flatten().collect();
        all.sort_unstable();
        assert_eq!(all, (0..lanes).collect::<Vec<_>>(), "{shares:?}");
    }

    #[test]
    fn survivors_keep_theirs_and_share_what_is_lost() {
        let tree = LaneTree::new(8);
        let shares = assign(tree, &[vec![0..3], vec![6..8]]);
        assert_eq!(shares, [vec![0..3, 4..5], vec![3..4, 5..6, 6..8]]);
        assert_eq!(assign(tree, &[vec![0..4]]), [vec![0..4, 4..8]]);
    }

    #[test]
    fn without_anything_kept_lanes_are_spread_evenly() {
        let tree = LaneTree::new(8);
        assert_eq!(assign(tree, &[Lanes::new(), Lanes::new()]), [vec![0..4], vec![4..8]]);
        let many = assign(LaneTree::new(2), &vec![Lanes::new(); 5]);
        assert_each_lane_once(&many, 2);
        assert_eq!(many[0], vec![0..1]);
    }

    #[test]
    fn what_does_not_fit_is_not_believed() {
        for kept in [vec![vec![0..3], vec![2..5], vec![]], vec![vec![0..9], vec![1..2]], vec![vec![], vec![7..8]]] {
            assert_each_lane_once(&assign(LaneTree::new(8), &kept), 8);
        }
    }
}
