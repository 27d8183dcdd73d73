//! What the trainer is tested with: a tiny BERT with what `transformers` computes with it, and a group of ranks within
//! one process.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use medley_common::example::Example;
use medley_common::identity::{Rank, RowId, Update};
use medley_common::lane::{LaneTree, Node};
use medley_common::message::{Lanes, UpdateReport};
use medley_common::model::{Family, ModelConfig};
use medley_common::plan::UpdatePlan;
use medley_common::schedule::{Decay, LrSchedule};
use medley_common::spec::{ComputeSpec, OptimizerKind, OptimizerSpec, TrainSpec, TuningSpec};

use super::{StepError, Trainer};
use crate::collective::{Collective, CollectiveError, Shard, SparseRows, Summed, Sums, Traffic};
use crate::layout::{Layout, Segment, shard};
use crate::ops::cpu::Cpu;

pub(super) fn path(name: &str) -> PathBuf {
    fixtures().join("tiny-bert").join(name)
}

pub(super) fn fixtures() -> PathBuf {
    // As it is when the test runs: it may have been built elsewhere.
    let worker = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(worker).join("../tests/fixtures")
}

pub(super) fn json(name: &str) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
}

pub(super) fn config() -> ModelConfig {
    let json = json("model/config.json");
    let size = |name: &str| json[name].as_u64().unwrap() as u32;
    ModelConfig {
        family: Family::Bert,
        vocab_size: size("vocab_size"),
        hidden_size: size("hidden_size"),
        num_hidden_layers: size("num_hidden_layers"),
        num_attention_heads: size("num_attention_heads"),
        intermediate_size: size("intermediate_size"),
        max_position_embeddings: size("max_position_embeddings"),
        type_vocab_size: size("type_vocab_size"),
        layer_norm_eps: json["layer_norm_eps"].as_f64().unwrap(),
        hidden_dropout: 0.0,
        attention_dropout: 0.0,
        classifier_dropout: 0.0,
        initializer_range: 0.02,
        num_labels: 3,
    }
}

/// The tensors of a safetensors file, flat in the order of the layout.
pub(super) fn flat(layout: &Layout, file: &str) -> Vec<f32> {
    flat_at(layout, &path(file))
}

pub(super) fn flat_at(layout: &Layout, file: &Path) -> Vec<f32> {
    let tensors = candle_core::safetensors::load(file, &candle_core::Device::Cpu).unwrap();
    assert_eq!(tensors.len(), layout.slots().len());
    let values = |name: &String| tensors[name].flatten_all().unwrap().to_vec1::<f32>().unwrap();
    layout.slots().iter().flat_map(|slot| values(&slot.name)).collect()
}

/// Values without a pattern, for models of which no weights exist.
pub(super) fn random_parameters(layout: &Layout) -> Vec<f32> {
    let hash = |i: usize| medley_common::plan::mix(i as u64);
    let value = |i: usize| (hash(i) >> 40) as f32 / (1 << 23) as f32 - 1.0;
    let mut parameters: Vec<f32> = (0..layout.len()).map(|i| 0.1 * value(i)).collect();
    for slot in layout.slots().iter().filter(|slot| slot.name.ends_with("LayerNorm.weight")) {
        parameters[slot.range.clone()].iter_mut().for_each(|gamma| *gamma += 1.0);
    }
    parameters
}

/// All rows of the fixture, at most 128 tokens long.
pub(super) fn examples() -> Vec<Example> {
    let mut tokenizer = tokenizers::Tokenizer::from_file(path("model/tokenizer.json")).unwrap();
    let truncation = tokenizers::TruncationParams { max_length: 128, ..tokenizers::TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).unwrap();
    tokenizer.with_padding(None);
    let text = std::fs::read_to_string(path("rows.jsonl")).unwrap();
    let example = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let sentence = |name: &str| row[name].as_str().unwrap().to_owned();
        let encoding = tokenizer.encode((sentence("sentence1"), sentence("sentence2")), true).unwrap();
        let first_segment = encoding.get_type_ids().iter().filter(|kind| **kind == 0).count() as u32;
        let names = ["entailment", "neutral", "contradiction"];
        let label = names.iter().position(|name| *name == sentence("gold_label")).map(|label| label as u32);
        Example { tokens: encoding.get_ids().to_vec(), first_segment, label }
    };
    text.lines().map(example).collect()
}

pub(super) fn spec(kind: OptimizerKind, lanes: u32) -> TrainSpec {
    TrainSpec {
        seed: 42,
        data_seed: None,
        rows_per_update: 8,
        lanes,
        schedule: LrSchedule { decay: Decay::linear(), peak: 2e-3, warmup_updates: 10, total_updates: 20 },
        optimizer: OptimizerSpec {
            kind,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            max_grad_norm: Some(1.0),
        },
        tuning: TuningSpec::default(),
        label_smoothing: 0.0,
        class_weights: Vec::new(),
        compute: ComputeSpec::default(),
    }
}

/// An update of `rows`, spread over `lanes` lanes in order; lanes stay empty where there are more lanes than rows.
pub(super) fn plan(update: u64, rows: Range<u32>, lanes: u32) -> UpdatePlan {
    let bound = |lane: u32| rows.start + (rows.end - rows.start) * lane / lanes;
    let lanes = (0..lanes).map(|lane| (bound(lane)..bound(lane + 1)).map(RowId).collect()).collect();
    UpdatePlan { update: Update(update), lanes }
}

pub(super) fn trainer(config: &ModelConfig, spec: TrainSpec) -> Trainer {
    let layout = Layout::new(config);
    let parameters =
        if config.vocab_size == 2000 { flat(&layout, "model/model.safetensors") } else { random_parameters(&layout) };
    Trainer::new(Cpu, config.clone(), spec, parameters).unwrap()
}

/// What a rank hands over in one update.
#[derive(Default)]
struct Parts {
    dense: BTreeMap<(Segment, Node), Vec<f32>>,
    words: BTreeMap<Node, SparseRows>,
    launched: Vec<Segment>,
}

type Peer = (Sender<Arc<Parts>>, Receiver<Arc<Parts>>);

/// A rank of a group whose members are threads of this process.
pub(super) struct Member {
    rank: u32,
    tree: LaneTree,
    parts: Parts,
    peers: Vec<Peer>,
    /// The sums of the last update.
    pub(super) segments: Vec<(Segment, Vec<f32>)>,
    pub(super) words: SparseRows,
    sums: Sums,
}

/// A group of `world` ranks that sums `lanes` lanes.
pub(super) fn group(world: u32, lanes: u32) -> Vec<Member> {
    let mut ends: Vec<Vec<Peer>> = (0..world).map(|_| Vec::new()).collect();
    for left in 0..world as usize {
        for right in 0..left {
            let ((to_left, from_right), (to_right, from_left)) = (channel(), channel());
            ends[left].push((to_right, from_right));
            ends[right].push((to_left, from_left));
        }
    }
    let tree = LaneTree::new(lanes);
    let member = |(rank, peers)| Member {
        rank,
        tree,
        parts: Parts::default(),
        peers,
        segments: Vec::new(),
        words: SparseRows::default(),
        sums: Sums::default(),
    };
    (0..).zip(ends).map(member).collect()
}

/// The sum below `node` of what is known of the nodes.
fn total<T: Clone>(tree: LaneTree, node: Node, known: &BTreeMap<Node, T>, add: &dyn Fn(T, T) -> T) -> Option<T> {
    if let Some(sum) = known.get(&node) {
        return Some(sum.clone());
    }
    let (left, right) = tree.children(node)?;
    let right = right.and_then(|right| total(tree, right, known, add));
    match (total(tree, left, known, add), right) {
        (Some(left), Some(right)) => Some(add(left, right)),
        (left, right) => left.or(right),
    }
}

impl Collective for Member {
    fn rank(&self) -> Rank {
        Rank(self.rank)
    }

    fn world(&self) -> u32 {
        self.peers.len() as u32 + 1
    }

    fn launch(&mut self, segment: Segment, sums: Vec<(Node, Vec<f32>)>) -> Result<(), CollectiveError> {
        self.parts.launched.push(segment);
        self.parts.dense.extend(sums.into_iter().map(|(node, sum)| ((segment, node), sum)));
        Ok(())
    }

    fn launch_words(&mut self, sums: Vec<(Node, SparseRows)>) -> Result<(), CollectiveError> {
        self.parts.words.extend(sums);
        Ok(())
    }

    fn sums(&mut self, sums: Sums) {
        self.sums = sums;
    }

    /// Every rank hands over its shard as a segment's sum.
    fn all_gather(&mut self, buffer: &mut Vec<f32>, shards: &[Shard]) -> Result<Traffic, CollectiveError> {
        let rank = |rank: u32| (Segment::Losses, Node { level: 0, index: rank });
        let own = shards[self.rank as usize].iter().flat_map(|run| &buffer[run.clone()]).copied().collect();
        let parts = Arc::new(Parts { dense: BTreeMap::from([(rank(self.rank), own)]), ..Parts::default() });
        for (peer, _) in &self.peers {
            peer.send(parts.clone()).map_err(|_| CollectiveError::Aborted)?;
        }
        for (_, peer) in &self.peers {
            for ((_, node), shard) in &peer.recv().map_err(|_| CollectiveError::Aborted)?.dense {
                let places = shards[node.index as usize].iter().cloned().flatten();
                places.zip(shard).for_each(|(place, value)| buffer[place] = *value);
            }
        }
        Ok(Traffic::default())
    }

    fn reuse(&mut self, sums: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
        sums
    }

    fn salvage(&mut self) -> crate::collective::Parts {
        crate::collective::Parts::default()
    }

    fn fence(&mut self) -> Result<Summed, CollectiveError> {
        let own = Arc::new(std::mem::take(&mut self.parts));
        let mut all = vec![own.clone()];
        for (peer, _) in &self.peers {
            peer.send(own.clone()).map_err(|_| CollectiveError::Aborted)?;
        }
        for (_, peer) in &self.peers {
            all.push(peer.recv().map_err(|_| CollectiveError::Aborted)?);
        }
        let add = |left: Vec<f32>, right: Vec<f32>| left.iter().zip(&right).map(|(left, right)| left + right).collect();
        let root = self.tree.root();
        self.segments = Vec::new();
        for segment in &own.launched {
            let dense = all.iter().flat_map(|parts| &parts.dense).filter(|((known, _), _)| known == segment);
            let known = dense.map(|((_, node), sum)| (*node, sum.clone())).collect();
            let mut sum = total(self.tree, root, &known, &add).unwrap();
            if let (Sums::Shards(piece), true) = (self.sums, *segment != Segment::Losses) {
                let own = shard(sum.len(), self.rank, self.world(), piece);
                let others = sum.iter_mut().enumerate().filter(|(place, _)| !own.contains(place));
                others.for_each(|(_, element)| *element = f32::NAN);
            }
            self.segments.push((*segment, sum));
        }
        let known = all.iter().flat_map(|parts| parts.words.clone()).collect();
        self.words = total(self.tree, root, &known, &|left, right| left.plus(&right)).unwrap_or_default();
        Ok(Summed { segments: self.segments.clone(), words: self.words.clone(), ..Summed::default() })
    }
}

/// Makes the updates of `plans` with `world` ranks of `threads` threads each; the first rank's trainer and reports.
pub(super) fn train(
    make: &(dyn Fn() -> Trainer + Sync),
    plans: &[UpdatePlan],
    size: (u32, usize),
) -> (Trainer, Vec<UpdateReport>) {
    train_on(&examples(), make, plans, size)
}

/// The same with rows of one's own.
pub(super) fn train_on(
    examples: &[Example],
    make: &(dyn Fn() -> Trainer + Sync),
    plans: &[UpdatePlan],
    (world, threads): (u32, usize),
) -> (Trainer, Vec<UpdateReport>) {
    let lanes = plans[0].lanes.len() as u32;
    let shares = LaneTree::new(lanes).assign(world);
    let run = |mut member: Member, share: Range<u32>| {
        let share: Lanes = Some(share).into_iter().filter(|run| !run.is_empty()).collect();
        let mut trainer = make();
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let reports: Result<Vec<_>, StepError> =
            pool.install(|| plans.iter().map(|plan| trainer.step(plan, &share, examples, &mut member)).collect());
        (trainer, reports.unwrap())
    };
    std::thread::scope(|scope| {
        let ranks = group(world, lanes).into_iter().zip(shares);
        let ranks: Vec<_> = ranks.map(|(member, share)| scope.spawn(|| run(member, share))).collect();
        let mut done: Vec<_> = ranks.into_iter().map(|rank| rank.join().unwrap()).collect();
        for (trainer, reports) in &done[1..] {
            assert!(trainer.parameters().unwrap() == done[0].0.parameters().unwrap(), "ranks differ (INV-3)");
            assert!(reports.iter().zip(&done[0].1).all(|(one, other)| one.grad_norm == other.grad_norm));
        }
        done.swap_remove(0)
    })
}
