//! The final model: the last, or the best of the checkpoints.

use medley_common::identity::Update;
use medley_common::message::{Artifact, ArtifactKind};

use super::{Place, Scribe};
use crate::archive::{
    Agreed, ArchiveError, Checkpoint, FileRecord, Manifest, ModelSource, Origin, RunFacts, StoredArtifact,
    TrainerState, WEIGHTS_FILE,
};
use crate::recorder::Answer;
use crate::spec::Measured;

impl Scribe {
    /// Puts the final model in its place. The certificate, written last, says that training is complete, so the
    /// results of training stand beside it by then.
    pub(super) fn export(&mut self, ranking: &[Update]) -> Result<(), ArchiveError> {
        let best = self.best(ranking);
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
        let certificate = archive.export(ledger, &source, facts)?;
        let weights = certificate.files.get(WEIGHTS_FILE).copied();
        self.certificate = Some(certificate);
        let last = ledger.last();
        if best.is_some() && trained.checkpoint.is_none() {
            // What was received of the last model serves nobody; what stays goes with the next run here.
            trained.staging.remove().ok();
        }
        self.trained = None;
        match best {
            Some(best) => {
                self.say(format!("the model is that of {}", best.path().display()));
                self.answer(Answer::Based(best.update(), best.artifacts()));
            }
            // Whoever waits for the best has the last model instead: its weights are all that predicting takes.
            None if ranking.first().is_some_and(|best| *best != last) => {
                let path = self.output().path().join(WEIGHTS_FILE);
                let stored = weights.map(|FileRecord { bytes, sha256 }| {
                    let artifact = Artifact { kind: ArtifactKind::Weights, file_name: WEIGHTS_FILE.to_owned(), bytes };
                    StoredArtifact { artifact, path, sha256 }
                });
                self.answer(Answer::Based(last, stored.into_iter().collect()));
            }
            None => {}
        }
        Ok(())
    }

    /// The first of the checkpoints that is whole; `None` where there is none, or the first one is the last model.
    fn best(&self, ranking: &[Update]) -> Option<Checkpoint> {
        let last = self.trained.as_ref().and_then(|trained| trained.checkpoint.as_ref()).map(Checkpoint::update);
        for (place, update) in ranking.iter().enumerate() {
            if Some(*update) == last && place == 0 {
                return None;
            }
            match self.checkpoint(*update) {
                Ok(checkpoint) => return Some(checkpoint),
                Err(error) => self.say(format!("warning: {error}; the next best checkpoint takes its place")),
            }
        }
        if !ranking.is_empty() {
            self.say("warning: no checkpoint that was evaluated is whole: the last model is the result".to_owned());
        }
        None
    }

    /// A checkpoint of this run: in its folder, or where it was begun.
    fn checkpoint(&self, update: Update) -> Result<Checkpoint, ArchiveError> {
        let name = format!("checkpoint-{update}");
        let own = Checkpoint::open(&self.output().path().join(&name));
        let elsewhere = match &self.setting.origin {
            Origin::Checkpoint(begun) => begun.path().parent().map(|folder| folder.join(&name)),
            Origin::Fresh | Origin::Ledger(_) => None,
        };
        match (own, elsewhere) {
            (Err(error), Some(path)) => Checkpoint::open(&path).map_err(|_| error),
            (own, _) => own,
        }
    }

    /// The state with the best checkpoint until `update`, where a metric chooses.
    pub(super) fn with_best(&self, state: TrainerState, update: Update) -> TrainerState {
        let Some(history) = self.ledger.as_ref().map(|ledger| ledger.history()) else { return state };
        let Some(criterion) = &history.identity().criterion else { return state };
        // That of `update` itself is being saved.
        let is_there =
            |it: &Measured| it.update == update || history.checkpoints().iter().any(|kept| kept.update == it.update);
        let measured = history.candidates(history.measured(&criterion.metric)).filter(|it| it.update <= update);
        let best = criterion.best(measured.filter(is_there));
        state.with_best(best, self.output().path())
    }
}
