//! A copy of the state after an update, kept on the host until it is saved: training goes on meanwhile.

use std::sync::OnceLock;

use medley_common::identity::Digest;
use medley_common::message::ArtifactKind;
use medley_common::save::SaveId;
use medley_common::spec::OptimizerKind;

use crate::layout::Layout;
use crate::ops::{DeviceError, Ops};
use crate::optim::loss_scale::LossScale;
use crate::trainer::Trainer;
use crate::weights::{self, StateFile, WeightsError};

/// Parameters and, where that is to be saved, what the optimizer remembers after an update.
#[derive(Debug)]
pub struct StateCopy {
    save: SaveId,
    layout: Layout,
    parameters: Vec<f32>,
    kind: OptimizerKind,
    memory: Vec<Vec<f32>>,
    loss_scale: Option<LossScale>,
    digest: OnceLock<Digest>,
}

impl StateCopy {
    /// Copies the parameters and takes what the optimizer remembers, of all parameters; nothing where that is not to be
    /// saved. Blocks the caller for no longer than the copy takes.
    ///
    /// # Errors
    /// The device failed.
    pub fn take<O: Ops>(trainer: &Trainer<O>, save: SaveId, memory: Vec<Vec<f32>>) -> Result<Self, DeviceError> {
        Ok(Self {
            save,
            layout: trainer.layout().clone(),
            parameters: trainer.parameters()?.into_owned(),
            kind: trainer.spec().optimizer.kind,
            memory,
            loss_scale: trainer.loss_scale(),
            digest: OnceLock::new(),
        })
    }

    /// The save that it was taken for.
    #[must_use]
    pub fn save(&self) -> SaveId {
        self.save
    }

    /// Digest of the parameters, computed when it is first asked for. Blocks.
    #[must_use]
    pub fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| weights::digest(&self.parameters))
    }

    /// A file of it: the same bytes on every rank, so that each can send a piece.
    ///
    /// # Errors
    /// That was not copied.
    pub fn file(&self, kind: ArtifactKind) -> Result<StateFile<'_>, WeightsError> {
        match kind {
            ArtifactKind::Weights => weights::write_model(&self.parameters, &self.layout),
            ArtifactKind::Optimizer => {
                let memory: Vec<&[f32]> = self.memory.iter().map(Vec::as_slice).collect();
                weights::write_optimizer(&self.kind, &memory, (self.save.update, self.loss_scale), &self.layout)
            }
        }
    }
}

#[cfg(test)]
#[path = "state_copy_test.rs"]
mod tests;
