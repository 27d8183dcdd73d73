//! Ranks that sum gradients through shared memory or over the loopback interface, as threads of one process.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use medley_common::identity::{Generation, Rank, Update};
use medley_common::lane::LaneTree;
use medley_common::message::Form;
use medley_common::model::{Family, ModelConfig};
use medley_common::secret::Secret;
use medley_worker::collective::{AbortSwitch, Collective, Listener, Tcp, TcpSettings};
use medley_worker::layout::{Layout, Segment};

/// What is summed.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Number of ranks.
    pub ranks: u32,
    /// Gradients of each rank, in MB, in layers of MiniLM's size (7.1 MB).
    pub megabytes: u32,
    /// Sums that are timed, after one that is not.
    pub rounds: u32,
    /// Elements that travel and are added at a time.
    pub chunk_elements: usize,
    /// Whether they travel through shared memory.
    pub shared_memory: bool,
}

impl Work {
    /// Bytes of each rank's gradients.
    pub fn bytes(&self) -> usize {
        4 * dense(&layout(self.megabytes)).map(|(_, length)| length).sum::<usize>()
    }

    /// The time of each sum, as rank 0 sees it.
    pub fn times(&self) -> Result<Vec<Duration>> {
        let layout = layout(self.megabytes);
        let listeners = (0..self.ranks)
            .map(|_| Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))))
            .collect::<Result<Vec<_>, _>>()?;
        let peers: Vec<String> = listeners.iter().map(Listener::endpoint).collect();
        std::thread::scope(|scope| {
            let threads: Vec<_> = listeners
                .iter()
                .zip(0..)
                .map(|(listener, rank)| {
                    let lanes = LaneTree::new(self.ranks).assign(self.ranks);
                    let form = Form {
                        generation: Generation(1),
                        rank: Rank(rank),
                        peers: peers.clone(),
                        secret: Secret([1; 32]),
                        lanes: lanes.into_iter().map(|run| vec![run]).collect(),
                        update: Update(0),
                        line: Generation(0),
                        source: None,
                    };
                    let layout = &layout;
                    scope.spawn(move || sum(listener, &form, layout, self))
                })
                .collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, Result<Vec<Duration>>>| {
                thread.join().ok().context("a rank panicked")?
            };
            let times = threads.into_iter().map(join).collect::<Result<Vec<_>>>()?;
            times.into_iter().next().context("no ranks")
        })
    }
}

/// Joins the group and sums; the time of each round.
fn sum(listener: &Listener, form: &Form, layout: &Layout, work: &Work) -> Result<Vec<Duration>> {
    let Work { chunk_elements, shared_memory, .. } = *work;
    let settings = TcpSettings { chunk_elements, shared_memory, ..TcpSettings::default() };
    let mut tcp = Tcp::connect(listener, form, layout, settings, AbortSwitch::new()?)?;
    let lanes = form.lanes[form.rank.0 as usize][0].clone();
    let node = LaneTree::new(work.ranks).cover(lanes)[0];
    let mut buffers: Vec<Vec<f32>> = dense(layout).map(|(_, length)| vec![1.0; length]).collect();
    let mut times = Vec::new();
    for round in 0..=work.rounds {
        let started = Instant::now();
        for ((segment, _), buffer) in dense(layout).zip(buffers.drain(..)) {
            tcp.launch(segment, vec![(node, buffer)])?;
        }
        let summed = tcp.fence()?;
        if round > 0 {
            times.push(started.elapsed());
        }
        buffers.extend(tcp.reuse(summed.segments.into_iter().map(|(_, buffer)| buffer).collect()));
        buffers.extend(summed.spare.into_iter().map(|(_, buffer)| buffer));
        buffers.iter_mut().for_each(|buffer| buffer.fill(1.0));
    }
    Ok(times)
}

/// The encoder layers, last to first, as backward finishes them.
fn dense(layout: &Layout) -> impl Iterator<Item = (Segment, usize)> {
    let layers = layout.segments().iter().rev().filter(|(segment, _)| matches!(segment, Segment::Layer(_)));
    layers.map(|(segment, range)| (*segment, range.len()))
}

fn layout(megabytes: u32) -> Layout {
    let config = ModelConfig {
        family: Family::Bert,
        vocab_size: 1000,
        hidden_size: 384,
        num_hidden_layers: 1,
        num_attention_heads: 12,
        intermediate_size: 1536,
        max_position_embeddings: 512,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout: 0.1,
        attention_dropout: 0.1,
        classifier_dropout: 0.1,
        initializer_range: 0.02,
        num_labels: 3,
    };
    let layer_bytes = 4 * Layout::new(&config).range(Segment::Layer(0)).len();
    let layers = (megabytes as f64 * 1e6 / layer_bytes as f64).round().max(1.0) as u32;
    Layout::new(&ModelConfig { num_hidden_layers: layers, ..config })
}
