//! Parts of GPUs (MIG instances): CUDA shows a process no more than one of them, the first that `CUDA_VISIBLE_DEVICES`
//! names, so each worker is shown its own.
//!
//! NCCL knows a rank's GPU by its host and its place on the bus, which all parts of a GPU have in common: two of them in a
//! group it takes for a mistake ("Duplicate GPU detected"; from 2.30 on it can be told otherwise). So a worker that has a
//! part tells NCCL that it is a host of its own. Parts have no direct way to each other that would be lost by that, but
//! NCCL moves between them what it would between machines, by the network's loopback.

use medley_common::message::Failure;

use super::config;

/// What CUDA shows a process.
pub(super) const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// What NCCL is told to take for a process's host.
pub(super) const HOST: &str = "NCCL_HOSTID";
/// What NCCL, from 2.30 on, is told where several ranks may have one GPU.
const SEVERAL: &str = "NCCL_MULTI_RANK_GPU_ENABLE";

/// The host that a worker on the device `uuid` tells NCCL to be of: the part, where it has one. `None` where it has a whole
/// GPU, or where a person has said by `set` variables what NCCL is to make of parts.
pub(super) fn host(uuid: &str, set: impl Fn(&str) -> bool) -> Option<&str> {
    let is_said = set(HOST) || set(SEVERAL);
    Some(uuid).filter(|uuid| uuid.starts_with("MIG-") && !is_said)
}

/// The parts that the variable names, where there are several and CUDA would show but one.
pub(super) fn named(visible: &str) -> Vec<&str> {
    let names: Vec<&str> = visible.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.len() > 1 && names.iter().all(|name| name.starts_with("MIG-")) { names } else { Vec::new() }
}

/// The part of a worker that is the `local_rank`-th of its machine; `None` where CUDA shows it all that it may take.
///
/// # Errors
/// There are fewer parts than workers.
pub(super) fn own(visible: &str, local_rank: Option<u32>) -> Result<Option<&str>, Failure> {
    let names = named(visible);
    let Some(rank) = local_rank.filter(|_| !names.is_empty()) else { return Ok(None) };
    match names.get(rank as usize) {
        Some(name) => Ok(Some(name)),
        None => {
            let count = names.len();
            let message = format!(
                "the local rank is {rank}, and {VISIBLE} names {count} parts of GPUs: start one worker for each of them"
            );
            Err(config(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_local_rank_has_its_part() {
        let visible = "MIG-3f8c, MIG-GPU-77ab/1/0,";
        assert_eq!(named(visible), ["MIG-3f8c", "MIG-GPU-77ab/1/0"]);
        assert_eq!(own(visible, Some(1)).unwrap(), Some("MIG-GPU-77ab/1/0"));
        assert_eq!(own(visible, None).unwrap(), None, "CUDA shows the first");
        let message = own(visible, Some(2)).unwrap_err().message;
        assert!(message.contains("local rank is 2, and CUDA_VISIBLE_DEVICES names 2 parts"), "{message}");
    }

    /// Two parts of a GPU are two hosts, unless somebody has said otherwise; whole GPUs of a machine stay of one.
    #[test]
    fn each_part_is_a_host_to_nccl() {
        let none = |_: &str| false;
        assert_eq!(host("MIG-3f8c", none), Some("MIG-3f8c"));
        assert_eq!(host("GPU-3f8c", none), None);
        for variable in [HOST, SEVERAL] {
            assert_eq!(host("MIG-3f8c", |name| name == variable), None, "{variable}");
        }
    }

    /// What CUDA shows all of is looked at elsewhere.
    #[test]
    fn whole_gpus_and_one_part_are_left_to_cuda() {
        for visible in ["", "0,1", "GPU-1,GPU-2", "MIG-3f8c", "MIG-3f8c,0"] {
            assert_eq!((named(visible), own(visible, Some(1)).unwrap()), (Vec::new(), None), "{visible}");
        }
    }
}
