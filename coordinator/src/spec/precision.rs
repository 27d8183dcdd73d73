//! The numbers that a run computes with.

use medley_common::spec::{ComputeSpec, GradientDtype, Precision, Summation};

use crate::cli::run_flags::{GradientDtypeFlag, PrecisionFlags, ReproducibleFlag};
use crate::spec::{Device, Note, SpecError};

/// What devices are asked to compute in, as the flags say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compute {
    /// The numbers of products and activations; `None` leaves them to the device.
    pub precision: Option<Precision>,
    /// The numbers in which gradients travel between GPUs.
    pub gradient_dtype: GradientDtype,
    /// Whether backward computes activations again.
    pub gradient_checkpointing: bool,
    /// Whether lanes that a GPU's memory does not hold at once are computed in several passes.
    pub auto_micro_batch: bool,
    /// In which order sums are added; `None` leaves it to the device.
    pub summation: Option<Summation>,
}

impl Compute {
    pub(super) fn parse(flags: &PrecisionFlags, notes: &mut Vec<Note>) -> Result<Self, SpecError> {
        let gradient_dtype = match flags.gradient_dtype {
            GradientDtypeFlag::Float32 => GradientDtype::Float32,
            GradientDtypeFlag::Bfloat16 => GradientDtype::Bfloat16,
        };
        let precision = parse_precision(flags, notes)?;
        let summation = match flags.reproducible {
            ReproducibleFlag::Auto => None,
            ReproducibleFlag::On => Some(Summation::ByLane),
            ReproducibleFlag::Off => Some(Summation::ByWorker),
        };
        let (gradient_checkpointing, auto_micro_batch) = (flags.gradient_checkpointing.0, flags.auto_micro_batch.0);
        Ok(Self { precision, gradient_dtype, gradient_checkpointing, auto_micro_batch, summation })
    }

    /// What `device` uses where this was asked for, and the warnings that say so where it differs.
    ///
    /// It is decided before any worker is there, from what the run is started with alone: so the recipe is known before
    /// the first update, and a run that is gone on with has the same.
    ///
    /// # Errors
    /// The device cannot do what was asked for.
    pub(crate) fn on(self, device: Device) -> Result<(ComputeSpec, Vec<Note>), SpecError> {
        let Self { precision, gradient_dtype, gradient_checkpointing, auto_micro_batch, summation } = self;
        if device == Device::Cuda {
            // Workers take no GPU that lacks it.
            let precision = precision.unwrap_or(Precision::Bfloat16);
            let summation = summation.unwrap_or(Summation::ByWorker);
            let compute =
                ComputeSpec { precision, gradient_dtype, gradient_checkpointing, auto_micro_batch, summation };
            return on_gpus(compute);
        }
        let summation = summation.unwrap_or_default();
        let used = ComputeSpec { gradient_checkpointing, auto_micro_batch, summation, ..ComputeSpec::default() };
        let mut notes = Vec::new();
        let flag = match precision {
            None | Some(Precision::Float32) => None,
            Some(Precision::Tf32) => Some("--tf32"),
            Some(Precision::Float16) => Some("--fp16"),
            Some(Precision::Bfloat16) => Some("--bf16"),
        };
        if let Some(flag) = flag {
            let used = used.precision;
            let text = format!("{flag} needs a GPU; on the CPU this run computes in {used}, which is more exact");
            notes.push(Note::warning(text));
        }
        if gradient_dtype != used.gradient_dtype {
            notes.push(Note::warning("--gradient_dtype needs GPUs; on the CPU gradients are summed in float32"));
        }
        if summation == Summation::ByWorker {
            notes.push(Note::plain(
                "--reproducible off: the last bits of the result depend on the number of workers, and on faults",
            ));
        }
        Ok((used, notes))
    }
}

/// What GPUs can have together.
fn on_gpus(compute: ComputeSpec) -> Result<(ComputeSpec, Vec<Note>), SpecError> {
    let mut notes = Vec::new();
    if compute.summation == Summation::ByLane {
        if compute.gradient_dtype != GradientDtype::Float32 {
            return Err(SpecError::Exclusive {
                first: "--reproducible on",
                second: "--gradient_dtype bfloat16".into(),
                way_out: "sums lane by lane travel in float32, so leave one of them out",
            });
        }
        if compute.auto_micro_batch {
            notes.push(Note::plain(
                "--auto_micro_batch has no effect: with --reproducible on a pass is one lane already",
            ));
        }
    }
    Ok((compute, notes))
}

fn parse_precision(flags: &PrecisionFlags, notes: &mut Vec<Note>) -> Result<Option<Precision>, SpecError> {
    let half = match (flags.fp16.0, flags.bf16.map(|bf16| bf16.0)) {
        (true, Some(true)) => {
            return Err(SpecError::Exclusive { first: "--fp16", second: "--bf16".into(), way_out: "keep one of them" });
        }
        (true, _) => Precision::Float16,
        (false, Some(true)) => Precision::Bfloat16,
        (false, _) if flags.tf32.0 => return Ok(Some(Precision::Tf32)),
        (false, Some(false)) => return Ok(Some(Precision::Float32)),
        (false, None) => return Ok(None),
    };
    if flags.tf32.0 {
        notes.push(Note::plain(format!("--tf32 has no effect: matrix products are in {half} already")));
    }
    Ok(Some(half))
}
