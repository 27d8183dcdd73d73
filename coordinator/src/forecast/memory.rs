//! What a worker asks of memory, estimated from the shapes of what it keeps.
//!
//! The sizes are those of the buffers in `worker/src/model`, by name. Against the peak that Linux counted (`VmHWM`) of 9 CPU
//! workers, of a tiny model and of one of MiniLM's shape with 1 to 3 workers, it was 13 % too low to 11 % too high; on GPUs
//! it was never compared. `tests/suite/plan.rs` compares it with a worker of the tiny model.

use medley_common::lane::LaneTree;
use medley_common::model::ModelConfig;
use medley_common::spec::{Precision, Summation};
use serde::Serialize;

use crate::spec::{Bound, Device};

/// Bytes of a `float32`.
const F32: u64 = 4;
/// A process that has computed nothing: its program and threads, as measured (x86-64, Linux).
const PROGRAM_BYTES: u64 = 12 << 20;
/// Scratch of a matrix product and a stack, for each thread, as measured.
const THREAD_BYTES: u64 = 2 << 20;
/// Tokens that are predicted in one pass at most, unless a row is longer; rows that are reported at once.
const PREDICTED_TOKENS: u64 = 4096;
const PREDICTED_ROWS: usize = 96;
/// Tokens of a block: the unit of sums over rows.
const BLOCK_TOKENS: u64 = 32;

/// What an update asks of a worker: the most of any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Load {
    /// Rows and tokens of all its lanes.
    pub rows: u64,
    pub tokens: u64,
    /// Rows and tokens of its heaviest lane.
    pub lane_rows: u64,
    pub lane_tokens: u64,
}

impl Load {
    pub(super) fn add_lane(&mut self, rows: u64, tokens: u64) {
        self.rows += rows;
        self.tokens += tokens;
        self.lane_rows = self.lane_rows.max(rows);
        self.lane_tokens = self.lane_tokens.max(tokens);
    }

    /// Buffers only grow: each is as large as the largest update needed it.
    pub(super) fn heavier(self, other: Self) -> Self {
        Self {
            rows: self.rows.max(other.rows),
            tokens: self.tokens.max(other.tokens),
            lane_rows: self.lane_rows.max(other.lane_rows),
            lane_tokens: self.lane_tokens.max(other.lane_tokens),
        }
    }
}

/// Bytes that a worker needs, by what for; estimates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All parameters; on GPUs in half precision, a copy in that as well.
    pub weights_bytes: u64,
    /// Gradients: the sums of its lanes, partial sums on their way, and what the others' come to; of a worker with a shard,
    /// what it sends of the parameters as well.
    pub gradients_bytes: u64,
    /// What the optimizer remembers: AdamW two moments, of all parameters or of a worker's shard.
    pub moments_bytes: u64,
    /// The copy of weights and moments that a save is made of; on the host.
    pub save_copy_bytes: u64,
    /// Activations of its longest update, and their gradients.
    pub activations_bytes: u64,
    /// Program, threads, and all rows as token ids.
    pub process_bytes: u64,
    /// All of that.
    pub total_bytes: u64,
}

/// What decides the memory of every worker of a run alike.
pub(super) struct Shape<'a> {
    pub model: &'a ModelConfig,
    pub bound: &'a Bound,
    /// Whether each worker keeps a shard of the optimizer's state.
    pub shards: bool,
    /// Rows of all splits, and their tokens.
    pub held: (u64, u64),
    /// The longest block of rows that are predicted at once, in tokens; 0 where nothing is.
    pub predicted: u64,
}

/// The tokens of the heaviest pass that predicts rows of these lengths.
pub(super) fn predicted_tokens(lengths: &[u64]) -> u64 {
    let longest = lengths.iter().copied().max().unwrap_or(0);
    let block = lengths.chunks(PREDICTED_ROWS).map(|block| block.iter().sum()).max().unwrap_or(0);
    block.min(PREDICTED_TOKENS.max(longest))
}

impl Shape<'_> {
    /// What worker `rank` needs for updates of at most `load`.
    pub(super) fn memory(&self, rank: u32, load: Load) -> Memory {
        let parameters = self.model.parameters();
        let (trains, narrow) = (self.bound.cadence.total_updates > 0, self.element_bytes() < F32);
        let remembered = self.bound.train.optimizer.kind.memory().len() as u64;
        // A group that changes has a checkpoint of its shards saved, whether or not others are asked for.
        let saved = if self.bound.cadence.checkpoints() > 0 || self.shards { 1 + remembered } else { 1 };
        let weights_bytes = parameters * if narrow { F32 + 2 } else { F32 };
        let holders = if self.shards { u64::from(self.bound.team.workers.max(1)) } else { 1 };
        // What a shard is sent to the others from.
        let sent = if self.shards && holders > 1 { F32 * parameters.div_ceil(holders) } else { 0 };
        let gradients_bytes = if trains { self.gradients(rank, load) + sent } else { 0 };
        let moments_bytes = if trains { remembered * F32 * parameters.div_ceil(holders) } else { 0 };
        let save_copy_bytes = if trains { saved * F32 * parameters } else { 0 };
        let activations_bytes = self.activations(load);
        let (rows, tokens) = self.held;
        let threads = u64::from(self.bound.team.threads) * THREAD_BYTES;
        // A row is a vector of ids, and what tells of it.
        let process_bytes = PROGRAM_BYTES + threads + 64 * rows + F32 * tokens;
        let parts = [weights_bytes, gradients_bytes, moments_bytes, save_copy_bytes, activations_bytes, process_bytes];
        let total_bytes = parts.iter().fold(0, |sum: u64, part| sum.saturating_add(*part));
        Memory {
            weights_bytes,
            gradients_bytes,
            moments_bytes,
            save_copy_bytes,
            activations_bytes,
            process_bytes,
            total_bytes,
        }
    }

    /// Bytes of an activation.
    fn element_bytes(&self) -> u64 {
        match (self.bound.team.device, self.bound.train.compute.precision) {
            (Device::Cuda, Precision::Float16 | Precision::Bfloat16) => 2,
            _ => F32,
        }
    }

    /// Tokens and rows of one pass: all lanes at once, but where a device can keep their sums apart in no other way.
    fn pass(&self, load: Load) -> (u64, u64) {
        match (self.bound.team.device, self.bound.train.compute.summation) {
            (Device::Cuda, Summation::ByLane) => (load.lane_tokens, load.lane_rows),
            _ => (load.tokens, load.rows),
        }
    }

    fn gradients(&self, rank: u32, load: Load) -> u64 {
        let model = self.model;
        let (hidden, inner) = (u64::from(model.hidden_size), u64::from(model.intermediate_size));
        let embedding = u64::from(model.embedding_size());
        let dense = model.parameters() - u64::from(model.vocab_size) * embedding;
        let words = load.tokens.min(u64::from(model.vocab_size)) * embedding;
        let tree = LaneTree::new(self.bound.train.lanes);
        let lanes = tree.assign(self.bound.team.workers).into_iter().nth(rank as usize).unwrap_or_default();
        let (nodes, levels) = match self.bound.train.compute.summation {
            Summation::ByLane => {
                let cover = tree.cover(lanes);
                (cover.len() as u64, cover.iter().map(|node| u64::from(node.level)).max().unwrap_or(0))
            }
            Summation::ByWorker => (1, 0),
        };
        // What all come to is a buffer of its own, where there are others.
        let copies = nodes + u64::from(self.bound.team.workers > 1);
        // The sum of a lane that is not added to its neighbour's yet: one for each level, of each length of tensor.
        let lengths = [hidden * hidden, 2 * hidden * hidden, hidden * inner];
        let waiting = levels * (lengths.iter().sum::<u64>() + u64::from(model.max_position_embeddings) * embedding);
        F32 * (copies * (dense + words) + waiting + words)
    }

    fn activations(&self, load: Load) -> u64 {
        let model = self.model;
        let (hidden, inner) = (u64::from(model.hidden_size), u64::from(model.intermediate_size));
        let layers = u64::from(model.num_hidden_layers);
        let (heads, element) = (u64::from(model.num_attention_heads), self.element_bytes());
        let kept_layers = if self.bound.train.compute.gradient_checkpointing { 1 } else { layers };
        // Of a layer: kv, q, context, z and y of attention, z of the feed-forward layer; u and a; the statistics.
        let layer = |tokens: u64, asking: u64| {
            let wide = 2 * hidden * tokens + (5 * hidden + 2 * inner) * asking;
            element * wide + F32 * (2 * heads + 4) * asking
        };
        let (tokens, rows) = self.pass(load);
        // Of the last layer only the first token of each row is computed. Where layers share what is kept of one, that is as
        // much as any needs, and the last one's queries have rows of their own.
        let mut kept = match (kept_layers, layers) {
            (1, 2..) => layer(tokens, tokens) + element * hidden * rows,
            _ => (kept_layers - 1) * layer(tokens, tokens) + layer(tokens, rows),
        };
        let mut hidden_states = element * (layers + 2) * hidden * tokens;
        let blocks = tokens / BLOCK_TOKENS + u64::from(self.bound.train.lanes);
        let gradients = element * (6 * hidden + inner) * tokens
            + F32 * blocks * inner.max(hidden * 3).max(hidden * u64::from(model.type_vocab_size + 2));
        let head = 3 * element * hidden * rows;
        // A prediction has the hidden states of two places, and the activations of one layer, of all its tokens.
        let predicted = self.predicted;
        let more = predicted.saturating_sub(tokens);
        kept += layer(more, more);
        hidden_states += 3 * element * hidden * more;
        if self.bound.cadence.total_updates == 0 {
            return layer(predicted, predicted) + 3 * element * hidden * predicted;
        }
        kept + hidden_states + gradients + head
    }
}
