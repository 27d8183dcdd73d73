//! The sum has the same bits whoever holds which lanes.

use std::collections::BTreeMap;
use std::ops::Range;

use medley_common::identity::Rank;
use medley_common::lane::{LaneTree, Node};
use medley_common::message::Form;
use medley_common::model::{Family, ModelConfig};
use medley_common::plan::mix;

use super::duet::{Duet, duet};
use super::local_group::{BOTH, SETTINGS, forms, head, join, lane, layout, listener, run, split};
use super::{AbortSwitch, Collective, CollectiveError, SparseRows, Summed, Sums, Tcp, TcpSettings, cover};
use crate::layout::{Layout, Segment, shard};

/// What shares are cut at multiples of, elements.
pub(super) const PIECE: usize = 16;

/// Gradients of one update, lane by lane; `None` for an empty lane.
pub(super) struct Update {
    tree: LaneTree,
    dense: Vec<(Segment, Vec<Option<Vec<f32>>>)>,
    words: Vec<Option<BTreeMap<u32, Vec<f32>>>>,
}

impl Update {
    /// Numbers of very different size, so that every other order of adding gives other bits.
    pub(super) fn new(lanes: u32, empty: &[u32], seed: u64) -> Self {
        let number = |place: u64| {
            let random = mix(seed ^ mix(place));
            let sign = if random & 1 == 0 { 1.0 } else { -1.0 };
            // Zeros have a sign, too.
            if (random >> 4).is_multiple_of(5) {
                return sign * 0.0;
            }
            sign * (1.0 + (random >> 40) as f32 / 16_777_216.0) * 2f32.powi((random >> 8) as i32 % 20 - 10)
        };
        let layout = layout();
        let segments = layout.segments()[1..].iter().rev();
        let lane = |lane: u32, range: &Range<usize>| {
            let numbers = range.clone().map(|element| number(u64::from(lane) << 32 | element as u64));
            (!empty.contains(&lane)).then(|| numbers.collect())
        };
        let dense =
            segments.map(|(segment, range)| (*segment, (0..lanes).map(|index| lane(index, range)).collect())).collect();
        let rows = |lane: u32| {
            let rows = (0..53).filter(|row| mix(seed ^ u64::from(lane * 64 + row)).is_multiple_of(3));
            let values = |row: u32| (0..12).map(|column| number(u64::from(lane * 1000 + row * 12 + column))).collect();
            (!empty.contains(&lane)).then(|| rows.map(|row| (row, values(row))).collect())
        };
        Self { tree: LaneTree::new(lanes), dense, words: (0..lanes).map(rows).collect() }
    }

    fn dense(&self, node: Node, lanes: &[Option<Vec<f32>>]) -> Option<Vec<f32>> {
        let Some((left, right)) = self.tree.children(node) else { return lanes[node.index as usize].clone() };
        let (left, right) = (self.dense(left, lanes), right.and_then(|right| self.dense(right, lanes)));
        match (left, right) {
            (Some(left), Some(right)) => Some(left.iter().zip(&right).map(|(left, right)| left + right).collect()),
            (value, None) | (None, value) => value,
        }
    }

    fn rows(&self, node: Node) -> Option<BTreeMap<u32, Vec<f32>>> {
        let Some((left, right)) = self.tree.children(node) else { return self.words[node.index as usize].clone() };
        let (left, right) = (self.rows(left), right.and_then(|right| self.rows(right)));
        let (Some(mut left), Some(right)) = (left.clone(), right.clone()) else { return left.or(right) };
        for (row, values) in right {
            match left.get_mut(&row) {
                Some(sum) => sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value),
                None => {
                    left.insert(row, values);
                }
            }
        }
        Some(left)
    }

    fn sparse(&self, node: Node) -> Option<SparseRows> {
        let rows = self.rows(node)?;
        Some(SparseRows { rows: rows.keys().copied().collect(), values: rows.into_values().flatten().collect() })
    }

    /// Hands over what a rank with these lanes has, as a worker does.
    pub(super) fn launch(&self, collective: &mut dyn Collective, lanes: &[Range<u32>]) -> usize {
        let cover = cover(self.tree, lanes);
        let mut buffers = 0;
        for (segment, values) in &self.dense {
            let sums = cover.iter().filter_map(|node| Some((*node, self.dense(*node, values)?)));
            let sums: Vec<_> = sums.collect();
            buffers += sums.len();
            collective.launch(*segment, sums).unwrap();
        }
        let words: Vec<_> = cover.iter().filter_map(|node| Some((*node, self.sparse(*node)?))).collect();
        buffers += words.len();
        collective.launch_words(words).unwrap();
        buffers
    }

    pub(super) fn check(&self, summed: &Summed, context: &str) {
        self.check_share(summed, (0, 1), context);
    }

    /// The same where each rank of a world is given its own share alone, cut at multiples of [`PIECE`].
    pub(super) fn check_share(&self, summed: &Summed, (rank, world): (usize, usize), context: &str) {
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(summed.segments.len(), self.dense.len(), "{context}");
        for ((segment, sum), (launched, lanes)) in summed.segments.iter().zip(&self.dense) {
            assert_eq!(segment, launched, "{context}");
            let expected = self.dense(self.tree.root(), lanes).unwrap_or_else(|| vec![0.0; sum.len()]);
            let own = shard(sum.len(), rank as u32, world as u32, PIECE);
            assert_eq!(bits(&sum[own.clone()]), bits(&expected[own]), "{context} {segment:?}");
        }
        let expected = self.sparse(self.tree.root()).unwrap_or_default();
        assert_eq!(summed.words.rows, expected.rows, "{context}");
        assert_eq!(bits(&summed.words.values), bits(&expected.values), "{context}");
    }
}

fn check_split(updates: &[Update], lanes: &[Range<u32>]) {
    BOTH.into_iter().for_each(|settings| check_over(updates, lanes, settings));
}

fn check_over(updates: &[Update], lanes: &[Range<u32>], settings: TcpSettings) {
    run(lanes, settings, |rank, mut tcp| {
        for (index, update) in updates.iter().enumerate() {
            let buffers = update.launch(&mut tcp, std::slice::from_ref(&lanes[rank]));
            let summed = tcp.fence().unwrap();
            update.check(&summed, &format!("update {index}, lanes {lanes:?}, rank {rank}"));
            assert!(summed.spare.len() + summed.segments.len() >= buffers, "every buffer comes back");
            tcp.sums(Sums::Shards(PIECE));
            update.launch(&mut tcp, std::slice::from_ref(&lanes[rank]));
            let shared = tcp.fence().unwrap();
            update.check_share(&shared, (rank, lanes.len()), &format!("shares of update {index}, lanes {lanes:?}"));
            tcp.sums(Sums::Gradients);
        }
        assert!(tcp.fence().unwrap().segments.is_empty(), "nothing was launched");
    });
}

/// Which rows any rank has, between two sums.
#[test]
fn ranks_tell_each_other_their_rows() {
    for settings in BOTH {
        let (update, lanes) = (Update::new(8, &[2], 5), split(8, 3));
        run(&lanes, settings, |rank, mut tcp| {
            tcp.launch_words(Vec::new()).unwrap();
            tcp.launch_rows([vec![3, 52], vec![], vec![3, 7]][rank].clone()).unwrap();
            assert_eq!(tcp.fence().unwrap().words, SparseRows { rows: vec![3, 7, 52], values: Vec::new() });
            update.launch(&mut tcp, std::slice::from_ref(&lanes[rank]));
            update.check(&tcp.fence().unwrap(), "after");
        });
    }
}

#[test]
fn every_split_of_the_lanes_gives_the_same_bits() {
    for lanes in [5, 8] {
        let empties = [vec![], vec![1], vec![0, 2, 3], vec![lanes - 1, 4], (1..lanes).collect(), (0..lanes).collect()];
        let updates: Vec<Update> =
            empties.iter().enumerate().map(|(seed, empty)| Update::new(lanes, empty, seed as u64)).collect();
        for world in [1, 2, 3, 4, 5, 7, 8] {
            check_split(&updates, &split(lanes, world));
        }
    }
}

#[test]
fn uneven_splits_give_the_same_bits() {
    let updates = [Update::new(8, &[], 1), Update::new(8, &[2, 5, 6], 2)];
    for bounds in [[0, 8, 8], [0, 0, 8], [1, 7, 8], [3, 3, 8], [5, 6, 8]] {
        check_split(&updates, &[0..bounds[0], bounds[0]..bounds[1], bounds[1]..bounds[2]]);
    }
}

/// The reference itself: adding the lanes in another order gives other bits.
#[test]
fn the_order_of_adding_shows() {
    let update = Update::new(8, &[], 1);
    let (_, lanes) = &update.dense[0];
    let tree = update.dense(update.tree.root(), lanes).unwrap();
    let mut line = lanes[0].clone().unwrap();
    for lane in lanes[1..].iter().flatten() {
        line.iter_mut().zip(lane).for_each(|(sum, value)| *sum += value);
    }
    assert_ne!(tree, line);
}

/// Segments larger than all socket buffers and rings, sent both ways at once, with the production chunks.
#[test]
fn full_buffers_do_not_block() {
    let layout = Layout::new(&ModelConfig {
        family: Family::Bert,
        vocab_size: 100,
        hidden_size: 1024,
        num_hidden_layers: 1,
        num_attention_heads: 2,
        intermediate_size: 8192,
        max_position_embeddings: 9,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout: 0.0,
        attention_dropout: 0.0,
        classifier_dropout: 0.0,
        initializer_range: 0.02,
        num_labels: 3,
    });
    let segment = Segment::Layer(0);
    let length = layout.range(segment).len();
    assert!(length > 80 << 18, "80 MB");
    for shared_memory in [false, true] {
        let settings = TcpSettings { shared_memory, ..TcpSettings::default() };
        let listeners = [listener(), listener(), listener()];
        let lanes = split(3, 3);
        let forms = forms(&listeners, 1, &lanes);
        std::thread::scope(|scope| {
            for (rank, (listener, form)) in listeners.iter().zip(&forms).enumerate() {
                let (layout, node) = (&layout, LaneTree::new(3).cover(lanes[rank].clone())[0]);
                scope.spawn(move || {
                    let switch = AbortSwitch::new().unwrap();
                    let mut tcp = Tcp::connect(listener, form, layout, settings, switch).unwrap();
                    tcp.launch(segment, vec![(node, vec![(rank + 1) as f32; length])]).unwrap();
                    let summed = tcp.fence().unwrap();
                    assert!(summed.segments[0].1.iter().all(|value| *value == 6.0));
                });
            }
        });
    }
}

/// The elements, and a header of 48 bytes for each chunk of a part and of a sum.
#[test]
fn what_is_sent_is_counted() {
    for settings in BOTH {
        run(&split(8, 2), settings, |rank, mut member| {
            let length = layout().range(Segment::Head).len();
            let node = cover(LaneTree::new(8), &split(8, 2)[rank..=rank])[0];
            for _ in 0..2 {
                member.launch(Segment::Head, vec![(node, vec![1.0; length])]).unwrap();
                let traffic = member.fence().unwrap().traffic;
                let (least, most) =
                    (4 * length as u64, 4 * length as u64 + 48 * (2 * length.div_ceil(2 * 37) as u64 + 2));
                assert!((least..=most).contains(&traffic.sent_bytes), "rank {rank}: {traffic:?}, {least} to {most}");
                assert!(!traffic.busy.is_zero());
            }
            // Where each has its own share alone, no sums travel, and no part of one's own.
            member.sums(Sums::Shards(PIECE));
            member.launch(Segment::Head, vec![(node, vec![1.0; length])]).unwrap();
            let (sent, other) =
                (member.fence().unwrap().traffic.sent_bytes, shard(length, 1 - rank as u32, 2, PIECE).len());
            let (least, most) = (4 * other as u64, 4 * other as u64 + 48 * (other.div_ceil(37) as u64 + 2));
            assert!((least..=most).contains(&sent), "rank {rank}: {sent}, {least} to {most}");
        });
    }
}

#[test]
fn a_sum_that_cannot_be_is_refused() {
    let refused = |launch: &dyn Fn(&mut Tcp)| {
        let Duet { mut tcp, .. } = duet(SETTINGS);
        launch(&mut tcp);
        let error = tcp.fence().map(|_| ()).unwrap_err();
        assert!(matches!(error, CollectiveError::Invalid { .. }), "{error}");
    };
    refused(&|tcp| tcp.launch(Segment::Head, vec![(lane(0), vec![0.0; 3])]).unwrap());
    refused(&|tcp| tcp.launch(Segment::Head, vec![(lane(1), head())]).unwrap());
    refused(&|tcp| tcp.launch(Segment::Head, vec![(lane(0), head()), (lane(0), head())]).unwrap());
    refused(&|tcp| tcp.launch(Segment::Words, Vec::new()).unwrap());
    refused(&|tcp| tcp.launch(Segment::Layer(2), Vec::new()).unwrap());
    let rows = |rows: &[u32], values| SparseRows { rows: rows.to_vec(), values: vec![0.0; values] };
    refused(&|tcp| tcp.launch_words(vec![(lane(0), rows(&[53], 12))]).unwrap());
    refused(&|tcp| tcp.launch_words(vec![(lane(0), rows(&[1], 11))]).unwrap());
}

#[test]
fn a_group_that_cannot_be_is_refused() {
    let Duet { listeners, form, .. } = duet(SETTINGS);
    let wrong = [
        Form { rank: Rank(2), ..form.clone() },
        Form { lanes: vec![vec![0..1], vec![1..2], vec![2..3]], ..form.clone() },
        Form { lanes: vec![vec![0..1], vec![2..3]], ..form.clone() },
        Form { lanes: vec![vec![0..2], vec![1..3]], ..form.clone() },
        Form { peers: Vec::new(), lanes: Vec::new(), ..form },
    ];
    for form in wrong {
        assert!(matches!(join(&listeners[0], &form, SETTINGS), Err(CollectiveError::Invalid { .. })), "{form:?}");
    }
    let form = forms(&listeners, 3, &split(2, 2)).remove(0);
    for chunk_elements in [0, usize::MAX] {
        let settings = TcpSettings { chunk_elements, ..SETTINGS };
        assert!(matches!(join(&listeners[0], &form, settings), Err(CollectiveError::Invalid { .. })));
    }
}
