//! From the hub into the cache: the files of one commit, each checked before it gets its name.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use medley_common::identity::Digest;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use ureq::Body;
use ureq::http::Response;

use super::cache::{Cache, make_parent, missing_parts};
use super::client::{Answer, Client, Redirect, header};
use super::error::HubError;
use super::repository::{Repository, is_commit};
use crate::model_folder::CONFIG_FILE;
use crate::tokenizer;
use crate::tokenizer::Vocabulary;
use crate::weights_file::{PICKLE_FILE, SAFETENSORS_FILE};

/// The most bytes of the hub's description of a repository.
const DESCRIPTION_LIMIT_BYTES: u64 = 32 << 20;
/// The most bytes of one file.
const FILE_LIMIT_BYTES: u64 = 256 << 30;
/// Bytes between two reports of progress.
const CHUNK_BYTES: usize = 1 << 18;

/// A download in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer<'a> {
    /// The file's name in the repository.
    pub file: &'a str,
    /// Bytes that have come.
    pub done_bytes: u64,
    /// Bytes that will have come; `None` where the hub does not say.
    pub total_bytes: Option<u64>,
}

/// Downloads what the snapshot of `repository` lacks; gives its folder. Blocks.
///
/// # Errors
/// The hub refuses or cannot be reached, a file is not what was announced, or the cache cannot be written.
pub fn download(
    client: &Client,
    cache: &Cache,
    repository: &Repository,
    progress: &mut dyn FnMut(&Transfer<'_>),
) -> Result<PathBuf, HubError> {
    let (commit, files) = describe(client, repository)?;
    let snapshot = cache.snapshot_folder(&commit);
    for file in choose(repository, &files)? {
        if !snapshot.join(file).is_file() {
            let job = Job { client, cache, repository, commit: &commit, file };
            job.fetch(progress)?;
        }
    }
    // Last, so that a broken download is not taken for the revision.
    cache.refer(repository.revision(), &commit)?;
    match missing_parts(&snapshot).first() {
        Some(part) => Err(HubError::Part { repository: repository.to_string(), part }),
        None => Ok(snapshot),
    }
}

/// The commit of the revision, and the names of its files.
fn describe(client: &Client, repository: &Repository) -> Result<(String, Vec<String>), HubError> {
    let what = repository.to_string();
    let path = format!("/api/models/{}/revision/{}", repository.id(), repository.revision().replace('/', "%2F"));
    let Answer { host, mut response } = client.get(repository, &path, &what, &mut |_| Redirect::Follow)?;
    let odd = |reason| HubError::Answer { host: host.clone(), what: what.clone(), reason };
    let bytes = response
        .body_mut()
        .with_config()
        .limit(DESCRIPTION_LIMIT_BYTES)
        .read_to_vec()
        .map_err(|error| client.broken(host.clone(), &what, &error))?;
    let description: Value = serde_json::from_slice(&bytes).map_err(|_| odd("something that is not JSON"))?;
    let commit = description["sha"].as_str().filter(|commit| is_commit(commit)).ok_or_else(|| odd("no commit"))?;
    let siblings = description["siblings"].as_array().ok_or_else(|| odd("no list of files"))?;
    let names = siblings.iter().filter_map(|sibling| sibling["rfilename"].as_str()).map(str::to_owned);
    Ok((commit.to_owned(), names.collect()))
}

/// The files that make a model, out of those that the repository has.
fn choose(repository: &Repository, files: &[String]) -> Result<Vec<&'static str>, HubError> {
    let has = |name: &str| files.iter().any(|file| file == name);
    let lacks = |part| Err(HubError::Part { repository: repository.to_string(), part });
    if !has(CONFIG_FILE) {
        return lacks("config.json");
    }
    let weights = match [SAFETENSORS_FILE, PICKLE_FILE].into_iter().find(|file| has(file)) {
        Some(file) => file,
        None if files.iter().any(|file| file.ends_with(".index.json")) => {
            return lacks("weights in one file, only in parts; save it as one model.safetensors");
        }
        None => return lacks("model.safetensors or pytorch_model.bin"),
    };
    if !Vocabulary::ALL.iter().any(|vocabulary| vocabulary.is_among(has)) {
        return lacks("tokenizer.json or vocab.txt, or vocab.json with merges.txt");
    }
    // Small files first: what is wrong with them shows before the weights are fetched.
    let present = tokenizer::FILES.into_iter().filter(|file| has(file));
    Ok([CONFIG_FILE].into_iter().chain(present).chain([weights]).collect())
}

/// One file of one commit.
struct Job<'a> {
    client: &'a Client,
    cache: &'a Cache,
    repository: &'a Repository,
    commit: &'a str,
    file: &'static str,
}

/// What the hub says of a file's content.
#[derive(Debug, Default)]
struct Announced {
    etag: Option<String>,
    size_bytes: Option<u64>,
}

impl Job<'_> {
    fn fetch(&self, progress: &mut dyn FnMut(&Transfer<'_>)) -> Result<(), HubError> {
        let path = format!("/{}/resolve/{}/{}", self.repository.id(), self.commit, self.file);
        let what = format!("{} of {}", self.file, self.repository);
        let mut linked = Announced::default();
        let answer = self.client.get(self.repository, &path, &what, &mut |redirect| {
            linked.take(redirect, "x-linked-etag", "x-linked-size");
            let cached = linked.etag.as_ref().is_some_and(|etag| self.has_blob(etag, linked.size_bytes));
            if cached { Redirect::Stop } else { Redirect::Follow }
        })?;
        let mut announced = linked;
        announced.take(&answer.response, "x-linked-etag", "x-linked-size");
        if !answer.response.status().is_redirection() {
            announced.take(&answer.response, "etag", "content-length");
        }
        let Some(etag) = announced.etag.clone() else {
            return Err(HubError::Answer { host: answer.host, what, reason: "no usable etag" });
        };
        let lock = self.cache.lock(&etag)?;
        if !self.has_blob(&etag, announced.size_bytes) {
            self.receive(answer, &etag, &announced, progress)?;
        }
        drop(lock);
        self.cache.link(self.commit, self.file, &etag)
    }

    fn has_blob(&self, etag: &str, size_bytes: Option<u64>) -> bool {
        let found = fs::metadata(self.cache.blob(etag)).ok().filter(fs::Metadata::is_file);
        found.is_some_and(|blob| size_bytes.is_none_or(|size| blob.len() == size))
    }

    /// Writes the body under a provisional name, and gives it its own once it is whole.
    fn receive(
        &self,
        answer: Answer,
        etag: &str,
        announced: &Announced,
        progress: &mut dyn FnMut(&Transfer<'_>),
    ) -> Result<(), HubError> {
        let blob = self.cache.blob(etag);
        let draft = blob.with_file_name(format!("{etag}.incomplete"));
        make_parent(&draft)?;
        let received = self.copy(answer, &draft, announced.size_bytes, progress);
        let checked = received.and_then(|(found, digest)| match (announced.size_bytes, Digest::from_hex(etag)) {
            (Some(size), _) if size != found => {
                Err(HubError::WrongSize { file: self.file.into(), announced: size, found })
            }
            // Large files are named by their SHA-256; others by a digest of git that covers more than the content.
            (_, Some(expected)) if expected != digest => Err(HubError::WrongDigest { file: self.file.into() }),
            _ => fs::rename(&draft, &blob).map_err(HubError::io(&blob)),
        });
        if checked.is_err() {
            // The first error is the one to tell; a draft left behind is overwritten by the next try.
            fs::remove_file(&draft).ok();
        }
        checked
    }

    fn copy(
        &self,
        answer: Answer,
        draft: &Path,
        total_bytes: Option<u64>,
        progress: &mut dyn FnMut(&Transfer<'_>),
    ) -> Result<(u64, Digest), HubError> {
        let mut out = File::create(draft).map_err(HubError::io(draft))?;
        let mut body = answer.response.into_body().into_with_config().limit(u64::MAX).reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        let (mut hash, mut done_bytes) = (Sha256::new(), 0);
        loop {
            progress(&Transfer { file: self.file, done_bytes, total_bytes });
            let read = match body.read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.broken(&answer.host, &error, done_bytes, total_bytes)),
            };
            done_bytes += read as u64;
            if done_bytes > total_bytes.unwrap_or(FILE_LIMIT_BYTES).min(FILE_LIMIT_BYTES) {
                let limit_bytes = total_bytes.unwrap_or(FILE_LIMIT_BYTES);
                return Err(HubError::TooLarge { file: self.file.into(), limit_bytes });
            }
            hash.update(&chunk[..read]);
            out.write_all(&chunk[..read]).map_err(HubError::io(draft))?;
        }
        out.sync_all().map_err(HubError::io(draft))?;
        Ok((done_bytes, Digest(hash.finalize().into())))
    }

    fn broken(&self, host: &str, error: &io::Error, found: u64, total_bytes: Option<u64>) -> HubError {
        let file = self.file.to_owned();
        match total_bytes {
            Some(announced) if error.kind() == io::ErrorKind::UnexpectedEof => {
                HubError::WrongSize { file, announced, found }
            }
            _ => match error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>()) {
                Some(error) => self.client.broken(host.into(), &file, error),
                None => HubError::Network { host: host.into(), what: file, reason: error.kind().to_string() },
            },
        }
    }
}

impl Announced {
    /// Takes what a response adds to what is known.
    fn take(&mut self, response: &Response<Body>, etag: &str, size: &str) {
        if self.etag.is_none() {
            self.etag = header(response, etag).and_then(usable_etag);
        }
        if self.size_bytes.is_none() {
            self.size_bytes = header(response, size).and_then(|size| size.parse().ok());
        }
    }
}

/// An etag without its quotes, if it can be a file's name.
fn usable_etag(etag: &str) -> Option<String> {
    let bare = etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"');
    let usable =
        (8..=128).contains(&bare.len()) && bare.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    usable.then(|| bare.to_owned())
}
