//! The device that a worker computes on.

use medley_common::message::{Failure, FailureKind};

/// What `--device` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Device {
    /// The best device that this build can use.
    Auto,
    /// The host's processor.
    Cpu,
    /// A CUDA device.
    Cuda,
}

impl Device {
    /// Checks that this build has the device: it never computes on another one silently.
    ///
    /// # Errors
    /// A CUDA device is asked of a build without CUDA.
    pub fn check(self) -> Result<(), Failure> {
        match self {
            Self::Auto | Self::Cpu => Ok(()),
            Self::Cuda => Err(Failure {
                kind: FailureKind::Config,
                message: "--device cuda: this medley-worker is built without CUDA; use --device cpu".to_owned(),
            }),
        }
    }
}
