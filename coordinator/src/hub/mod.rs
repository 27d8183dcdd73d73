//! Models by name: a folder, the Hugging Face cache, or a download into that cache.
//!
//! The cache has the layout of `huggingface_hub`, so that models fetched by either are found by both. A model that is
//! cached is never asked for again; a token never appears in an error or in `Debug` output.

pub mod cache;
pub mod client;
pub mod download;
pub mod environment;
pub mod error;
pub mod progress_bar;
pub mod repository;

use std::path::{Path, PathBuf};

use cache::Cache;
use client::Client;
use download::{Transfer, download};
use environment::{HubEnv, Network};
pub use error::HubError;
use repository::Repository;

/// The folder of a model: `name` itself if it is a folder, else the snapshot of the hub's repository `name`
/// (`org/name`, `name`, either with `@revision`), which is downloaded if it is not cached. Blocks.
///
/// # Errors
/// There is no such folder or repository, a download is forbidden or fails.
pub fn resolve(name: &str, env: &HubEnv, progress: &mut dyn FnMut(&Transfer<'_>)) -> Result<PathBuf, HubError> {
    let path = Path::new(name);
    if path.is_dir() {
        return Ok(path.into());
    }
    if path.is_file() {
        return Err(HubError::NotAFolder { path: path.into() });
    }
    let repository = Repository::parse(name)?;
    let cache = Cache::new(env.cache.as_deref().ok_or(HubError::NoCache)?, &repository);
    let missing = match cache.snapshot(repository.revision())? {
        Some(snapshot) => match cache::missing_parts(&snapshot) {
            missing if missing.is_empty() => return Ok(snapshot),
            missing => missing,
        },
        None => Vec::new(),
    };
    if let Network::Forbidden { by } = env.network {
        let (repository, cache) = (repository.to_string(), cache.root().to_owned());
        return Err(match missing.is_empty() {
            true => HubError::Offline { repository, cache, by },
            false => HubError::OfflineIncomplete { repository, cache, by, missing: missing.join(", ") },
        });
    }
    download(&Client::new(env)?, &cache, &repository, progress)
}

#[cfg(test)]
#[path = "hub_server.rs"]
mod hub_server;

#[cfg(test)]
#[path = "hub_test.rs"]
mod tests;
