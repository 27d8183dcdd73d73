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
mod transport;

use all_reduce::AllReduce;
use communicator::{Communicator, UniqueId, Wire};

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
    communicator::check_version()?;
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
        let nccl = Nccl::join(cuda.clone(), form, (mesh, settings.silence_timeout), rendezvous)?;
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
    /// Who sums with whom over what, in a line.
    topology: String,
    /// Whether sums are on their way that nobody has waited for.
    is_open: bool,
}

impl Nccl {
    fn join(
        cuda: Cuda<Gpu>,
        form: &Form,
        (mut mesh, silence): (Tcp, Duration),
        rendezvous: &Rendezvous<'_>,
    ) -> Result<Self, CollectiveError> {
        let switch = rendezvous.switch.clone();
        let id = unique_id(&mut mesh, rendezvous)?;
        let stopped = || switch.is_aborted().then_some(CollectiveError::Aborted);
        let communicator = Communicator::join(id, [mesh.rank().0, mesh.world()], [JOINING, silence], stopped)?;
        // All have joined, so all have begun this exchange.
        let begun = if mesh.rank() == Rank(0) { mesh.launch_words(Vec::new()) } else { Ok(()) };
        begun.and_then(|()| mesh.fence()).inspect_err(|_| communicator.abort())?;
        let aborter = communicator.aborter(cuda.driver().stream().context().clone());
        let watchdog = Watchdog::new(switch.clone(), GRACE, move || aborter.abort())
            .map_err(|error| CollectiveError::Invalid { problem: format!("start a watchdog: {error}") })?;
        let stream = cuda.driver().new_stream().map_err(cuda_failed)?;
        // What it says of earlier groups is theirs.
        let told = nccl_log::read().len();
        let topology = String::new();
        let mut nccl = Self { cuda, communicator, mesh, switch, watchdog, stream, silence, topology, is_open: false };
        nccl.connect()?;
        let ways = nccl_log::ways(nccl_log::read().get(told..).unwrap_or_default(), nccl.mesh.rank().0);
        nccl.topology = topology_of(form, nccl.cuda.driver(), ways)?;
        Ok(nccl)
    }

    /// Sums one number: NCCL chooses its ways and connects ranks only when it first sums. So what cannot be connected shows
    /// while the group forms.
    fn connect(&mut self) -> Result<(), CollectiveError> {
        let number = self.cuda.zeros(1).map_err(device_failed)?;
        let address = self.cuda.address(&number, 1).map_err(device_failed)?;
        self.follow_computing()?;
        // SAFETY: the number is there until all have summed.
        unsafe { self.communicator.sum(address, 1, Wire::Float32, &self.stream) }?;
        self.finish_sums()
    }

    /// What is enqueued here from now on comes after all that has been computed before.
    fn follow_computing(&mut self) -> Result<(), CollectiveError> {
        if !self.is_open {
            // Open until every rank has begun this update.
            self.mesh.launch_words(Vec::new())?;
            self.watchdog.expect(Some(self.silence + GRACE));
            self.is_open = true;
        }
        self.cuda.settle().map_err(device_failed)?;
        let ready = self.cuda.driver().stream().record_event(None).map_err(cuda_failed)?;
        self.stream.wait(&ready).map_err(cuda_failed)
    }

    /// Waits for the sums; what is computed from now on comes after them.
    fn finish_sums(&mut self) -> Result<(), CollectiveError> {
        if !self.is_open {
            return Ok(());
        }
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
                let (rank, seconds) = (self.mesh.rank(), patience.seconds());
                let problem = format!("NCCL, rank {rank}: sum gradients: nothing for {seconds} s");
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
        let id = communicator::unique_id()?;
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
    Ok(line(&form.peers, communicator::version()?, (&[surroundings, adapters], ways), std::env::vars_os()))
}

fn cuda_failed(error: DriverError) -> CollectiveError {
    CollectiveError::Device { problem: format!("sum gradients: {error}") }
}
