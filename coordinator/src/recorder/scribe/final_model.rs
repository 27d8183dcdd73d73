//! The final model: the last, or the best of the checkpoints.

use medley_common::identity::Update;

use super::{Place, Scribe};
use crate::archive::{Agreed, ArchiveError, Checkpoint, Manifest, ModelSource, RunFacts, TrainerState};
use crate::recorder::Answer;

impl Scribe {
    /// Puts the final model in its place. The certificate, written last, says that training is complete, so the
    /// results of training stand beside it by then.
    pub(super) fn export(&mut self, ranking: &[Update]) -> Result<(), ArchiveError> {
        let best = self.best(ranking)?;
        let (Place::Run(archive), Some(ledger), Some(trained)) = (&self.place, &mut self.ledger, &self.trained) else {
            return Ok(());
        };
        let (inputs, programs) = (self.setting.inputs.clone(), self.setting.programs.clone());
        let agreed = best.as_ref().map_or(trained.agreed, |best| {
            let Manifest { layout, parameters, .. } = *best.manifest();
            Agreed { layout, parameters }
        });
        let facts =
            RunFacts { epoch: self.state.epoch, agreed, best: best.as_ref().map(Checkpoint::update), inputs, programs };
        let source = match best.as_ref().or(trained.checkpoint.as_ref()) {
            Some(checkpoint) => ModelSource::Checkpoint(checkpoint),
            None => ModelSource::Staged(&trained.staging),
        };
        self.certificate = Some(archive.export(ledger, &source, facts)?);
        self.trained = None;
        if let Some(best) = best {
            self.say(format!("the model is that of {}", best.path().display()));
            self.answer(Answer::Based(best.update(), best.artifacts()));
        }
        Ok(())
    }

    /// The first of the checkpoints that is whole; `None` where there are none, or the first one is the last model.
    fn best(&self, ranking: &[Update]) -> Result<Option<Checkpoint>, ArchiveError> {
        let last = self.trained.as_ref().and_then(|trained| trained.checkpoint.as_ref()).map(Checkpoint::update);
        let mut missed = None;
        for update in ranking {
            if Some(*update) == last && missed.is_none() {
                return Ok(None);
            }
            match Checkpoint::open(&self.output().path().join(format!("checkpoint-{update}"))) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error) => {
                    self.say(format!("warning: {error}; the next best checkpoint takes its place"));
                    missed = Some(error);
                }
            }
        }
        missed.map_or(Ok(None), Err)
    }

    /// The state with the best checkpoint until `update`, where a metric chooses.
    pub(super) fn with_best(&self, state: TrainerState, update: Update) -> TrainerState {
        let Some(history) = self.ledger.as_ref().map(|ledger| ledger.history()) else { return state };
        let Some(criterion) = &history.identity().criterion else { return state };
        let measured = history.candidates(history.measured(&criterion.metric)).filter(|it| it.update <= update);
        let best = criterion.best(measured);
        state.with_best(best, self.output().path())
    }
}
