//! Groups of threads on this machine, for tests.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use medley_common::identity::{Generation, Rank, Update};
use medley_common::lane::{LaneTree, Node};
use medley_common::message::Form;
use medley_common::model::{Family, ModelConfig};
use medley_common::secret::Secret;
use medley_common::spec::Summation;

use super::{AbortSwitch, CollectiveError, Listener, Tcp, TcpSettings};
use crate::layout::{Layout, Segment};

pub(super) const SECRET: Secret = Secret([7; 32]);
/// One that no group has.
pub(super) const WRONG_SECRET: Secret = Secret([8; 32]);

pub(super) const SETTINGS: TcpSettings = TcpSettings {
    connect_timeout: Duration::from_secs(30),
    silence_timeout: Duration::from_secs(30),
    doubt_after: Duration::from_secs(30),
    chunk_elements: 37,
    summation: Summation::ByLane,
    shared_memory: false,
};

/// What does not depend on what carries the bytes, once for each.
pub(super) const BOTH: [TcpSettings; 2] = [SETTINGS, TcpSettings { shared_memory: true, ..SETTINGS }];

/// Segments of some hundred elements; 53 words of 12.
pub(super) fn layout() -> Layout {
    Layout::new(&ModelConfig {
        family: Family::Bert,
        vocab_size: 53,
        hidden_size: 12,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 20,
        max_position_embeddings: 9,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout: 0.0,
        attention_dropout: 0.0,
        classifier_dropout: 0.0,
        initializer_range: 0.02,
        num_labels: 3,
    })
}

/// A buffer for the head, of ones.
pub(super) fn head() -> Vec<f32> {
    vec![1.0; layout().range(Segment::Head).len()]
}

/// The node of one lane.
pub(super) fn lane(index: u32) -> Node {
    Node { level: 0, index }
}

pub(super) fn listener() -> Listener {
    Listener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap()
}

/// The place of each listener's rank in a group with these lanes.
pub(super) fn forms(listeners: &[Listener], generation: u64, lanes: &[Range<u32>]) -> Vec<Form> {
    let form = |rank| Form {
        generation: Generation(generation),
        rank: Rank(rank as u32),
        peers: listeners.iter().map(Listener::endpoint).collect(),
        secret: SECRET,
        lanes: lanes.iter().map(|run| if run.is_empty() { Vec::new() } else { vec![run.clone()] }).collect(),
        update: Update(0),
        line: Generation(0),
        source: None,
    };
    (0..listeners.len()).map(form).collect()
}

pub(super) fn join(listener: &Listener, form: &Form, settings: TcpSettings) -> Result<Tcp, CollectiveError> {
    Tcp::connect(listener, form, &layout(), settings, AbortSwitch::new().unwrap())
}

/// Runs `work` as every rank of a group with these lanes, each in a thread of its own.
pub(super) fn run<T: Send>(
    lanes: &[Range<u32>],
    settings: TcpSettings,
    work: impl Fn(usize, Tcp) -> T + Sync,
) -> Vec<T> {
    let listeners: Vec<Listener> = lanes.iter().map(|_| listener()).collect();
    let forms = forms(&listeners, 3, lanes);
    std::thread::scope(|scope| {
        let ranks: Vec<_> = listeners.iter().zip(&forms).enumerate().collect();
        let threads: Vec<_> = ranks
            .into_iter()
            .map(|(rank, (listener, form))| {
                let work = &work;
                scope.spawn(move || work(rank, join(listener, form, settings).unwrap()))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

pub(super) fn split(lanes: u32, world: u32) -> Vec<Range<u32>> {
    LaneTree::new(lanes).assign(world)
}
