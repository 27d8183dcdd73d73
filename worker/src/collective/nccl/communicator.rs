//! One NCCL communicator, over the C interface: cudarc's own wrapper can neither be made without blocking nor aborted
//! without a panic.

use std::cell::Cell;
use std::ffi::c_void;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cudarc::driver::{CudaContext, CudaStream, result as driver};
use cudarc::nccl::sys;

use super::library::{UniqueId, check};
use crate::collective::CollectiveError;
use crate::collective::patience::Patience;

/// `NCCL_CONFIG_INITIALIZER` of the version that the bindings are of, 2.28: NCCL reads only what that version had.
const CONFIG_MAGIC: u32 = 0xcafe_beef;
const CONFIG_VERSION: u32 = 22_800;
/// What a group is at before all are connected.
const CONNECTING: &str = "connect the ranks";
/// What it is at from then on.
const SUMMING: &str = "sum gradients";
/// How long leaving a group in order may take: a peer that is gone must not hold this rank up.
const LEAVING: Duration = Duration::from_secs(5);

/// How the numbers of a sum are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wire {
    Float32,
    Bfloat16,
}

impl Wire {
    /// The size of a number.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::Float32 => 4,
            Self::Bfloat16 => 2,
        }
    }

    fn kind(self) -> sys::ncclDataType_t {
        match self {
            Self::Float32 => sys::ncclDataType_t::ncclFloat32,
            Self::Bfloat16 => sys::ncclDataType_t::ncclBfloat16,
        }
    }
}

/// Numbers for another rank, or a place for some of its.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    pub peer: usize,
    pub address: u64,
    pub count: usize,
}

/// A member's end of a group. Belongs to the thread that made it; another may abort it.
#[derive(Debug)]
pub(super) struct Communicator {
    handle: Arc<Mutex<Handle>>,
    rank: u32,
    /// What the group is at, for a person.
    phase: &'static str,
    /// How long NCCL may take to enqueue something.
    silence: Duration,
    /// What NCCL said of the last call for a sum, which it goes on with by itself: nobody waits for that before the next.
    enqueued: Cell<sys::ncclResult_t>,
}

/// Ends a communicator from another thread.
#[derive(Debug)]
pub(super) struct Aborter {
    handle: Arc<Mutex<Handle>>,
    context: Arc<CudaContext>,
}

/// NCCL's communicator; null once it is gone.
#[derive(Debug)]
struct Handle(sys::ncclComm_t);

// SAFETY: NCCL binds a communicator to no thread; the lock sees to it that one calls at a time.
unsafe impl Send for Handle {}

impl Handle {
    /// Ends what NCCL is doing, here and now, without the others.
    fn abort(&mut self) {
        let comm = std::mem::replace(&mut self.0, std::ptr::null_mut());
        if !comm.is_null() {
            // SAFETY: the communicator was alive and is not used any more. What its abort says helps nobody.
            unsafe { sys::ncclCommAbort(comm) };
        }
    }
}

impl Aborter {
    /// Ends what NCCL is doing: its kernels come back, and with them the calls that wait for them.
    pub(super) fn abort(&self) {
        // NCCL goes back to the device that the thread had: one without a context would get one on the first GPU of all.
        // What fails here must not keep anybody from aborting.
        // SAFETY: the context is alive for as long as it is held here.
        unsafe { driver::ctx::set_current(self.context.cu_ctx()) }.ok();
        lock(&self.handle).abort();
    }
}

/// No call is made under the lock that waits for peers.
fn lock(handle: &Mutex<Handle>) -> MutexGuard<'_, Handle> {
    handle.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Communicator {
    /// Joins the group of `id`, and waits until all have, or for `patience`, which to enqueue something may take as well at
    /// first; `is_over` ends the waiting early.
    pub(super) fn join(
        id: UniqueId,
        [rank, world]: [u32; 2],
        patience: Duration,
        mut is_over: impl FnMut() -> Option<CollectiveError>,
    ) -> Result<Self, CollectiveError> {
        let number = |value: u32| i32::try_from(value).unwrap_or(i32::MAX);
        let id = sys::ncclUniqueId { internal: id.map(|byte| byte as i8) };
        let mut config = config();
        let mut comm = std::ptr::null_mut();
        // SAFETY: the configuration is one of the bindings' version; NCCL copies it.
        let code = unsafe { sys::ncclCommInitRankConfig(&mut comm, number(world), id, number(rank), &mut config) };
        // From here on, dropping it aborts what NCCL has begun.
        let (handle, enqueued) = (Arc::new(Mutex::new(Handle(comm))), Cell::new(sys::ncclResult_t::ncclSuccess));
        let joined = Self { handle, rank, phase: CONNECTING, silence: patience, enqueued };
        joined.settle(code, ("join the group", patience), &mut is_over)?;
        Ok(joined)
    }

    /// All are connected: how long it may take from here on to enqueue something.
    pub(super) fn allow(&mut self, silence: Duration) {
        (self.phase, self.silence) = (SUMMING, silence);
    }

    /// What the group is at, for a person.
    pub(super) fn phase(&self) -> &'static str {
        self.phase
    }

    /// What ends it from another thread, in the context that it was made in.
    pub(super) fn aborter(&self, context: Arc<CudaContext>) -> Aborter {
        Aborter { handle: self.handle.clone(), context }
    }

    /// Has NCCL enqueue the sum of `count` numbers at `address` over all ranks, in their place: it is, once the communicator
    /// has [settled](Self::settled). Where that fails, all that NCCL was doing is ended: the numbers may be freed.
    ///
    /// # Safety
    /// The numbers are there until the communicator has settled and the stream has come past the sum.
    pub(super) unsafe fn sum(
        &self,
        address: u64,
        count: usize,
        wire: Wire,
        stream: &CudaStream,
    ) -> Result<(), CollectiveError> {
        self.settled()?;
        let (kind, add) = (wire.kind(), sys::ncclRedOp_t::ncclSum);
        let code = {
            let handle = lock(&self.handle);
            if handle.0.is_null() {
                return Err(CollectiveError::Aborted);
            }
            let (from, to) = (address as *const c_void, address as *mut c_void);
            // SAFETY: the caller answers for the numbers, and the communicator is alive while it is locked; both bindings
            // mean the same stream by its pointer.
            unsafe { sys::ncclAllReduce(from, to, count, kind, add, handle.0, stream.cu_stream().cast()) }
        };
        self.enqueued.set(code);
        self.check(code, self.phase).inspect_err(|_| self.abort())
    }

    /// Waits until NCCL has enqueued what it was asked to sum: what goes to the stream from then on comes after it.
    pub(super) fn settled(&self) -> Result<(), CollectiveError> {
        let code = self.enqueued.replace(sys::ncclResult_t::ncclSuccess);
        self.settle(code, (self.phase, self.silence), &mut || None).inspect_err(|_| self.abort())
    }

    /// Has NCCL enqueue the sums of each rank's share of the numbers from `address` on, in its place there, as
    /// [`Self::sum`]. What else is there is void then.
    ///
    /// # Safety
    /// As for [`Self::sum`].
    pub(super) unsafe fn sum_shares(
        &self,
        address: u64,
        shares: &[Range<usize>],
        wire: Wire,
        stream: &CudaStream,
    ) -> Result<(), CollectiveError> {
        let (kind, add) = (wire.kind(), sys::ncclRedOp_t::ncclSum);
        let shares = || shares.iter().enumerate().filter(|(_, share)| !share.is_empty());
        let code = self.enqueue(shares().count(), |handle| {
            let sum = |(root, share): (usize, &Range<usize>)| {
                let place = address + (share.start * wire.bytes()) as u64;
                let (from, to, root) =
                    (place as *const c_void, place as *mut c_void, i32::try_from(root).unwrap_or(i32::MAX));
                // SAFETY: the caller answers for the numbers; both bindings mean the same stream by its pointer.
                unsafe { sys::ncclReduce(from, to, share.len(), kind, add, root, handle, stream.cu_stream().cast()) }
            };
            shares().map(sum).collect()
        })?;
        self.enqueued.set(code);
        Ok(())
    }

    /// Enqueues messages of `f32`, none of which waits for another. Those between two ranks meet in their order. A failure
    /// ends as that of a sum.
    ///
    /// # Safety
    /// The numbers are there until the stream has come past them, and nothing else uses the places until then.
    pub(super) unsafe fn exchange(
        &self,
        sent: &[Message],
        received: &[Message],
        stream: &CudaStream,
    ) -> Result<(), CollectiveError> {
        let (kind, stream) = (sys::ncclDataType_t::ncclFloat32, stream.cu_stream().cast());
        let peer = |message: &Message| i32::try_from(message.peer).unwrap_or(i32::MAX);
        let code = self.enqueue(sent.len() + received.len(), |handle| {
            let send = |message: &Message| {
                let from = message.address as *const c_void;
                // SAFETY: the caller answers for the numbers; both bindings mean the same stream by its pointer.
                unsafe { sys::ncclSend(from, message.count, kind, peer(message), handle, stream) }
            };
            let receive = |message: &Message| {
                let to = message.address as *mut c_void;
                // SAFETY: the caller answers for the places, and the same stream.
                unsafe { sys::ncclRecv(to, message.count, kind, peer(message), handle, stream) }
            };
            sent.iter().map(send).chain(received.iter().map(receive)).collect()
        })?;
        self.enqueued.set(code);
        self.settled()
    }

    /// Asks for `count` calls at once, none of which waits for another, and says what NCCL says of them.
    fn enqueue(
        &self,
        count: usize,
        calls: impl FnOnce(sys::ncclComm_t) -> Vec<sys::ncclResult_t>,
    ) -> Result<sys::ncclResult_t, CollectiveError> {
        self.settled()?;
        if count == 0 {
            return Ok(sys::ncclResult_t::ncclSuccess);
        }
        let (each, all) = {
            let handle = lock(&self.handle);
            if handle.0.is_null() {
                return Err(CollectiveError::Aborted);
            }
            let good = |code: &sys::ncclResult_t| {
                matches!(code, sys::ncclResult_t::ncclSuccess | sys::ncclResult_t::ncclInProgress)
            };
            // SAFETY: the communicator is alive while it is locked, and a group that is begun is ended.
            let begun = unsafe { sys::ncclGroupStart() };
            let codes = std::iter::once(begun).chain(calls(handle.0));
            let each = codes.into_iter().find(|code| !good(code));
            // SAFETY: it was begun.
            (each, unsafe { sys::ncclGroupEnd() })
        };
        let code = each.unwrap_or(all);
        self.check(code, self.phase).inspect_err(|_| self.abort())?;
        Ok(code)
    }

    /// What has gone wrong since, if anything.
    pub(super) fn failure(&self) -> Option<CollectiveError> {
        match self.state() {
            None => Some(CollectiveError::Aborted),
            Some(code) => self.check(code, self.phase).err(),
        }
    }

    /// How NCCL is doing; `None` where the communicator is gone.
    fn state(&self) -> Option<sys::ncclResult_t> {
        let handle = lock(&self.handle);
        if handle.0.is_null() {
            return None;
        }
        let mut state = sys::ncclResult_t::ncclSuccess;
        // SAFETY: the communicator is alive while it is locked, and the call writes the state.
        Some(match unsafe { sys::ncclCommGetAsyncError(handle.0, &mut state) } {
            sys::ncclResult_t::ncclSuccess => state,
            code => code,
        })
    }

    fn check(&self, code: sys::ncclResult_t, doing: &'static str) -> Result<(), CollectiveError> {
        check(code, lock(&self.handle).0, self.rank, doing)
    }

    /// Waits for a call that NCCL goes on with by itself: it does not block.
    fn settle(
        &self,
        mut code: sys::ncclResult_t,
        (doing, patience): (&'static str, Duration),
        is_over: &mut dyn FnMut() -> Option<CollectiveError>,
    ) -> Result<(), CollectiveError> {
        let patience = Patience::new(patience);
        while code == sys::ncclResult_t::ncclInProgress {
            if let Some(error) = is_over() {
                return Err(error);
            }
            if !patience.lasts() {
                let (rank, seconds) = (self.rank, patience.seconds());
                let problem =
                    format!("NCCL, rank {rank}: {doing}: nothing for {seconds} s; NCCL_DEBUG=INFO tells more");
                return Err(CollectiveError::Invalid { problem });
            }
            code = self.state().ok_or(CollectiveError::Aborted)?;
        }
        self.check(code, doing)
    }

    /// Ends what NCCL is doing, here and now, without the others.
    pub(super) fn abort(&self) {
        lock(&self.handle).abort();
    }

    /// Leaves the group in order: everything enqueued is finished first.
    fn leave(&self) {
        let code = {
            let handle = lock(&self.handle);
            if handle.0.is_null() {
                return;
            }
            // SAFETY: the communicator is alive while it is locked; it does not block.
            unsafe { sys::ncclCommFinalize(handle.0) }
        };
        if self.settle(code, ("leave the group", LEAVING), &mut || None).is_err() {
            return self.abort();
        }
        let comm = std::mem::replace(&mut lock(&self.handle).0, std::ptr::null_mut());
        if !comm.is_null() {
            // SAFETY: it is finalised and not used any more. There is nothing left to do if that fails.
            unsafe { sys::ncclCommDestroy(comm) };
        }
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if self.state() == Some(sys::ncclResult_t::ncclSuccess) { self.leave() } else { self.abort() }
    }
}

/// All as NCCL chooses, but calls that return at once.
fn config() -> sys::ncclConfig_t {
    const UNDEFINED: i32 = i32::MIN;
    sys::ncclConfig_t {
        size: size_of::<sys::ncclConfig_t>(),
        magic: CONFIG_MAGIC,
        version: CONFIG_VERSION,
        blocking: 0,
        cgaClusterSize: UNDEFINED,
        minCTAs: UNDEFINED,
        maxCTAs: UNDEFINED,
        netName: std::ptr::null(),
        splitShare: UNDEFINED,
        trafficClass: UNDEFINED,
        commName: std::ptr::null(),
        collnetEnable: UNDEFINED,
        CTAPolicy: UNDEFINED,
        shrinkShare: UNDEFINED,
        nvlsCTAs: UNDEFINED,
        nChannelsPerNetPeer: UNDEFINED,
        nvlinkCentricSched: UNDEFINED,
    }
}
