//! The device that a worker computes on.

use std::fmt;

use medley_common::message::{Failure, FailureKind, GpuUse};
use medley_common::spec::TrainSpec;

use crate::collective::{Connect, by_tcp};
use crate::ops::Ops;
use crate::ops::cpu::Cpu;

#[cfg(feature = "cuda")]
mod gpu;
#[cfg(not(feature = "cuda"))]
#[path = "device/no_gpu.rs"]
mod gpu;
#[cfg(any(feature = "cuda", test))]
mod ordinal;
#[cfg(any(feature = "cuda", test))]
mod parts;

pub use gpu::list;

/// What `--device` asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Device {
    /// The device that this build is for.
    Auto,
    /// The host's processor.
    Cpu,
    /// A CUDA device.
    Cuda,
}

/// A device of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// The host's processor.
    Cpu,
    /// A GPU.
    Cuda {
        /// Its number among those visible to this process.
        ordinal: usize,
        /// Its name.
        name: String,
        /// Its UUID, or that of the part of it that this process has.
        uuid: String,
    },
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda { ordinal, name, uuid } => write!(f, "cuda:{ordinal} {name} {uuid}"),
        }
    }
}

/// What is to be done on a device.
pub trait Work {
    /// Does it, on the calling thread, which then owns the device.
    ///
    /// # Errors
    /// Its own.
    fn run<O: Ops>(self, ops: O, connect: Connect<O::Buffer>) -> Result<(), Failure>;
}

impl Device {
    /// Chooses the device for a worker that is the `local_rank`-th of its machine: never another one than was asked for.
    ///
    /// # Errors
    /// A CUDA device is asked of a build without CUDA, or there is none.
    pub fn place(self, local_rank: Option<u32>) -> Result<Place, Failure> {
        if self == Self::Cpu { Ok(Place::Cpu) } else { gpu::place(self, local_rank) }
    }
}

impl Place {
    /// The claim to a GPU that this is.
    #[must_use]
    pub fn gpu(&self, is_shared: bool) -> Option<GpuUse> {
        match self {
            Self::Cpu => None,
            Self::Cuda { uuid, .. } => Some(GpuUse { uuid: uuid.clone(), is_shared }),
        }
    }

    /// What decides the last bits of what is computed there: the processor or the GPU, and what multiplies matrices.
    #[must_use]
    pub fn processor(&self) -> String {
        match self {
            Self::Cpu => crate::ops::cpu::processor(),
            Self::Cuda { name, .. } => format!("{name}, {}", gpu::library()),
        }
    }

    /// Does `work` of a run of `spec` there; the memory that `shared_memory` allows to share with peers is the host's.
    ///
    /// # Errors
    /// The device cannot be opened, or those of the work.
    pub fn compute(self, spec: &TrainSpec, shared_memory: bool, work: impl Work) -> Result<(), Failure> {
        match self {
            Self::Cpu => work.run(Cpu, by_tcp(spec, shared_memory)),
            Self::Cuda { ordinal, .. } => gpu::compute(ordinal, spec, work),
        }
    }
}

fn config(message: String) -> Failure {
    Failure { kind: FailureKind::Config, message }
}
