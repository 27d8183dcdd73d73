//! A model's folder as it stands before rows are read: its shape for certain labels, and what turns rows into its
//! token ids.

use std::path::{Path, PathBuf};

use medley_common::message::{Failure, FailureKind};
use medley_common::model::ModelConfig;

use crate::dataset::labels::LabelSet;
use crate::dataset::sequence_limit::SequenceLimit;
use crate::hub::environment::{Bars, HubEnv};
use crate::hub::{self, HubError, progress_bar::DownloadBar};
use crate::model_folder::ModelFolder;
use crate::tokenizer::PairTokenizer;

/// A model that rows can be encoded for.
#[derive(Debug)]
pub struct Encoder {
    /// Its folder.
    pub folder: ModelFolder,
    /// Its shape, with a classifier for the labels.
    pub model: ModelConfig,
    /// The labels, by id.
    pub labels: LabelSet,
    /// What cuts sentences into tokens.
    pub tokenizer: PairTokenizer,
    /// How many a row may have.
    pub limit: SequenceLimit,
    /// What to tell before it is used, each a warning.
    pub notes: Vec<String>,
}

impl Encoder {
    /// The folder of a model by its name on the hub, or that folder. Blocks; changes nothing but the download cache. A
    /// download has a bar where there is a terminal and `may_show` it.
    ///
    /// # Errors
    /// There is no such model, or it cannot be fetched.
    pub fn locate(model: &str, may_show: bool) -> Result<PathBuf, Failure> {
        let environment = HubEnv::from_env();
        let bars = if may_show { environment.bars } else { Bars::Hidden };
        let mut bar = DownloadBar::new(bars);
        hub::resolve(model, &environment, &mut |transfer| bar.show(transfer)).map_err(|error| match &error {
            // Of a name that may be a folder's, cut or mistyped.
            HubError::NotFound { .. } | HubError::NeedsToken { .. } | HubError::Network { .. } => {
                let message = format!("{error}; nor is there a folder {model} here");
                Failure { kind: FailureKind::Data, message }
            }
            _ => data(error),
        })
    }

    /// Reads the tokenizer of a folder. Rows are cut to `max_seq_length` tokens, or to what the model takes. Blocks.
    ///
    /// # Errors
    /// Its files are not those of one model, or the model takes no pair of this length.
    pub fn new(folder: ModelFolder, labels: LabelSet, max_seq_length: u32) -> Result<Self, Failure> {
        let model = folder.config(&labels);
        model.validate().map_err(data)?;
        let path: &Path = folder.path();
        let tokenizer = PairTokenizer::load(path, folder.vocabulary(), None).map_err(data)?;
        tokenizer.check_fits(model.vocab_size).map_err(data)?;
        let limit = SequenceLimit::new(max_seq_length, &tokenizer, model.max_tokens()).map_err(config)?;
        let mut notes: Vec<String> = tokenizer.warnings().iter().map(|warning| format!("warning: {warning}")).collect();
        notes.extend(folder.warnings(&labels).iter().map(|warning| format!("warning: {warning}")));
        Ok(Self { folder, model, labels, tokenizer, limit, notes })
    }

    /// The warning that the model takes less tokens than were `asked` for, if it does.
    #[must_use]
    pub fn shortened(&self, asked: u32) -> Option<String> {
        let tokens = self.limit.tokens();
        let warning = || format!("warning: the model takes {tokens} tokens, so rows are cut there, not at {asked}");
        (tokens < asked).then(warning)
    }
}

fn data(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Data, message: error.to_string() }
}

fn config(error: impl std::error::Error) -> Failure {
    Failure { kind: FailureKind::Config, message: error.to_string() }
}
