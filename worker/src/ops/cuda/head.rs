//! Launches of `head.cu`.

use super::driver::{Driver, Element, Grid, Kernel};
use super::pack::Part;
use super::{Argument, Cuda, dropout_argument, int};
use crate::ops::DeviceError;
use crate::ops::head::{
    CrossEntropy, FirstTokens, FirstTokensBackward, HeadDropout, LaneLosses, TanhDropout, TanhDropoutBackward,
};

const FIRST: Kernel = Kernel { module: "head", name: "first_tokens" };
const FIRST_BACKWARD: Kernel = Kernel { module: "head", name: "first_tokens_backward" };
const TANH: Kernel = Kernel { module: "head", name: "tanh_dropout" };
const TANH_BACKWARD: Kernel = Kernel { module: "head", name: "tanh_dropout_backward" };
const DROPOUT: Kernel = Kernel { module: "head", name: "head_dropout" };
const CROSS_ENTROPY: Kernel = Kernel { module: "head", name: "cross_entropy" };
const LANE_LOSSES: Kernel = Kernel { module: "head", name: "lane_losses" };

const THREADS: usize = 256;

pub(super) fn first_tokens<D: Driver>(cuda: &Cuda<D>, op: FirstTokens<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let batch = op.pack.as_ref();
    let arguments = [
        cuda.stored(op.x, 0..batch.tokens.len() * op.hidden)?,
        cuda.part(op.pack, Part::Offsets),
        cuda.stored(op.y, 0..batch.rows.len() * op.hidden)?,
        int(op.hidden),
    ];
    cuda.enqueue(FIRST, cuda.element, Grid::new(batch.rows.len(), THREADS), &arguments)
}

pub(super) fn first_tokens_backward<D: Driver>(
    cuda: &Cuda<D>,
    op: FirstTokensBackward<'_, Cuda<D>>,
) -> Result<(), DeviceError> {
    let batch = op.pack.as_ref();
    let arguments = [
        cuda.stored(op.dy, 0..batch.rows.len() * op.hidden)?,
        cuda.part(op.pack, Part::Offsets),
        cuda.stored(op.dx, 0..batch.tokens.len() * op.hidden)?,
        int(op.hidden),
    ];
    cuda.enqueue(FIRST_BACKWARD, cuda.element, Grid::new(batch.rows.len(), THREADS), &arguments)
}

pub(super) fn tanh_dropout<D: Driver>(cuda: &Cuda<D>, op: TanhDropout<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let sequences = op.pack.as_ref().rows.len();
    let whole = 0..sequences * op.hidden;
    let dropout = dropout_argument(cuda, op.pack, op.dropout)?;
    let (x, y) = (cuda.stored(op.x, whole.clone())?, cuda.stored(op.y, whole)?);
    let arguments = [x, y, cuda.part(op.pack, Part::Rows), dropout, int(op.hidden)];
    cuda.enqueue(TANH, cuda.element, Grid::new(sequences, THREADS), &arguments)
}

pub(super) fn tanh_dropout_backward<D: Driver>(
    cuda: &Cuda<D>,
    op: TanhDropoutBackward<'_, Cuda<D>>,
) -> Result<(), DeviceError> {
    let sequences = op.pack.as_ref().rows.len();
    let whole = 0..sequences * op.hidden;
    let dropout = dropout_argument(cuda, op.pack, op.dropout)?;
    let (x, gradient) = (cuda.stored(op.x, whole.clone())?, cuda.stored(op.gradient, whole)?);
    let arguments = [x, gradient, cuda.part(op.pack, Part::Rows), dropout, int(op.hidden)];
    cuda.enqueue(TANH_BACKWARD, cuda.element, Grid::new(sequences, THREADS), &arguments)
}

pub(super) fn dropout<D: Driver>(cuda: &Cuda<D>, op: HeadDropout<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let sequences = op.pack.as_ref().rows.len();
    let whole = 0..sequences * op.hidden;
    let dropout = dropout_argument(cuda, op.pack, Some(op.dropout))?;
    let (x, y) = (cuda.stored(op.x, whole.clone())?, cuda.stored(op.y, whole)?);
    let arguments = [x, y, cuda.part(op.pack, Part::Rows), dropout, int(op.hidden)];
    cuda.enqueue(DROPOUT, cuda.element, Grid::new(sequences, THREADS), &arguments)
}

pub(super) fn cross_entropy<D: Driver>(cuda: &Cuda<D>, op: CrossEntropy<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let sequences = op.pack.as_ref().rows.len();
    let whole = 0..sequences * op.labels;
    // Without weights, there is nothing to write for them.
    let weights =
        if op.class_weights.is_empty() { None } else { Some(cuda.scratch(bytemuck::cast_slice(op.class_weights))?) };
    let arguments = [
        cuda.wide(op.logits, whole.clone())?,
        cuda.part(op.pack, Part::Labels),
        cuda.stored(op.dlogits, whole)?,
        cuda.wide(op.losses, 0..sequences)?,
        Argument::Address(weights.as_ref().map_or(0, |weights| cuda.driver.address(weights))),
        Argument::Float(op.smoothing as f32),
        Argument::Float(op.gradient_scale as f32),
        int(sequences),
        int(op.labels),
    ];
    cuda.enqueue(CROSS_ENTROPY, cuda.element, Grid::new(sequences.div_ceil(32), 32), &arguments)
}

pub(super) fn lane_losses<D: Driver>(cuda: &Cuda<D>, op: &LaneLosses<'_, Cuda<D>>) -> Result<(), DeviceError> {
    let (sequences, count) = (op.pack.as_ref().rows.len(), op.sums.range.len());
    let arguments = [
        cuda.wide(op.losses, 0..sequences)?,
        cuda.part(op.pack, Part::LossLanes),
        cuda.wide_mut(&op.sums)?,
        int(op.lanes.start as usize),
        int(op.lanes.end as usize),
        int(sequences),
        int(count),
    ];
    cuda.enqueue(LANE_LOSSES, Element::F32, Grid::new(count.div_ceil(32), 32), &arguments)
}
