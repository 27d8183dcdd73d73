//! The numbers that a run computes with.

use medley_common::spec::{ComputeSpec, GradientDtype, Precision};

use crate::cli::run_flags::{GradientDtypeFlag, PrecisionFlags};
use crate::spec::{Device, Note, SpecError};

/// What devices are asked to compute in, as its flags say.
pub(super) fn parse_compute(flags: &PrecisionFlags, notes: &mut Vec<Note>) -> Result<ComputeSpec, SpecError> {
    let gradient_dtype = match flags.gradient_dtype {
        GradientDtypeFlag::Float32 => GradientDtype::Float32,
        GradientDtypeFlag::Bfloat16 => GradientDtype::Bfloat16,
    };
    let precision = parse_precision(flags, notes)?;
    Ok(ComputeSpec { precision, gradient_dtype, gradient_checkpointing: flags.gradient_checkpointing.0 })
}

/// What `device` uses where this was asked for, and the warnings that say so where it differs.
pub(super) fn compute_on(device: Device, asked: ComputeSpec) -> (ComputeSpec, Vec<Note>) {
    if device == Device::Cuda {
        return (asked, Vec::new());
    }
    let used = ComputeSpec { gradient_checkpointing: asked.gradient_checkpointing, ..ComputeSpec::default() };
    let mut notes = Vec::new();
    let flag = match asked.precision {
        Precision::Float32 => None,
        Precision::Tf32 => Some("--tf32"),
        Precision::Float16 => Some("--fp16"),
        Precision::Bfloat16 => Some("--bf16"),
    };
    if let Some(flag) = flag {
        let used = used.precision;
        let text = format!("{flag} needs a GPU; on the CPU this run computes in {used}, which is more exact");
        notes.push(Note::warning(text));
    }
    if asked.gradient_dtype != used.gradient_dtype {
        notes.push(Note::warning("--gradient_dtype needs GPUs; on the CPU gradients are summed in float32"));
    }
    (used, notes)
}

fn parse_precision(flags: &PrecisionFlags, notes: &mut Vec<Note>) -> Result<Precision, SpecError> {
    let half = match (flags.fp16.0, flags.bf16.0) {
        (true, true) => {
            return Err(SpecError::Exclusive { first: "--fp16", second: "--bf16".into(), way_out: "keep one of them" });
        }
        (true, false) => Precision::Float16,
        (false, true) => Precision::Bfloat16,
        (false, false) if flags.tf32.0 => return Ok(Precision::Tf32),
        (false, false) => return Ok(Precision::Float32),
    };
    if flags.tf32.0 {
        notes.push(Note::plain(format!("--tf32 has no effect: matrix products are in {half} already")));
    }
    Ok(half)
}
