//! NCCL's own log, which alone says which ways NCCL has chosen between ranks.
//!
//! The program that becomes the worker with CUDA has NCCL write into memory, a file without a name that ends with the
//! process; unless somebody has asked NCCL for a log already, which is then theirs.

#[cfg(feature = "cuda")]
mod content;
#[cfg(not(feature = "cuda"))]
mod offered;
#[cfg(any(feature = "cuda", test))]
mod ways;

#[cfg(feature = "cuda")]
pub(crate) use content::read;
#[cfg(not(feature = "cuda"))]
pub(crate) use offered::offered;
#[cfg(any(feature = "cuda", test))]
pub(crate) use ways::is_own;
#[cfg(feature = "cuda")]
pub(crate) use ways::ways;

/// What NCCL reads of a log: how much it says, of what, and where.
pub(crate) const VARIABLES: [&str; 3] = ["NCCL_DEBUG", "NCCL_DEBUG_SUBSYS", "NCCL_DEBUG_FILE"];
/// Where files are that a process has open.
const OPEN: &str = "/proc/self/fd/";
