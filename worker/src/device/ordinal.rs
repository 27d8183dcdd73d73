//! Which of the GPUs that a worker sees it takes: a launcher either shows every worker all of them, and the local rank says
//! which to take, or shows each worker its own.

use medley_common::message::Failure;

use super::config;

/// The GPU of a worker that is the `local_rank`-th of its machine, of so many that are `visible`.
///
/// # Errors
/// There is none, or fewer than workers.
pub(super) fn ordinal(visible: usize, local_rank: Option<u32>) -> Result<usize, Failure> {
    if visible == 0 {
        let asked =
            std::env::var("CUDA_VISIBLE_DEVICES").map(|value| format!(" (CUDA_VISIBLE_DEVICES is \"{value}\")"));
        let asked = asked.unwrap_or_default();
        return Err(config(format!(
            "--device cuda: no GPU is visible{asked}; nvidia-smi -L lists those of the machine"
        )));
    }
    let Some(rank) = local_rank else { return Ok(0) };
    match ((rank as usize) < visible, visible) {
        (true, _) => Ok(rank as usize),
        (false, 1) => Ok(0),
        (false, _) => Err(config(format!(
            "the local rank is {rank}, and {visible} GPUs are visible: start one worker for each GPU"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_local_rank_has_its_gpu() {
        assert_eq!(ordinal(4, None).unwrap(), 0);
        assert_eq!(ordinal(4, Some(3)).unwrap(), 3);
        assert_eq!(ordinal(1, Some(3)).unwrap(), 0);
        assert!(ordinal(2, Some(3)).unwrap_err().message.contains("local rank is 3, and 2 GPUs are visible"));
        assert!(ordinal(0, None).is_err());
    }
}
