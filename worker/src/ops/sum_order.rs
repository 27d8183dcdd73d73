//! The order in which sums of lanes are added up, a step at a time.

use super::buffer_pool::BufferPool;
use super::linear::Write;
use super::{DeviceError, Ops, SliceMut};

/// Writes what this leaf comes to.
pub type SumLeaf<'l, B> = dyn FnMut(usize, SliceMut<'_, B>) -> Result<(), DeviceError> + 'l;

/// A step of a sum. Slot 0 holds what comes out; the others hold partial sums, each no longer than until it is added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SumStep {
    /// A leaf's sum is written to a slot, or added to what is there.
    Leaf {
        /// Which leaf.
        leaf: usize,
        /// Where to.
        slot: usize,
        /// How.
        write: Write,
    },
    /// `slot += slot + 1`, which is free from then on.
    Add {
        /// The left summand, and the sum.
        slot: usize,
    },
}

/// A sum of leaves, in the order of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SumOrder {
    steps: Vec<SumStep>,
    slots: usize,
}

impl SumOrder {
    /// The sum of this leaf alone.
    #[must_use]
    pub fn leaf(leaf: usize) -> Self {
        Self { steps: vec![SumStep::Leaf { leaf, slot: 0, write: Write::Set }], slots: 1 }
    }

    /// `self + right`.
    #[must_use]
    pub fn plus(mut self, right: Self) -> Self {
        if let [SumStep::Leaf { leaf, .. }] = right.steps[..] {
            self.steps.push(SumStep::Leaf { leaf, slot: 0, write: Write::Add });
            return self;
        }
        self.steps.extend(right.steps.into_iter().map(|step| match step {
            SumStep::Leaf { leaf, slot, write } => SumStep::Leaf { leaf, slot: slot + 1, write },
            SumStep::Add { slot } => SumStep::Add { slot: slot + 1 },
        }));
        self.steps.push(SumStep::Add { slot: 0 });
        Self { steps: self.steps, slots: self.slots.max(right.slots + 1) }
    }

    /// The steps.
    #[must_use]
    pub fn steps(&self) -> &[SumStep] {
        &self.steps
    }

    /// The leaves, in their order.
    pub fn leaves(&self) -> impl Iterator<Item = usize> {
        self.steps.iter().filter_map(|step| match step {
            SumStep::Leaf { leaf, .. } => Some(*leaf),
            SumStep::Add { .. } => None,
        })
    }

    /// How many slots they need.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots
    }
}

impl SumOrder {
    /// Takes the steps with whole buffers: `leaf` writes what a leaf comes to.
    ///
    /// # Errors
    /// What `leaf` returns, or the device failed.
    pub fn run<O: Ops + ?Sized>(
        &self,
        ops: &O,
        pool: &mut BufferPool<O>,
        mut into: SliceMut<'_, O::Buffer>,
        leaf: &mut SumLeaf<'_, O::Buffer>,
    ) -> Result<(), DeviceError> {
        let length = into.range.len();
        // Slots from 1 on: each is made when all before it are in use, and added before any of them.
        let mut partial: Vec<O::Buffer> = Vec::new();
        for step in &self.steps {
            let right = match *step {
                SumStep::Leaf { leaf: at, slot: 0, write: Write::Set } => {
                    leaf(at, into.reborrow())?;
                    continue;
                }
                SumStep::Leaf { leaf: at, write, .. } => {
                    let mut sum = pool.take(ops, (None, length))?;
                    leaf(at, SliceMut { buffer: &mut sum, range: 0..length })?;
                    if write == Write::Set {
                        partial.push(sum);
                        continue;
                    }
                    Some(sum)
                }
                SumStep::Add { .. } => partial.pop(),
            };
            let Some(mut right) = right else { continue };
            let sum = SliceMut { buffer: &mut right, range: 0..length };
            match partial.last_mut() {
                Some(left) => ops.add(SliceMut { buffer: left, range: 0..length }, sum.as_slice())?,
                None => ops.add(into.reborrow(), sum.as_slice())?,
            }
            pool.give(right, (None, length));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sum as a formula, by what its steps do.
    fn formula(order: &SumOrder) -> String {
        let mut slots = vec![String::new(); order.slots()];
        for step in order.steps() {
            match *step {
                SumStep::Leaf { leaf, slot, write: Write::Set } => slots[slot] = leaf.to_string(),
                SumStep::Leaf { leaf, slot, write: Write::Add } => slots[slot] = format!("({}+{leaf})", slots[slot]),
                SumStep::Add { slot } => slots[slot] = format!("({}+{})", slots[slot], slots[slot + 1]),
            }
        }
        slots.swap_remove(0)
    }

    #[test]
    fn steps_are_those_of_the_formula() {
        let leaf = SumOrder::leaf;
        let two = |at| leaf(at).plus(leaf(at + 1));
        assert_eq!(formula(&leaf(3)), "3");
        assert_eq!(formula(&two(0).plus(two(2)).plus(leaf(4))), "(((0+1)+(2+3))+4)");
        let eight = two(0).plus(two(2)).plus(two(4).plus(two(6)));
        assert_eq!(formula(&eight), "(((0+1)+(2+3))+((4+5)+(6+7)))");
        assert_eq!(eight.slots(), 3);
        assert_eq!(formula(&leaf(0).plus(leaf(1).plus(leaf(2).plus(two(3))))), "(0+(1+(2+(3+4))))");
    }
}
