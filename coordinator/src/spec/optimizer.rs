//! How gradients become weights.

use std::str::FromStr;

use medley_common::spec::{OptimizerKind, OptimizerSpec, SgdSpec};

use super::number::Number;
use crate::cli::run_flags::{OptimFlag, OptimizerFlags};
use crate::cli::truth::Truth;
use crate::spec::{Note, SpecError};

const OPTIM_ARGS: &str = "--optim_args";
const SHARE: &str = "a number from 0 up to, but not including, 1";

pub(super) fn parse(flags: &OptimizerFlags, notes: &mut Vec<Note>) -> Result<OptimizerSpec, SpecError> {
    let beta = |flag, value| Number::new(flag, value).that(|beta| (0.0..1.0).contains(&beta), SHARE);
    if flags.optim == OptimFlag::TorchFused {
        notes.push(Note::plain("--optim adamw_torch_fused is computed as adamw_torch, which has the same formula"));
    }
    let bound = Number::new("--max_grad_norm", flags.max_grad_norm)
        .that(|norm| norm >= 0.0, "a number above 0, or 0 to clip nothing")?;
    Ok(OptimizerSpec {
        kind: kind(flags)?,
        beta1: beta("--adam_beta1", flags.adam_beta1)?,
        beta2: beta("--adam_beta2", flags.adam_beta2)?,
        epsilon: Number::new("--adam_epsilon", flags.adam_epsilon).that(|epsilon| epsilon > 0.0, "a number above 0")?,
        weight_decay: Number::new("--weight_decay", flags.weight_decay).not_negative()?,
        max_grad_norm: (bound > 0.0).then_some(bound),
    })
}

fn kind(flags: &OptimizerFlags) -> Result<OptimizerKind, SpecError> {
    let args = flags.optim_args.as_deref().map(str::trim).filter(|args| !args.is_empty());
    match (flags.optim, args) {
        (OptimFlag::Sgd, args) => Ok(OptimizerKind::Sgd(sgd(args.unwrap_or_default())?)),
        (_, Some(args)) => Err(refused(
            args,
            "nothing with AdamW, whose settings are --adam_beta1, --adam_beta2, --adam_epsilon and --weight_decay",
        )),
        (OptimFlag::Hf, None) => Ok(OptimizerKind::AdamwHf),
        (OptimFlag::Torch | OptimFlag::TorchFused, None) => Ok(OptimizerKind::AdamwTorch),
    }
}

/// The settings of `torch.optim.SGD`, as Hugging Face writes them: `momentum=0.9,nesterov=True`.
fn sgd(args: &str) -> Result<SgdSpec, SpecError> {
    let mut sgd = SgdSpec::default();
    for setting in args.split(',').filter(|setting| !setting.trim().is_empty()) {
        let (key, value) =
            setting.split_once('=').ok_or_else(|| refused(setting, "settings as in momentum=0.9,nesterov=True"))?;
        let (key, value) = (key.trim(), value.trim());
        match key {
            "momentum" => sgd.momentum = share(setting, value, |momentum| (0.0..1.0).contains(&momentum), SHARE)?,
            "dampening" => {
                let within = "a number from 0 to 1";
                sgd.dampening = share(setting, value, |dampening| (0.0..=1.0).contains(&dampening), within)?;
            }
            "nesterov" => sgd.nesterov = Truth::from_str(value).map_err(|_| refused(setting, "True or False"))?.0,
            "lr" => return Err(refused(setting, "no lr in it; use --learning_rate")),
            "weight_decay" => return Err(refused(setting, "no weight_decay in it; use --weight_decay")),
            _ => return Err(refused(setting, "momentum, dampening and nesterov, which SGD has")),
        }
    }
    if sgd.nesterov && (sgd.momentum == 0.0 || sgd.dampening > 0.0) {
        return Err(refused(args, "a momentum above 0 and no dampening with nesterov, as in torch"));
    }
    if sgd.dampening > 0.0 && sgd.momentum == 0.0 {
        return Err(refused(args, "a momentum above 0 with dampening, which is of the momentum"));
    }
    Ok(sgd)
}

fn share(setting: &str, value: &str, accepts: impl Fn(f64) -> bool, expected: &str) -> Result<f64, SpecError> {
    value.parse().ok().filter(|share| accepts(*share)).ok_or_else(|| refused(setting, expected))
}

fn refused(value: &str, expected: &str) -> SpecError {
    SpecError::Value { flag: OPTIM_ARGS, value: value.trim().to_owned(), expected: expected.to_owned() }
}

#[cfg(test)]
#[path = "optimizer_test.rs"]
mod tests;
