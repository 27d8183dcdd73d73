//! Who computes which lanes.

use std::ops::Range;

use medley_common::lane::LaneTree;
use medley_common::message::Lanes;

/// The lanes of each rank, of which each keeps the gradients of those in `kept`: nobody computes again what somebody
/// has, and what is missing goes to those that are done first, at these `speeds`.
///
/// Where nobody keeps anything, contiguous runs: of equal length where all are equally fast. A rank's kept lanes that
/// another has, too, do not count.
pub(super) fn assign(tree: LaneTree, kept: &[Lanes], speeds: &[f64]) -> Vec<Lanes> {
    let mut taken = vec![false; tree.lanes() as usize];
    let mut shares: Vec<Lanes> = Vec::new();
    for runs in kept {
        let free = |run: &Range<u32>| run.end <= tree.lanes() && run.clone().all(|lane| !taken[lane as usize]);
        let share = if runs.iter().all(free) { runs.clone() } else { Lanes::new() };
        share.iter().cloned().flatten().for_each(|lane| taken[lane as usize] = true);
        shares.push(share);
    }
    if shares.iter().all(Vec::is_empty) {
        return contiguous(tree, speeds);
    }
    let mut added: Vec<Lanes> = vec![Lanes::new(); shares.len()];
    for lane in (0..tree.lanes()).filter(|lane| !taken[*lane as usize]) {
        let loads: Vec<usize> = shares.iter().zip(&added).map(|(share, added)| count(share) + count(added)).collect();
        let Some(rank) = first_done(&loads, speeds) else { continue };
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

/// One run of lanes for each rank, as long as it is fast; no rank is without a lane as long as there are any: its speed
/// would not be known any more, and the first rank's state could not be handed over.
fn contiguous(tree: LaneTree, speeds: &[f64]) -> Vec<Lanes> {
    let world = u32::try_from(speeds.len()).unwrap_or(u32::MAX);
    let one = |run: Range<u32>| Some(run).into_iter().filter(|run| !run.is_empty()).collect();
    if speeds.windows(2).all(|pair| pair[0] == pair[1]) {
        return tree.assign(world).into_iter().map(one).collect();
    }
    let mut loads: Vec<usize> = (0..tree.lanes()).zip(speeds).map(|_| 1).collect();
    loads.resize(speeds.len(), 0);
    for _ in world..tree.lanes() {
        first_done(&loads, speeds).into_iter().for_each(|rank| loads[rank] += 1);
    }
    let mut end = 0;
    let run = |load: usize| {
        let start = end;
        end += u32::try_from(load).unwrap_or(u32::MAX);
        one(start..end)
    };
    loads.into_iter().map(run).collect()
}

/// The rank that would be done first with another lane.
fn first_done(loads: &[usize], speeds: &[f64]) -> Option<usize> {
    let done = |(load, speed): (&usize, &f64)| (*load + 1) as f64 / speed;
    let times: Vec<f64> = loads.iter().zip(speeds).map(done).collect();
    (0..times.len()).min_by(|left, right| times[*left].total_cmp(&times[*right]))
}

/// How long the slowest rank takes, in the time that speeds are of.
pub(super) fn duration(shares: &[Lanes], speeds: &[f64]) -> f64 {
    shares.iter().zip(speeds).map(|(share, speed)| count(share) as f64 / speed).fold(0.0, f64::max)
}

fn count(lanes: &Lanes) -> usize {
    lanes.iter().map(|run| run.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const EQUAL: [f64; 5] = [1.0; 5];

    fn assert_each_lane_once(shares: &[Lanes], lanes: u32) {
        let mut all: Vec<u32> = shares.iter().flatten().cloned().flatten().collect();
        all.sort_unstable();
        assert_eq!(all, (0..lanes).collect::<Vec<_>>(), "{shares:?}");
    }

    #[test]
    fn survivors_keep_theirs_and_share_what_is_lost() {
        let tree = LaneTree::new(8);
        let shares = assign(tree, &[vec![0..3], vec![6..8]], &EQUAL[..2]);
        assert_eq!(shares, [vec![0..3, 4..5], vec![3..4, 5..6, 6..8]]);
        assert_eq!(assign(tree, &[vec![0..4]], &EQUAL[..1]), [vec![0..4, 4..8]]);
        let shares = assign(tree, &[vec![0..3], vec![6..8]], &[1.0, 4.0]);
        assert_eq!(shares, [vec![0..3], vec![3..6, 6..8]], "the fast one takes all that is lost");
    }

    #[test]
    fn without_anything_kept_lanes_are_spread_evenly() {
        let tree = LaneTree::new(8);
        assert_eq!(assign(tree, &[Lanes::new(), Lanes::new()], &EQUAL[..2]), [vec![0..4], vec![4..8]]);
        let many = assign(LaneTree::new(2), &vec![Lanes::new(); 5], &EQUAL[..5]);
        assert_each_lane_once(&many, 2);
        assert_eq!(many[0], vec![0..1]);
    }

    /// So the exact sum costs as many bytes as any other: each rank hands over one node of the tree.
    #[test]
    fn a_power_of_two_of_ranks_hands_over_one_node_each() {
        for (lanes, ranks) in [(8, 1), (8, 2), (8, 4), (8, 8), (16, 4), (32, 8)] {
            let tree = LaneTree::new(lanes);
            for share in assign(tree, &vec![Lanes::new(); ranks], &vec![1.0; ranks]) {
                let nodes: Vec<_> = share.into_iter().flat_map(|run| tree.cover(run)).collect();
                assert_eq!(nodes.len(), 1, "{ranks} ranks, {lanes} lanes: {nodes:?}");
            }
        }
    }

    /// No other whole numbers of lanes would be done sooner.
    #[test]
    fn lanes_go_where_they_are_done_soonest() {
        let tree = LaneTree::new(8);
        let lanes = |speeds: &[f64]| -> Vec<usize> {
            let shares = assign(tree, &vec![Lanes::new(); speeds.len()], speeds);
            assert_each_lane_once(&shares, 8);
            assert!(shares.iter().all(|share| share.len() == 1), "contiguous: {shares:?}");
            shares.iter().map(count).collect()
        };
        assert_eq!(lanes(&[1.0, 0.25]), [7, 1]);
        assert_eq!(lanes(&[1.0, 0.4]), [6, 2]);
        assert_eq!(lanes(&[1.0, 0.9]), [4, 4]);
        assert_eq!(lanes(&[0.01, 1.0, 1.0]), [1, 4, 3]);
        assert_eq!(lanes(&[3.0, 1.0, 1.0, 3.0]), [3, 1, 1, 3]);
        let few = assign(LaneTree::new(2), &vec![Lanes::new(); 3], &[1.0, 2.0, 3.0]);
        assert_eq!(few, [vec![0..1], vec![1..2], vec![]]);
        for split in 0..=8usize {
            let other = [vec![0..split as u32], vec![split as u32..8]];
            let best = assign(tree, &[Lanes::new(), Lanes::new()], &[1.0, 0.37]);
            assert!(duration(&best, &[1.0, 0.37]) <= duration(&other, &[1.0, 0.37]));
        }
    }

    #[test]
    fn what_does_not_fit_is_not_believed() {
        for kept in [vec![vec![0..3], vec![2..5], vec![]], vec![vec![0..9], vec![1..2]], vec![vec![], vec![7..8]]] {
            assert_each_lane_once(&assign(LaneTree::new(8), &kept, &EQUAL[..kept.len()]), 8);
        }
    }
}
