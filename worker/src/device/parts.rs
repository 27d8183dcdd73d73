//! Parts of GPUs (MIG instances): CUDA shows a process no more than one of them, the first that `CUDA_VISIBLE_DEVICES`
//! names, so each worker is shown its own.

use medley_common::message::Failure;

use super::config;

/// What CUDA shows a process.
pub(super) const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// The parts that the variable names, where there are several and CUDA would show but one.
pub(super) fn named(visible: &str) -> Vec<&str> {
    let names: Vec<&str> = visible.split(',').map(str::trim).filter(|name| !name.is_empty()).collect();
    if names.len() > 1 && names.iter().all(|name| name.starts_with("MIG-")) { names } else { Vec::new() }
}

/// The part of a worker that is the `local_rank`-th of its machine; `None` where CUDA shows it all that it may take.
///
/// # Errors
/// There are fewer parts than workers.
pub(super) fn own<'a>(visible: &'a str, local_rank: Option<&str>) -> Result<Option<&'a str>, Failure> {
    let names = named(visible);
    let Some(rank) = local_rank.and_then(|text| text.parse::<usize>().ok()).filter(|_| !names.is_empty()) else {
        return Ok(None);
    };
    match names.get(rank) {
        Some(name) => Ok(Some(name)),
        None => {
            let count = names.len();
            let message = format!(
                "LOCAL_RANK is {rank}, and {VISIBLE} names {count} parts of GPUs: start one worker for each of them"
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
        assert_eq!(own(visible, Some("1")).unwrap(), Some("MIG-GPU-77ab/1/0"));
        assert_eq!(own(visible, None).unwrap(), None, "CUDA shows the first");
        let message = own(visible, Some("2")).unwrap_err().message;
        assert!(message.contains("LOCAL_RANK is 2, and CUDA_VISIBLE_DEVICES names 2 parts"), "{message}");
    }

    /// What CUDA shows all of, and what is no number, is looked at elsewhere.
    #[test]
    fn whole_gpus_and_one_part_are_left_to_cuda() {
        for visible in ["", "0,1", "GPU-1,GPU-2", "MIG-3f8c", "MIG-3f8c,0"] {
            assert_eq!((named(visible), own(visible, Some("1")).unwrap()), (Vec::new(), None), "{visible}");
        }
        assert_eq!(own("MIG-a,MIG-b", Some("x")).unwrap(), None);
    }
}
