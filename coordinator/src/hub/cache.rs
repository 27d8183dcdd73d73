//! One repository in the cache: `models--org--name/{refs/main, snapshots/<commit>/file -> ../../blobs/<etag>}`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::error::HubError;
use super::repository::{Repository, is_commit};
use crate::bounded_file::read_text;
use crate::model_folder::CONFIG_FILE;
use crate::tokenizer::Vocabulary;
use crate::weights_file::{PICKLE_FILE, SAFETENSORS_FILE};

/// A repository's place in the cache.
#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
    locks: PathBuf,
}

impl Cache {
    /// The place of `repository` in the cache `folder`; nothing need exist.
    #[must_use]
    pub fn new(folder: &Path, repository: &Repository) -> Self {
        let name = repository.cache_name();
        Self { locks: folder.join(".locks").join(&name), root: folder.join(name) }
    }

    /// The repository's folder.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The snapshot that `revision` (a checked one) stands for, if there is one.
    ///
    /// # Errors
    /// The cache cannot be read, or its reference is none.
    pub fn snapshot(&self, revision: &str) -> Result<Option<PathBuf>, HubError> {
        let commit = match is_commit(revision) {
            true => revision.to_owned(),
            false => match self.commit(revision)? {
                Some(commit) => commit,
                None => return Ok(None),
            },
        };
        Ok(Some(self.snapshot_folder(&commit)).filter(|snapshot| snapshot.is_dir()))
    }

    /// Where the files of a commit are.
    #[must_use]
    pub fn snapshot_folder(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// Where a content is; `etag` is a checked one.
    #[must_use]
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// Waits until no other process downloads the content `etag`; the lock ends with the value. `huggingface_hub`
    /// takes the same one.
    ///
    /// # Errors
    /// The lock's file cannot be made.
    pub fn lock(&self, etag: &str) -> Result<File, HubError> {
        let path = self.locks.join(format!("{etag}.lock"));
        make_parent(&path)?;
        let file = File::options().create(true).append(true).open(&path).map_err(HubError::io(&path))?;
        file.lock().map_err(HubError::io(&path))?;
        Ok(file)
    }

    /// Makes `file` of a commit stand for the content `etag`, which is there.
    ///
    /// # Errors
    /// The link cannot be made.
    pub fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let path = self.snapshot_folder(commit).join(file);
        make_parent(&path)?;
        let target = Path::new("../../blobs").join(etag);
        let made = match std::os::unix::fs::symlink(&target, &path) {
            // A link whose content was deleted, or another process's.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                fs::remove_file(&path).and_then(|()| std::os::unix::fs::symlink(&target, &path))
            }
            made => made,
        };
        made.map_err(HubError::io(&path))
    }

    /// Notes which commit `revision` (a checked one) stands for.
    ///
    /// # Errors
    /// The note cannot be written.
    pub fn refer(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) {
            return Ok(());
        }
        let path = self.reference(revision);
        make_parent(&path)?;
        let draft = path.with_file_name(format!(".{}.{}", std::process::id(), commit));
        let written = File::create(&draft)
            .and_then(|mut file| file.write_all(commit.as_bytes()))
            .and_then(|()| fs::rename(&draft, &path));
        written.map_err(HubError::io(&path))
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.root.join("refs").join(revision)
    }

    fn commit(&self, revision: &str) -> Result<Option<String>, HubError> {
        let path = self.reference(revision);
        if !path.is_file() {
            return Ok(None);
        }
        let text = read_text(&path, 1 << 10).map_err(|_| HubError::Reference { path: path.clone() })?;
        let commit = text.trim();
        // The text becomes a part of a path: nothing but a commit may pass.
        if is_commit(commit) { Ok(Some(commit.into())) } else { Err(HubError::Reference { path }) }
    }
}

/// What a snapshot lacks to be a model; links to deleted contents count as missing.
#[must_use]
pub fn missing_parts(snapshot: &Path) -> Vec<&'static str> {
    let has = |file: &str| snapshot.join(file).is_file();
    // A model in several parts is complete here; it is refused, with its reason, where its folder is opened.
    let sharded = || has("model.safetensors.index.json") || has("pytorch_model.bin.index.json");
    let parts = [
        (has(CONFIG_FILE), CONFIG_FILE),
        (has(SAFETENSORS_FILE) || has(PICKLE_FILE) || sharded(), "weights"),
        (Vocabulary::ALL.iter().any(|vocabulary| vocabulary.is_among(has)), "a tokenizer"),
    ];
    parts.into_iter().filter(|(there, _)| !there).map(|(_, part)| part).collect()
}

pub(super) fn make_parent(path: &Path) -> Result<(), HubError> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(HubError::io(parent)),
        None => Ok(()),
    }
}
