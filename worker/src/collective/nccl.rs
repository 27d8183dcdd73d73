//! The collective of GPU workers: NCCL, beside a TCP mesh.
//!
//! Each segment's sum is one all-reduce on a stream of its own, which waits for the segment's gradient and for nothing
//! else, so sums go on while backward does. Every rank adds up its lanes before, and NCCL adds the ranks in an order of
//! its own: sums have the same bits on all ranks, but not for any number of them.
//!
//! The mesh carries the unique id from rank 0 to the others, under the group's secret, and then one empty exchange an
//! update: NCCL notices no peer's end within a machine, and never says whose it was; a closed connection does both.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::{CudaEvent, CudaStream, DriverError};
use medley_common::identity::Rank;
use medley_common::lane::{LaneTree, Node};
use medley_common::message::Form;
use medley_common::spec::GradientDtype;

use super::abort::AbortSwitch;
use super::topology::ranks;
use super::watchdog::Watchdog;
use super::{Alone, Collective, CollectiveError, Connect, Parts, SparseRows, Summed, Tcp, TcpSettings, cover};
use crate::layout::{Layout, Segment};
use crate::ops::cuda::device::Gpu;
use crate::ops::cuda::driver::Element;
use crate::ops::cuda::{Buffer, Cuda};
use crate::ops::{DeviceError, Ops};

mod communicator;

use communicator::{Communicator, TOKEN_BYTES, Wire};

type Memory = Buffer<cudarc::driver::CudaSlice<u8>>;

/// How long the group may take to come together, and a sum to be made.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a group that is aborted, or a sum whose patience is over, may still keep the engine's thread.
const GRACE: Duration = Duration::from_secs(2);
/// How long to sleep between two looks at a sum.
const PAUSE: Duration = Duration::from_micros(20);

/// Workers with GPUs come together by NCCL; one alone needs nobody.
#[must_use]
pub fn by_nccl(cuda: Cuda<Gpu>, dtype: GradientDtype) -> Connect<Memory> {
    Box::new(move |listener, form, layout, switch| {
        if form.peers.len() == 1 {
            return Ok(Box::new(Alone::default()));
        }
        let mesh = Tcp::connect(listener, form, layout, TcpSettings::default(), switch.clone())?;
        Ok(Box::new(Nccl::join(cuda.clone(), dtype, form, (layout, mesh, switch.clone()))?))
    })
}

/// Sums over NCCL.
#[derive(Debug)]
pub struct Nccl {
    cuda: Cuda<Gpu>,
    /// Before the mesh: peers see this rank's connections close only when NCCL is done.
    communicator: Communicator,
    mesh: Tcp,
    switch: AbortSwitch,
    /// Aborts the communicator where this thread cannot.
    watchdog: Watchdog,
    stream: Arc<CudaStream>,
    wire: Wire,
    /// Whether what is summed is a state, of which no bit may be lost.
    in_full: bool,
    lengths: Vec<(Segment, usize)>,
    vocabulary: usize,
    hidden: usize,
    /// Who sums with whom over what, in a line.
    topology: String,
    summed: Vec<Sum>,
    words: Option<Sum>,
}

/// A sum that is on its way.
#[derive(Debug)]
struct Sum {
    segment: Segment,
    gradient: Memory,
    /// What travels, where that is not the gradient itself.
    narrow: Option<Memory>,
}

impl Nccl {
    fn join(
        cuda: Cuda<Gpu>,
        dtype: GradientDtype,
        form: &Form,
        (layout, mut mesh, switch): (&Layout, Tcp, AbortSwitch),
    ) -> Result<Self, CollectiveError> {
        let table = layout.slots().first().map_or(&[][..], |slot| &slot.shape);
        let [vocabulary, hidden] = table else {
            return Err(CollectiveError::Invalid { problem: "the layout is empty".to_owned() });
        };
        let token = hand_round(&mut mesh, form, *hidden)?;
        let stopped = || switch.is_aborted().then_some(CollectiveError::Aborted);
        let communicator = Communicator::join(token, [mesh.rank().0, mesh.world()], PATIENCE, stopped)?;
        let aborter = communicator.aborter();
        let watchdog = Watchdog::new(switch.clone(), GRACE, move || aborter.abort())
            .map_err(|error| CollectiveError::Invalid { problem: format!("start a watchdog: {error}") })?;
        let stream = cuda.driver().stream().context().new_stream().map_err(cuda_failed)?;
        let wire = match dtype {
            GradientDtype::Float32 => Wire::Float32,
            GradientDtype::Bfloat16 => Wire::Bfloat16,
        };
        let lengths = layout.segments().iter().map(|(segment, range)| (*segment, range.len()));
        let lengths = lengths.chain([(Segment::Losses, lane_count(form) as usize)]).collect();
        let (vocabulary, hidden) = (*vocabulary, *hidden);
        let topology = topology(form, cuda.driver())?;
        let (in_full, summed, words) = (false, Vec::new(), None);
        Ok(Self {
            cuda,
            communicator,
            mesh,
            switch,
            watchdog,
            stream,
            wire,
            in_full,
            lengths,
            vocabulary,
            hidden,
            topology,
            summed,
            words,
        })
    }

    /// Begins the sum of a gradient as soon as the stream that computes it has come this far.
    fn begin(&mut self, segment: Segment, gradient: Memory, count: usize) -> Result<Sum, CollectiveError> {
        if self.summed.is_empty() {
            // Open until every rank has begun this update.
            self.mesh.launch_words(Vec::new())?;
            self.watchdog.expect(Some(PATIENCE + GRACE));
        }
        // Losses are reported as they are.
        let wire = if self.in_full || segment == Segment::Losses { Wire::Float32 } else { self.wire };
        let narrow = match wire {
            Wire::Float32 => None,
            Wire::Bfloat16 => Some(self.cuda.narrowed(&gradient, count, Element::Bf16).map_err(device_failed)?),
        };
        let address = self.cuda.address(narrow.as_ref().unwrap_or(&gradient), count).map_err(device_failed)?;
        let ready = self.cuda.driver().stream().record_event(None).map_err(cuda_failed)?;
        self.stream.wait(&ready).map_err(cuda_failed)?;
        // SAFETY: the sum is kept until the fence, which the computing stream waits for before it frees anything.
        unsafe { self.communicator.sum(address, count, wire, &self.stream) }?;
        Ok(Sum { segment, gradient, narrow })
    }

    /// Waits for the sums, looking after the peers meanwhile. What fails is aborted before it is reported.
    fn wait(&mut self, end: &CudaEvent) -> Result<(), CollectiveError> {
        let start = Instant::now();
        let failure = loop {
            match end.try_is_complete() {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => break cuda_failed(error),
            }
            if self.switch.is_aborted() {
                break CollectiveError::Aborted;
            }
            if let Some(error) = self.mesh.failed_meanwhile().or_else(|| self.communicator.failure()) {
                break error;
            }
            if start.elapsed() > PATIENCE {
                let (rank, seconds) = (self.mesh.rank(), PATIENCE.as_secs());
                let problem = format!("NCCL, rank {rank}: sum gradients: nothing for {seconds} s");
                break CollectiveError::Invalid { problem };
            }
            std::thread::sleep(PAUSE);
        };
        self.communicator.abort();
        Err(failure)
    }

    fn finish(&self, sum: Sum, count: usize) -> Result<(Segment, Memory), CollectiveError> {
        let Sum { segment, gradient, narrow } = sum;
        if let Some(narrow) = narrow {
            self.cuda.widen(&narrow, &gradient, count, Element::Bf16).map_err(device_failed)?;
        }
        Ok((segment, gradient))
    }

    fn length(&self, segment: Segment) -> usize {
        self.lengths.iter().find(|(known, _)| *known == segment).map_or(0, |(_, length)| *length)
    }
}

impl Collective<Memory> for Nccl {
    fn rank(&self) -> Rank {
        self.mesh.rank()
    }

    fn world(&self) -> u32 {
        self.mesh.world()
    }

    fn describe(&self) -> Option<String> {
        Some(self.topology.clone())
    }

    fn sum_in_full(&mut self, in_full: bool) {
        self.in_full = in_full;
    }

    fn launch(&mut self, segment: Segment, sums: Vec<(Node, Memory)>) -> Result<(), CollectiveError> {
        let count = self.length(segment);
        let gradient = match only(sums)? {
            Some(gradient) => gradient,
            None => self.cuda.zeros(count).map_err(device_failed)?,
        };
        let sum = self.begin(segment, gradient, count)?;
        self.summed.push(sum);
        Ok(())
    }

    /// As a whole matrix: which rows the others touch is not known here, and the rows of a large batch are most of it.
    fn launch_words(&mut self, sums: Vec<(Node, SparseRows<Memory>)>) -> Result<(), CollectiveError> {
        let count = self.vocabulary * self.hidden;
        let dense = self.cuda.zeros(count).map_err(device_failed)?;
        if let Some(rows) = only(sums)? {
            self.cuda.scatter_rows(&rows, &dense, self.hidden).map_err(device_failed)?;
        }
        self.words = Some(self.begin(Segment::Words, dense, count)?);
        Ok(())
    }

    fn fence(&mut self) -> Result<Summed<Memory>, CollectiveError> {
        let end = self.stream.record_event(None).map_err(cuda_failed)?;
        self.wait(&end)?;
        self.watchdog.expect(None);
        self.cuda.driver().stream().wait(&end).map_err(cuda_failed)?;
        // All have begun this update, so their parts of the empty exchange are on their way.
        self.mesh.fence()?;
        let mut summed = Summed::default();
        for sum in std::mem::take(&mut self.summed) {
            let count = self.length(sum.segment);
            summed.segments.push(self.finish(sum, count)?);
        }
        if let Some(words) = self.words.take() {
            let (_, values) = self.finish(words, self.vocabulary * self.hidden)?;
            let rows = (0..u32::try_from(self.vocabulary).unwrap_or(u32::MAX)).collect();
            summed.words = SparseRows { rows, values };
        }
        Ok(summed)
    }

    fn reuse(&mut self, sums: Vec<Memory>) -> Vec<Memory> {
        sums
    }

    /// What NCCL was adding up in place is no rank's own any more.
    fn salvage(&mut self) -> Parts<Memory> {
        Parts::default()
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // Sums that nobody waited for may never end.
        if self.switch.is_aborted() || !self.summed.is_empty() || self.words.is_some() {
            self.communicator.abort();
        }
    }
}

/// A unique id from rank 0: the sum of rows that one rank alone has is what that rank has.
fn hand_round(mesh: &mut Tcp, form: &Form, hidden: usize) -> Result<[u8; TOKEN_BYTES], CollectiveError> {
    let mut mine = Vec::new();
    if mesh.rank() == Rank(0) {
        let mut values: Vec<f32> = communicator::token()?.iter().map(|byte| f32::from(*byte)).collect();
        let rows = TOKEN_BYTES.div_ceil(hidden.max(1));
        values.resize(rows * hidden, 0.0);
        let lanes = form.lanes.first().map_or(&[][..], |lanes| lanes);
        let node = cover(LaneTree::new(lane_count(form)), lanes).into_iter().next();
        let rows = (0..u32::try_from(rows).unwrap_or(0)).collect();
        mine.extend(node.map(|node| (node, SparseRows { rows, values })));
    }
    mesh.launch_words(mine)?;
    let words = mesh.fence()?.words.values;
    let token: Vec<u8> = words.iter().take(TOKEN_BYTES).map(|value| *value as u8).collect();
    token.try_into().map_err(|_| CollectiveError::Invalid { problem: "rank 0 sent no unique id".to_owned() })
}

/// The ranks, the versions, and how this rank's machine connects its GPUs, as far as CUDA tells: NCCL alone knows what it
/// makes of that, and says so with `NCCL_DEBUG=INFO`.
fn topology(form: &Form, gpu: &Gpu) -> Result<String, CollectiveError> {
    let version = communicator::version()?;
    let (major, minor, patch) = (version / 10_000, version % 10_000 / 100, version % 100);
    let mut set: Vec<String> = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect();
    set.retain(|name| name.starts_with("NCCL_"));
    set.sort_unstable();
    let set = if set.is_empty() { String::new() } else { format!("; {} set", set.join(", ")) };
    let (ranks, gpu) = (ranks(&form.peers), gpu.surroundings().map_err(device_failed)?);
    Ok(format!("{ranks} over NCCL {major}.{minor}.{patch}, {gpu}{set}"))
}

/// Lanes of all ranks.
fn lane_count(form: &Form) -> u32 {
    form.lanes.iter().flatten().map(|run| run.end).max().unwrap_or(0)
}

/// A rank's only sum; none where it has no rows.
fn only<T>(mut sums: Vec<(Node, T)>) -> Result<Option<T>, CollectiveError> {
    match sums.len() {
        0 | 1 => Ok(sums.pop().map(|(_, sum)| sum)),
        nodes => Err(CollectiveError::Invalid { problem: format!("a GPU's rank was handed {nodes} sums, not one") }),
    }
}

fn device_failed(error: DeviceError) -> CollectiveError {
    match error {
        DeviceError::OutOfMemory { shortage } => CollectiveError::OutOfMemory { problem: shortage.to_string() },
        DeviceError::Failed { .. } => CollectiveError::Invalid { problem: error.to_string() },
    }
}

fn cuda_failed(error: DriverError) -> CollectiveError {
    CollectiveError::Invalid { problem: format!("sum gradients: {error}") }
}
