//! Which rows each update takes, and in which lane: a pure function of the recipe and the rows' lengths.

use std::ops::Range;

use crate::identity::{RowId, Update};
use crate::spec::TrainSpec;

/// The rows of one update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpdatePlan {
    /// The update, from 1.
    pub update: Update,
    /// The rows of each lane; a lane is empty where the update has fewer rows than lanes.
    pub lanes: Vec<Vec<RowId>>,
}

impl UpdatePlan {
    /// What the summed loss and gradient are divided by: the number of rows, or where classes have weights, those of the
    /// rows' labels. They are added in the order of the plan, so that the sum has the same bits wherever it is taken.
    #[must_use]
    pub fn divisor(&self, class_weights: &[f64], label: impl Fn(RowId) -> Option<u32>) -> f64 {
        if class_weights.is_empty() {
            return f64::from(self.rows().max(1));
        }
        let weight = |row: &RowId| label(*row).and_then(|label| class_weights.get(label as usize)).copied();
        self.lanes.iter().flatten().filter_map(weight).sum()
    }

    /// Number of rows over all lanes.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.lanes.iter().map(|lane| u32::try_from(lane.len()).unwrap_or(u32::MAX)).sum()
    }
}

/// The whole run's data order.
///
/// Every epoch is a seeded permutation of all rows, cut into updates of `rows_per_update` rows; the last update of an
/// epoch takes what is left (INV-1: each row once an epoch). The rows of an update go to its lanes so that the lanes
/// have about the same number of tokens.
#[derive(Debug, Clone)]
pub struct Plan {
    seed: u64,
    rows_per_update: u32,
    lanes: u32,
    lengths: Vec<u32>,
    /// The permutation of the epoch asked for last.
    order: Option<(u64, Vec<RowId>)>,
}

impl Plan {
    /// The order in which `spec` takes rows of `lengths` tokens.
    #[must_use]
    pub fn new(spec: &TrainSpec, lengths: Vec<u32>) -> Self {
        Self {
            seed: spec.data_seed.unwrap_or(spec.seed),
            rows_per_update: spec.rows_per_update.max(1),
            lanes: spec.lanes.max(1),
            lengths,
            order: None,
        }
    }

    /// Updates an epoch: the rows divided by the global batch, rounded up.
    #[must_use]
    pub fn updates_per_epoch(&self) -> u64 {
        updates_per_epoch(self.lengths.len() as u64, self.rows_per_update)
    }

    /// Epochs done after `update`, as Hugging Face logs them.
    #[must_use]
    pub fn epoch_at(&self, update: Update) -> f64 {
        update.0 as f64 / self.updates_per_epoch() as f64
    }

    /// The rows of `update` (from 1).
    pub fn update(&mut self, update: Update) -> UpdatePlan {
        let index = update.0.saturating_sub(1);
        let epoch = index / self.updates_per_epoch();
        let start = (index % self.updates_per_epoch()) as usize * self.rows_per_update as usize;
        let end = (start + self.rows_per_update as usize).min(self.lengths.len());
        let rows = self.epoch_order(epoch)[start..end].to_vec();
        UpdatePlan { update, lanes: self.balance(&rows) }
    }

    fn epoch_order(&mut self, epoch: u64) -> &[RowId] {
        if self.order.as_ref().is_none_or(|(known, _)| *known != epoch) {
            self.order = Some((epoch, permutation(self.seed, epoch, self.lengths.len())));
        }
        self.order.as_ref().map_or(&[], |(_, order)| order)
    }

    /// Longest row first, each to the lane with the fewest tokens so far (Graham's LPT rule).
    fn balance(&self, rows: &[RowId]) -> Vec<Vec<RowId>> {
        let length = |row: RowId| self.lengths.get(row.0 as usize).copied().unwrap_or(0);
        let mut longest_first: Vec<usize> = (0..rows.len()).collect();
        longest_first.sort_by_key(|&place| (std::cmp::Reverse(length(rows[place])), place));
        let mut places = vec![Vec::new(); self.lanes as usize];
        let mut tokens = vec![(0u64, 0usize); self.lanes as usize];
        for place in longest_first {
            // Ties go to the lane with fewer rows, then to the lower lane, so that rows of equal length spread evenly.
            let lane = (0..places.len()).min_by_key(|&lane| (tokens[lane], lane)).unwrap_or(0);
            places[lane].push(place);
            tokens[lane].0 += u64::from(length(rows[place]));
            tokens[lane].1 += 1;
        }
        for lane in &mut places {
            lane.sort_unstable();
        }
        places.into_iter().map(|lane| lane.into_iter().map(|place| rows[place]).collect()).collect()
    }
}

/// Updates of `rows_per_update` rows that `rows` rows make, the last one possibly short; at least 1.
#[must_use]
pub fn updates_per_epoch(rows: u64, rows_per_update: u32) -> u64 {
    rows.div_ceil(u64::from(rows_per_update.max(1))).max(1)
}

/// The rows of a split that each rank predicts: contiguous runs with about the same number of tokens.
///
/// Together the runs hold each row exactly once.
#[must_use]
pub fn evaluation_shards(lengths: &[u32], world: u32) -> Vec<Range<u32>> {
    let total: u64 = lengths.iter().map(|length| u64::from(*length)).sum();
    let mut shards = Vec::new();
    let (mut row, mut tokens) = (0, 0u64);
    for rank in 0..u64::from(world.max(1)) {
        let start = row;
        let share = total * (rank + 1) / u64::from(world.max(1));
        let last = rank + 1 == u64::from(world.max(1));
        while row < lengths.len() && (last || tokens + u64::from(lengths[row]) / 2 < share) {
            tokens += u64::from(lengths[row]);
            row += 1;
        }
        shards.push(u32::try_from(start).unwrap_or(u32::MAX)..u32::try_from(row).unwrap_or(u32::MAX));
    }
    shards
}

/// A uniform permutation of `0..rows` by Fisher and Yates, drawn from SplitMix64.
fn permutation(seed: u64, epoch: u64, rows: usize) -> Vec<RowId> {
    let mut order: Vec<RowId> = (0..rows).map(|row| RowId(u32::try_from(row).unwrap_or(u32::MAX))).collect();
    let mut random = SplitMix64(mix(seed ^ mix(epoch.wrapping_add(1))));
    for place in (1..rows).rev() {
        order.swap(place, random.below(place as u64 + 1) as usize);
    }
    order
}

/// SplitMix64 (Steele, Lea and Flood, 2014).
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform in `0..bound` without bias (Lemire, 2019).
    fn below(&mut self, bound: u64) -> u64 {
        let threshold = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.next()) * u128::from(bound);
            if product as u64 >= threshold {
                return (product >> 64) as u64;
            }
        }
    }
}

/// The finaliser of SplitMix64: a bijection of 64 bits that spreads every input bit over all output bits.
#[must_use]
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::schedule::{Decay, LrSchedule};
    use crate::spec::{ComputeSpec, OptimizerKind, OptimizerSpec, TuningSpec};

    fn spec(seed: u64, rows_per_update: u32, lanes: u32) -> TrainSpec {
        TrainSpec {
            seed,
            data_seed: None,
            rows_per_update,
            lanes,
            schedule: LrSchedule { decay: Decay::linear(), peak: 1.0, warmup_updates: 0, total_updates: 1 },
            optimizer: OptimizerSpec {
                kind: OptimizerKind::AdamwHf,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.0,
                max_grad_norm: Some(1.0),
            },
            tuning: TuningSpec::default(),
            label_smoothing: 0.0,
            class_weights: Vec::new(),
            compute: ComputeSpec::default(),
        }
    }

    #[test]
    fn the_reference_run_has_351_updates_an_epoch() {
        let plan = Plan::new(&spec(42, 32, 8), vec![45; 11_232]);
        assert_eq!(plan.updates_per_epoch(), 351);
        assert_eq!(plan.epoch_at(Update(702)), 2.0);
    }

    #[test]
    fn an_update_is_divided_by_the_weights_of_its_rows() {
        let plan = UpdatePlan { update: Update(1), lanes: vec![vec![RowId(2), RowId(0)], vec![], vec![RowId(1)]] };
        let label = |row: RowId| Some(row.0 % 2);
        assert_eq!(plan.divisor(&[], label), 3.0);
        assert_eq!(plan.divisor(&[0.25, 2.0], label), 2.5);
    }

    #[test]
    fn epochs_differ_and_repeat() {
        let mut plan = Plan::new(&spec(42, 32, 8), vec![45; 100]);
        let first = plan.update(Update(1));
        let second_epoch = plan.update(Update(5));
        assert_ne!(first.lanes, second_epoch.lanes);
        assert_eq!(plan.update(Update(1)), first);
        assert_eq!(plan.update(Update(4)).rows(), 4, "the last update of an epoch takes what is left");
    }

    #[test]
    fn a_seed_of_the_data_decides_the_order_alone() {
        let lengths = vec![45; 100];
        let other = TrainSpec { data_seed: Some(7), ..spec(42, 32, 8) };
        let first = |spec: &TrainSpec| Plan::new(spec, lengths.clone()).update(Update(1));
        assert_eq!(first(&other), first(&spec(7, 32, 8)));
        assert_ne!(first(&other), first(&spec(42, 32, 8)));
    }

    #[test]
    fn lanes_are_balanced_by_tokens() {
        let lengths: Vec<u32> = (0..32).map(|row| 10 + row * 3).collect();
        let mut plan = Plan::new(&spec(1, 32, 8), lengths.clone());
        let tokens: Vec<u32> = plan
            .update(Update(1))
            .lanes
            .iter()
            .map(|lane| lane.iter().map(|row| lengths[row.0 as usize]).sum())
            .collect();
        let (least, most) = (tokens.iter().min().unwrap(), tokens.iter().max().unwrap());
        assert!(most - least <= 20, "{tokens:?}");
    }

    proptest! {
        /// INV-1: in an epoch each row enters exactly one update.
        #[test]
        fn every_row_once_an_epoch(
            seed: u64, rows in 1usize..200, batch in 1u32..40, lanes in 1u32..12, epoch in 0u64..3,
        ) {
            let mut plan = Plan::new(&spec(seed, batch, lanes), (0..rows as u32).map(|row| 3 + row % 17).collect());
            let updates = plan.updates_per_epoch();
            let mut seen = vec![0; rows];
            for index in 0..updates {
                let update = plan.update(Update(epoch * updates + index + 1));
                prop_assert_eq!(update.lanes.len(), lanes as usize);
                prop_assert!(update.rows() >= 1 && update.rows() <= batch);
                update.lanes.iter().flatten().for_each(|row| seen[row.0 as usize] += 1);
            }
            prop_assert!(seen.iter().all(|count| *count == 1));
        }

        #[test]
        fn evaluation_shards_tile_the_split(lengths in prop::collection::vec(1u32..60, 0..80), world in 1u32..9) {
            let shards = evaluation_shards(&lengths, world);
            prop_assert_eq!(shards.len(), world as usize);
            prop_assert_eq!(shards[0].start, 0);
            prop_assert_eq!(shards[shards.len() - 1].end, lengths.len() as u32);
            prop_assert!(shards.windows(2).all(|pair| pair[0].end == pair[1].start));
        }
    }
}
