//! Sums over devices, against those over TCP and of one worker.

use medley_common::lane::LaneTree;
use medley_common::message::Lanes;

use super::local_group::{layout, split};
use super::local_transport::seats;
use super::tcp_test::{PIECE, Update};
use super::{Collective, CollectiveError, Solo, Sums, Traffic, cover};
use crate::layout::{Segment, shard};
use crate::ops::cpu::Cpu;

/// Runs `work` as every rank of a group with these lanes, each in a thread of its own.
fn run(lanes: &[Lanes], work: impl Fn(usize, &mut dyn Collective) + Sync) {
    std::thread::scope(|scope| {
        for (rank, seat) in seats(&layout(), lanes).into_iter().enumerate() {
            let work = &work;
            scope.spawn(move || work(rank, &mut seat.join(Cpu)));
        }
    });
}

/// The sums are those of the tree, to the bit, as they are over TCP.
fn check(updates: &[Update], lanes: &[Lanes]) {
    run(lanes, |rank, member| {
        for (index, update) in updates.iter().enumerate() {
            let buffers = update.launch(member, &lanes[rank]);
            let summed = member.fence().unwrap();
            update.check(&summed, &format!("update {index}, lanes {lanes:?}, rank {rank}"));
            assert!(summed.spare.len() + summed.segments.len() >= buffers, "every buffer comes back");
            member.sums(Sums::Shards(PIECE));
            update.launch(member, &lanes[rank]);
            let shared = member.fence().unwrap();
            update.check_share(&shared, (rank, lanes.len()), &format!("shares of update {index}, lanes {lanes:?}"));
            member.sums(Sums::Gradients);
        }
        assert!(member.fence().unwrap().segments.is_empty(), "nothing was launched");
    });
}

fn updates(lanes: u32) -> Vec<Update> {
    let empties = [vec![], vec![1], vec![0, 2, 3], vec![lanes - 1, 4], (1..lanes).collect()];
    empties.iter().enumerate().map(|(seed, empty)| Update::new(lanes, empty, seed as u64)).collect()
}

fn one_run(run: std::ops::Range<u32>) -> Lanes {
    if run.is_empty() { Lanes::new() } else { vec![run] }
}

#[test]
fn every_split_of_the_lanes_gives_the_bits_of_tcp() {
    for lanes in [5, 8] {
        for world in [1, 2, 3, 4, 5, 7, 8] {
            let lanes_of = split(lanes, world).into_iter().map(one_run).collect::<Vec<_>>();
            check(&updates(lanes), &lanes_of);
        }
    }
}

/// As they are after a loss: runs that were kept, runs that were taken over, and halves of a node in two runs.
#[test]
fn so_do_lanes_in_several_runs() {
    check(&updates(8), &[vec![0..2, 6..7], vec![2..4, 4..6, 7..8]]);
    check(&updates(8), &[vec![0..1, 1..2, 6..7], vec![2..6], vec![], vec![7..8]]);
    check(&updates(8), &[vec![1..4], vec![0..1, 4..5, 7..8], vec![5..7]]);
    check(&updates(5), &[vec![4..5, 0..1], vec![1..4]]);
}

#[test]
fn one_worker_has_them_as_well() {
    for lanes in [vec![0..8], vec![0..3, 3..4, 4..8]] {
        let mut solo = Solo::new(Cpu, &layout(), 8);
        for (index, update) in updates(8).iter().enumerate() {
            update.launch(&mut solo, &lanes);
            let summed = solo.fence().unwrap();
            update.check(&summed, &format!("update {index}"));
            assert_eq!(summed.traffic, Traffic::default(), "nobody is there to send anything to");
        }
    }
}

/// Two ranks with a half each: one half of a segment is sent to be added, the sum of the other half when it is added.
#[test]
fn what_is_sent_is_counted() {
    run(&[vec![0..4], vec![4..8]], |rank, member| {
        let length = layout().range(Segment::Head).len();
        let node = cover(LaneTree::new(8), &[rank as u32 * 4..rank as u32 * 4 + 4])[0];
        for _ in 0..2 {
            member.launch(Segment::Head, vec![(node, vec![1.0; length])]).unwrap();
            let summed = member.fence().unwrap();
            assert_eq!(summed.segments[0].1[0].to_bits(), 2f32.to_bits());
            assert_eq!(summed.traffic.sent_bytes, 4 * length as u64, "rank {rank}");
            assert!(!summed.traffic.busy.is_zero());
        }
        member.sums(Sums::Shards(PIECE));
        member.launch(Segment::Head, vec![(node, vec![1.0; length])]).unwrap();
        let others = shard(length, 1 - rank as u32, 2, PIECE).len();
        assert_eq!(member.fence().unwrap().traffic.sent_bytes, 4 * others as u64, "rank {rank}: no sums travel");
    });
}

/// What a rank handed over comes back to it where another is lost.
#[test]
fn what_was_handed_over_is_salvaged() {
    let lanes = [vec![0..3], vec![3..8]];
    run(&lanes, |rank, member| {
        if rank == 1 {
            return;
        }
        let length = layout().range(Segment::Head).len();
        let nodes = cover(LaneTree::new(8), &lanes[0]);
        let sums: Vec<_> = nodes.iter().map(|node| (*node, vec![node.level as f32 + 0.5; length])).collect();
        assert!(matches!(member.launch(Segment::Head, sums.clone()), Err(CollectiveError::Aborted)));
        let parts = member.salvage();
        assert_eq!(parts.dense, [(Segment::Head, sums)]);
        assert!(parts.words.is_none());
    });
}

#[test]
fn nonsense_is_refused() {
    let [_, seat] = <[_; 2]>::try_from(seats(&layout(), &[vec![0..4], vec![4..8]])).ok().unwrap();
    let mut member = seat.join(Cpu);
    let length = layout().range(Segment::Head).len();
    let node = cover(LaneTree::new(8), &[4..8])[0];
    let theirs = cover(LaneTree::new(8), &[0..4])[0];
    for sums in
        [vec![(theirs, vec![0.0; length])], vec![(node, vec![0.0; length - 1])], vec![(node, vec![]), (node, vec![])]]
    {
        assert!(matches!(member.launch(Segment::Head, sums), Err(CollectiveError::Invalid { .. })));
    }
    assert!(member.launch(Segment::Words, Vec::new()).is_err());
}
