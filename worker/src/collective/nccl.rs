//! The collectives of GPU workers: NCCL, beside a TCP mesh.
//!
//! Each segment's sum goes on a stream of its own, which waits for the segment's gradient and for nothing else, so sums go
//! on while backward does. There are two ways to sum. [`AllReduce`]: every rank adds up its lanes before, and NCCL adds the
//! ranks in an order of its own, so sums have the same bits on all ranks, but not for any number of them.
//! [`LaneExchange`]: NCCL moves the nodes of the lane tree, and each rank adds its share of them in the tree's order.
//!
//! NCCL's unique id goes from rank 0 to the others as the group's token, through the coordinator. The mesh is there before,
//! so NCCL is never started with a rank that cannot be called, and carries one or two small exchanges an update: NCCL
//! notices no peer's end within a machine, and never says whose it was; a closed connection does both.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaEvent, CudaStream, DriverError};
use medley_common::identity::Rank;
use medley_common::message::{Form, Token};
use medley_common::spec::{ComputeSpec, GradientDtype, Summation};

use super::abort::AbortSwitch;
use super::lane_exchange::LaneExchange;
use super::patience::Patience;
use super::topology::{adapters, line};
use super::watchdog::Watchdog;
use super::{Collective, CollectiveError, Connect, Rendezvous, Solo, Tcp, TcpSettings, device_failed};
use crate::nccl_log;
use crate::ops::Ops as _;
use crate::ops::cuda::device::Gpu;
use crate::ops::cuda::{Buffer, Cuda};

mod all_reduce;
mod communicator;
mod library;
mod transport;

use all_reduce::AllReduce;
use communicator::{Communicator, Message, Wire};
use library::UniqueId;

type Memory = Buffer<cudarc::driver::CudaSlice<u8>>;

/// How long the group may take to come together, once all can be called.
const JOINING: Duration = Duration::from_secs(60);
/// How long a group that is aborted, or a sum whose time is over, may still keep the engine's thread.
const GRACE: Duration = Duration::from_secs(2);

/// Workers with GPUs come together by NCCL; one alone needs nobody.
///
/// # Errors
/// NCCL is too old.
pub fn by_nccl(cuda: Cuda<Gpu>, lanes: u32, compute: ComputeSpec) -> Result<Connect<Memory>, CollectiveError> {
    library::check_version()?;
    Ok(Box::new(move |listener, form, layout, rendezvous| {
        let ComputeSpec { gradient_dtype, summation, .. } = compute;
        if (summation, gradient_dtype) == (Summation::ByLane, GradientDtype::Bfloat16) {
            let problem = "sums lane by lane travel in float32: --gradient_dtype bfloat16 needs --reproducible off";
            return Err(CollectiveError::Invalid { problem: problem.to_owned() });
        }
        if form.peers.len() == 1 {
            return Ok(Box::new(Solo::new(cuda.clone(), layout, lanes)));
        }
        // What it carries is little.
        let settings = TcpSettings { shared_memory: false, ..TcpSettings::default() };
        let mesh = Tcp::connect(listener, form, layout, settings, rendezvous.switch.clone())?;
        let group = Arc::clone(mesh.group());
        // Of each kind of sums, the longest one, words among them: by that NCCL chooses.
        let longest = match summation {
            Summation::ByLane => None,
            Summation::ByWorker => group.lengths.values().copied().chain([group.vocabulary * group.hidden]).max(),
        };
        let mut nccl = Nccl::join(cuda.clone(), mesh, rendezvous)?;
        nccl.connect(form, longest)?;
        nccl.allow(settings.silence_timeout);
        let collective: Box<dyn Collective<Memory>> = match summation {
            Summation::ByLane => {
                let adding = cuda.on(cuda.driver().on(nccl.stream.clone()));
                Box::new(LaneExchange::new(group, nccl, [cuda.clone(), adding]))
            }
            Summation::ByWorker => Box::new(AllReduce::new(group, nccl, gradient_dtype)),
        };
        Ok(collective)
    }))
}

/// A rank of a group that NCCL connects.
#[derive(Debug)]
struct Nccl {
    cuda: Cuda<Gpu>,
    /// Before the mesh: peers see this rank's connections close only when NCCL is done.
    communicator: Communicator,
    mesh: Tcp,
    switch: AbortSwitch,
    /// Aborts the communicator where this thread cannot.
    watchdog: Watchdog,
    /// What NCCL enqueues, and what is added in between.
    stream: Arc<CudaStream>,
    /// How long a sum may take: as long as over TCP. Who has died is known long before; this is for a peer that lives and
    /// does not compute, and one that is slow must not be taken for it.
    silence: Duration,
    /// So much NCCL's log had said before this group.
    told: usize,
    /// Who sums with whom over what, in a line.
    topology: String,
    /// Whether sums are on their way that nobody has waited for.
    is_open: bool,
}

impl Nccl {
    fn join(cuda: Cuda<Gpu>, mut mesh: Tcp, rendezvous: &Rendezvous<'_>) -> Result<Self, CollectiveError> {
        let switch = rendezvous.switch.clone();
        let id = unique_id(&mut mesh, rendezvous)?;
        let stopped = || switch.is_aborted().then_some(CollectiveError::Aborted);
        // NCCL takes its buffers by other ways than the pool, which keeps what it has.
        cuda.driver().give_memory_back().map_err(cuda_failed)?;
        // What it has said of earlier groups is theirs.
        let told = nccl_log::read().len();
        let communicator = Communicator::join(id, [mesh.rank().0, mesh.world()], JOINING, stopped)?;
        // All have joined, so all have begun this exchange.
        let begun = if mesh.rank() == Rank(0) { mesh.launch_words(Vec::new()) } else { Ok(()) };
        begun.and_then(|()| mesh.fence()).inspect_err(|_| communicator.abort())?;
        let aborter = communicator.aborter(cuda.driver().stream().context().clone());
        let watchdog = Watchdog::new(switch.clone(), GRACE, move || aborter.abort())
            .map_err(|error| CollectiveError::Invalid { problem: format!("start a watchdog: {error}") })?;
        let stream = cuda.driver().new_stream().map_err(cuda_failed)?;
        let (silence, topology, is_open) = (JOINING, String::new(), false);
        Ok(Self { cuda, communicator, mesh, switch, watchdog, stream, silence, told, topology, is_open })
    }

    /// Sums zeros, as many as the `longest` sum has, or sends one to each rank where elements are only moved: NCCL chooses
    /// its ways and connects ranks when it first does so. So what cannot be connected shows while the group forms.
    fn connect(&mut self, form: &Form, longest: Option<usize>) -> Result<(), CollectiveError> {
        let zeros = self.cuda.zeros(longest.unwrap_or(form.peers.len()).max(1)).map_err(device_failed)?;
        let connected = self.sum_zeros(&zeros, longest).and_then(|()| self.finish_sums());
        if let Err(error) = connected {
            // What NCCL was doing comes to its end before the zeros are freed; a device that fails in this has failed.
            self.end().ok();
            return Err(error);
        }
        let ways = nccl_log::ways(nccl_log::read().get(self.told..).unwrap_or_default(), self.mesh.rank().0);
        self.topology = topology_of(form, self.cuda.driver(), ways)?;
        Ok(())
    }

    fn sum_zeros(&mut self, zeros: &Memory, longest: Option<usize>) -> Result<(), CollectiveError> {
        let (rank, world) = (self.mesh.rank().0 as usize, self.mesh.world() as usize);
        let length = longest.unwrap_or(world);
        let address = self.cuda.address(zeros, length).map_err(device_failed)?;
        self.follow_computing()?;
        if longest.is_some() {
            // SAFETY: the zeros are there until all have summed.
            return unsafe { self.communicator.sum(address, length, Wire::Float32, &self.stream) };
        }
        let place = |peer: usize| address + (peer * size_of::<f32>()) as u64;
        let peers = || (0..world).filter(|peer| *peer != rank);
        let sent: Vec<_> = peers().map(|peer| Message { peer, address: place(rank), count: 1 }).collect();
        let received: Vec<_> = peers().map(|peer| Message { peer, address: place(peer), count: 1 }).collect();
        // SAFETY: the zeros are there until all have theirs.
        unsafe { self.communicator.exchange(&sent, &received, &self.stream) }
    }

    /// How long a sum may take from here on: that of joining is for what has not begun to work.
    fn allow(&mut self, silence: Duration) {
        self.silence = silence;
        self.communicator.allow(silence);
    }

    /// What is enqueued here from now on comes after all that has been computed before.
    fn follow_computing(&mut self) -> Result<(), CollectiveError> {
        if !self.is_open {
            // Open until every rank has begun this update.
            self.mesh.launch_words(Vec::new())?;
            self.watchdog.expect(Some(self.silence + GRACE));
            self.is_open = true;
        }
        self.communicator.settled()?;
        self.cuda.settle().map_err(device_failed)?;
        let ready = self.cuda.driver().stream().record_event(None).map_err(cuda_failed)?;
        self.stream.wait(&ready).map_err(cuda_failed)
    }

    /// Waits for the sums; what is computed from now on comes after them.
    fn finish_sums(&mut self) -> Result<(), CollectiveError> {
        if !self.is_open {
            return Ok(());
        }
        self.communicator.settled()?;
        let end = self.stream.record_event(None).map_err(cuda_failed)?;
        self.wait(&end)?;
        self.watchdog.expect(None);
        self.cuda.driver().stream().wait(&end).map_err(cuda_failed)?;
        // All have begun this update, so their parts of the empty exchange are on their way.
        self.mesh.fence()?;
        self.is_open = false;
        Ok(())
    }

    /// Waits for the sums, looking after the peers meanwhile. What fails is aborted before it is reported.
    fn wait(&mut self, end: &CudaEvent) -> Result<(), CollectiveError> {
        let patience = Patience::new(self.silence);
        let failure = loop {
            match end.try_is_complete() {
                // Where NCCL was aborted, or has failed, what it had enqueued ends as well, and nothing is summed.
                Ok(true) => match self.communicator.failure() {
                    None => return Ok(()),
                    Some(error) => break error,
                },
                Ok(false) => {}
                Err(error) => break cuda_failed(error),
            }
            if self.switch.is_aborted() {
                break CollectiveError::Aborted;
            }
            if let Some(error) = self.mesh.failed_meanwhile().or_else(|| self.communicator.failure()) {
                break error;
            }
            if !patience.lasts() {
                let (rank, seconds, phase) = (self.mesh.rank(), patience.seconds(), self.communicator.phase());
                let problem = format!("NCCL, rank {rank}: {phase}: nothing for {seconds} s");
                break CollectiveError::Invalid { problem };
            }
        };
        self.communicator.abort();
        Err(failure)
    }

    /// Ends what NCCL is doing, and has what is computed or freed from now on come after it.
    fn end(&mut self) -> Result<(), DriverError> {
        self.communicator.abort();
        self.watchdog.expect(None);
        let end = self.stream.record_event(None)?;
        self.cuda.driver().stream().wait(&end)
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        // Sums that nobody waited for may never end. A device that fails in this fails in all that follows, and says so.
        if self.switch.is_aborted() || self.is_open {
            self.end().ok();
        }
    }
}

/// The group's unique id: rank 0 makes it and tells the others.
fn unique_id(mesh: &mut Tcp, rendezvous: &Rendezvous<'_>) -> Result<UniqueId, CollectiveError> {
    let invalid = |problem: String| CollectiveError::Invalid { problem };
    if mesh.rank() == Rank(0) {
        let id = library::unique_id()?;
        (rendezvous.tell)(Token::new(id.to_vec()).map_err(|error| invalid(format!("NCCL's unique id: {error}")))?);
        return Ok(id);
    }
    // Open until rank 0 has joined: its end is noticed while it is waited for.
    mesh.launch_words(Vec::new())?;
    let token = rendezvous.token(JOINING, || mesh.failed_meanwhile())?;
    let bytes = token.bytes();
    bytes.try_into().map_err(|_| invalid(format!("rank 0's token of {} bytes is no unique id of NCCL", bytes.len())))
}

/// Who sums with whom by which ways, in a line.
fn topology_of(form: &Form, gpu: &Gpu, ways: Option<String>) -> Result<String, CollectiveError> {
    let surroundings = gpu.surroundings().map_err(device_failed)?.to_string();
    let adapters = adapters(Path::new("/sys/class/infiniband"));
    Ok(line(&form.peers, library::version()?, (&[surroundings, adapters], ways), std::env::vars_os()))
}

fn cuda_failed(error: DriverError) -> CollectiveError {
    let problem = format!("sum gradients: {error}");
    match error.0 {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => CollectiveError::OutOfMemory { problem },
        _ => CollectiveError::Device { problem },
    }
}
