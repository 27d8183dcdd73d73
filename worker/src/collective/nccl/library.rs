//! The NCCL that is loaded: its version, its ids of groups, and its words for what has gone wrong.

use std::ffi::CStr;

use cudarc::nccl::sys;

use crate::collective::CollectiveError;

/// The oldest version whose functions the bindings call.
const OLDEST: i32 = 22_800;

/// What ranks find each other by.
pub(super) type UniqueId = [u8; 128];

/// NCCL's version, 2.28.9 as 22809.
pub(super) fn version() -> Result<i32, CollectiveError> {
    let mut version = 0;
    // SAFETY: the call writes one int.
    let code = unsafe { sys::ncclGetVersion(&mut version) };
    check(code, std::ptr::null_mut(), 0, "ask for NCCL's version")?;
    Ok(version)
}

/// A unique id, for rank 0 to hand out: good for one group.
pub(super) fn unique_id() -> Result<UniqueId, CollectiveError> {
    let mut id = sys::ncclUniqueId { internal: [0; _] };
    // SAFETY: the call fills the id.
    let code = unsafe { sys::ncclGetUniqueId(&mut id) };
    check(code, std::ptr::null_mut(), 0, "make a unique id")?;
    Ok(id.internal.map(|byte| byte as u8))
}

/// An older library would take the configuration amiss, or lacks functions.
pub(super) fn check_version() -> Result<(), CollectiveError> {
    let version = version()?;
    if version >= OLDEST {
        return Ok(());
    }
    let (major, minor) = (version / 10_000, version % 10_000 / 100);
    // Both releases of CUDA have a package of their own.
    let package = if env!("MEDLEY_CUDA_VERSION") < "13000" { "nvidia-nccl-cu12" } else { "nvidia-nccl-cu13" };
    let problem = format!("NCCL {major}.{minor} is loaded; this worker needs 2.28 or later (pip install {package})");
    Err(CollectiveError::Invalid { problem })
}

/// A failure in NCCL's own words, with the rank and what was being done.
pub(super) fn check(
    code: sys::ncclResult_t,
    comm: sys::ncclComm_t,
    rank: u32,
    doing: &'static str,
) -> Result<(), CollectiveError> {
    if matches!(code, sys::ncclResult_t::ncclSuccess | sys::ncclResult_t::ncclInProgress) {
        return Ok(());
    }
    // SAFETY: both calls return text that lives as long as the library; NCCL takes null for its last error of all.
    let [words, last] = unsafe { [sys::ncclGetErrorString(code), sys::ncclGetLastError(comm)] }.map(|text| {
        // SAFETY: NCCL's texts end in a zero.
        if text.is_null() { String::new() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() }
    });
    let problem = format!("NCCL, rank {rank}: {doing}: {words}: {}", last.trim());
    // NCCL has no code for it: it passes on what CUDA says.
    let lacks_memory = code == sys::ncclResult_t::ncclUnhandledCudaError && last.contains("out of memory");
    Err(if lacks_memory { CollectiveError::OutOfMemory { problem } } else { CollectiveError::Invalid { problem } })
}
