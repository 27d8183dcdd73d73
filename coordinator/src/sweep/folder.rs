//! The folder of a sweep, where the folder of a run is wanted.

use std::path::{Path, PathBuf};

use super::{RESULTS_FILE, SWEEP_FILE};

/// The folder of a sweep was named, and not that of one of its runs.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} is a sweep: name the folder of one of its runs; {} has the best", .0.display(), .0.join(RESULTS_FILE).display())]
pub struct IsSweep(PathBuf);

/// Makes sure that no sweep is taken for a run. Blocks.
///
/// # Errors
/// The folder is a sweep's.
pub fn refuse_sweep(folder: &Path) -> Result<(), IsSweep> {
    if folder.join(SWEEP_FILE).is_file() { Err(IsSweep(folder.to_owned())) } else { Ok(()) }
}
