//! The numbers that a run computes with.

use std::fmt;

use crate::cli::run_flags::PrecisionFlags;
use crate::spec::{Device, Note, SpecError};

/// The format of the matrix products; weights, moments and sums are float32 always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// IEEE 754 single precision.
    Float32,
    /// Single precision with 10 bits of mantissa in matrix products.
    Tf32,
    /// Half precision (`--fp16`).
    Float16,
    /// Brain floating point (`--bf16`).
    Bfloat16,
}

impl Precision {
    /// What `device` uses where this was asked for, and the warning that says so if it differs.
    #[must_use]
    pub fn on(self, device: Device) -> (Self, Option<Note>) {
        let flag = match self {
            Self::Float32 => return (self, None),
            Self::Tf32 => "--tf32",
            Self::Float16 => "--fp16",
            Self::Bfloat16 => "--bf16",
        };
        match device {
            Device::Cuda => (self, None),
            Device::Cpu => {
                let used = Self::Float32;
                let text = format!("{flag} needs a GPU; on the CPU this run computes in {used}, which is more exact");
                (used, Some(Note::warning(text)))
            }
        }
    }

    pub(super) fn parse(flags: &PrecisionFlags, notes: &mut Vec<Note>) -> Result<Self, SpecError> {
        let half = match (flags.fp16.0, flags.bf16.0) {
            (true, true) => {
                return Err(SpecError::Exclusive {
                    first: "--fp16",
                    second: "--bf16".into(),
                    way_out: "keep one of them",
                });
            }
            (true, false) => Self::Float16,
            (false, true) => Self::Bfloat16,
            (false, false) if flags.tf32.0 => return Ok(Self::Tf32),
            (false, false) => return Ok(Self::Float32),
        };
        if flags.tf32.0 {
            notes.push(Note::plain(format!("--tf32 has no effect: matrix products are in {half} already")));
        }
        Ok(half)
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Float32 => "float32",
            Self::Tf32 => "tf32",
            Self::Float16 => "float16",
            Self::Bfloat16 => "bfloat16",
        })
    }
}
