//! The certificate of a complete run: what went in, who computed it with what, and what came out, by digest.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use medley_common::identity::{Digest, Update};
use serde::{Deserialize, Serialize};

use super::durable;
use super::error::ArchiveError;
use super::ledger::{FinalRecord, Head, Host, Ledger, Record};
use super::manifest::{FileRecord, read_text, verify_files};
use super::output_dir::{OutputDir, RESULT_FILES};
use super::recipe::Recipe;
use super::sealed;

/// The certificate's name in the output folder.
pub const CERTIFICATE_FILE: &str = "medley_run.json";

/// How a complete run came to its final model. It is written last: a folder holds a complete run if it holds a valid
/// certificate. It never holds a row's text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Certificate {
    /// Version of Medley that wrote it.
    pub version: String,
    /// Updates done.
    pub update: Update,
    /// Epochs done.
    pub epoch: f64,
    /// Fingerprint of the parameter layout.
    pub layout: Digest,
    /// Digest of the model's parameters in layout order.
    pub parameters: Digest,
    /// The checkpoint that the model is, where it is not the model after the last update.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best: Option<Update>,
    /// All that decides the weights, by name.
    pub recipe: Recipe,
    /// The words of the command that completed it.
    pub command: Vec<String>,
    /// What went in: data files and their rows as encoded, configuration and tokenizer, initial weights.
    pub inputs: BTreeMap<String, Digest>,
    /// The programs of the coordinator's machine that ran.
    pub programs: BTreeMap<String, Digest>,
    /// Who computed, and by which programs.
    pub hosts: BTreeSet<Host>,
    /// The ledger, when the outputs were in their place.
    pub ledger: Head,
    /// The files of the final model, by name.
    pub files: BTreeMap<String, FileRecord>,
    /// The files of the results, by name.
    pub results: BTreeMap<String, FileRecord>,
}

impl Certificate {
    /// Records the outputs in the ledger, and writes the certificate with the ledger's head: once training is
    /// complete, and again after each result. It can be tried again. Blocks.
    ///
    /// # Errors
    /// A result cannot be read, or the disk refuses.
    pub fn issue(&mut self, output: &OutputDir, ledger: &mut Ledger) -> Result<(), ArchiveError> {
        self.results = results_of(output.path())?;
        let files = self.files.iter().chain(&self.results).map(|(name, file)| (name.clone(), *file)).collect();
        let Self { update, parameters, best, .. } = *self;
        ledger.append(Record::Final(FinalRecord { update, parameters, best, files }))?;
        ledger.sync()?;
        self.hosts.extend(ledger.history().hosts().iter().cloned());
        self.ledger = ledger.head();
        durable::replace(&output.path().join(CERTIFICATE_FILE), sealed::seal(self))
    }

    /// Reads the certificate of `folder` and verifies the final model, not the results; `None` where there is none.
    /// Blocks: it reads the whole model.
    ///
    /// # Errors
    /// What is wrong with which file.
    pub fn read(folder: &Path) -> Result<Option<Self>, String> {
        let Some(certificate) = Self::read_alone(folder)? else { return Ok(None) };
        verify_files(folder, &certificate.files)?;
        Ok(Some(certificate))
    }

    /// Reads the certificate of `folder`, but not the files it names; `None` where there is none. Blocks.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read_alone(folder: &Path) -> Result<Option<Self>, String> {
        let bytes = match read_text(&folder.join(CERTIFICATE_FILE)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("{CERTIFICATE_FILE}: {error}")),
        };
        sealed::unseal(&bytes).map(Some).map_err(|reason| format!("{CERTIFICATE_FILE} {reason}"))
    }

    /// The names of the files that the certificate of `folder` calls ours, whether or not they are intact.
    pub(super) fn files_of(folder: &Path) -> Vec<String> {
        let certificate = Self::read_alone(folder).ok().flatten();
        certificate.map(|certificate| certificate.files.into_keys().collect()).unwrap_or_default()
    }
}

/// The results that lie in `folder`.
fn results_of(folder: &Path) -> Result<BTreeMap<String, FileRecord>, ArchiveError> {
    let mut results = BTreeMap::new();
    for name in RESULT_FILES {
        let path = folder.join(name);
        match FileRecord::of_file(&path) {
            Ok(record) => {
                results.insert(name.to_owned(), record);
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ArchiveError::io("read", &path)(error)),
        }
    }
    Ok(results)
}
