//! From gradients to weights.
//!
//! Gradients arrive as sums over all rows of the update. They are divided once, by the number of rows or the weights of
//! their classes, and that division is folded into the scale that clips.

mod adamw;
pub mod gradients;
pub mod loss_scale;
pub mod optimizer;
mod runs;
mod sgd;
pub(crate) mod shards;
