//! The rows of a matrix of which only some have a gradient, for the steps of optimizers.

use super::Cpu;
use crate::ops::step::RowGradients;

/// Elements that a thread takes at a time.
pub(super) const ELEMENTS: usize = 16_384;

/// The gradients of all rows, in their order; those without one have zeros.
pub(super) struct Rows<'a> {
    gradient: &'a RowGradients<'a, Cpu>,
    zeros: Vec<f32>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(gradient: &'a RowGradients<'a, Cpu>) -> Self {
        Self { gradient, zeros: vec![0.0; gradient.width] }
    }

    /// Rows that a thread takes at a time.
    pub(super) fn per_task(&self) -> usize {
        (ELEMENTS / self.gradient.width.max(1)).max(1)
    }

    /// The gradients from the first row of a task on.
    pub(super) fn of_task(&self, task: usize) -> impl Iterator<Item = &[f32]> {
        let RowGradients { width, rows, values } = self.gradient;
        let (width, values) = (*width, values.values());
        let first = (task * self.per_task()) as u32;
        let mut place = rows.partition_point(|known| *known < first);
        (first..).map(move |row| {
            if rows.get(place) != Some(&row) {
                return &*self.zeros;
            }
            place += 1;
            &values[(place - 1) * width..][..width]
        })
    }
}
