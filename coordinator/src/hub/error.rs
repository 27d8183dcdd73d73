//! Why a model cannot be had.

use std::io;
use std::path::{Path, PathBuf};

use crate::trust::TrustError;

/// Why a model cannot be had. No variant holds a token or a signed address.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// The name is that of a file.
    #[error("{} is a file; expected a model's folder or a name on the hub", path.display())]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },
    /// The name is neither a folder nor a possible repository.
    #[error("\"{name}\" is no folder, and no name on the hub either: {reason}")]
    Name {
        /// The name, cut and escaped.
        name: String,
        /// What rules it out.
        reason: &'static str,
    },
    /// No cache folder can be named.
    #[error("neither HF_HOME nor HOME is set, so there is no model cache; set HF_HOME")]
    NoCache,
    /// Not cached, and downloads are forbidden.
    #[error(
        "{repository} is not in the cache ({}) and {by} forbids a download; unset {by}, or copy the model there or \
         into a folder", cache.display()
    )]
    Offline {
        /// The repository.
        repository: String,
        /// Where it would be.
        cache: PathBuf,
        /// The variable that forbids.
        by: &'static str,
    },
    /// Partly cached, and downloads are forbidden.
    #[error(
        "{repository} is in the cache ({}) without {missing}, and {by} forbids a download; unset {by}, or complete it",
        cache.display()
    )]
    OfflineIncomplete {
        /// The repository.
        repository: String,
        /// Where it is.
        cache: PathBuf,
        /// What it lacks.
        missing: String,
        /// The variable that forbids.
        by: &'static str,
    },
    /// The cache names a revision that cannot be one.
    #[error("{} does not hold a commit; delete it", path.display())]
    Reference {
        /// The file.
        path: PathBuf,
    },
    /// The address of the hub cannot be used.
    #[error("HF_ENDPOINT is no address; expected one as https://huggingface.co")]
    Endpoint,
    /// The token cannot be used.
    #[error("the token from {origin} cannot be used: {reason}")]
    Token {
        /// The variable or file it comes from.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The certificates that are to be trusted cannot be had.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The hub wants a token.
    #[error(
        "{host} refuses {repository} ({status}) without a token; it is private, gated or does not exist: set HF_TOKEN \
         to a token that may read it"
    )]
    NeedsToken {
        /// The hub.
        host: String,
        /// The repository.
        repository: String,
        /// HTTP status.
        status: u16,
    },
    /// The hub refuses the token.
    #[error(
        "{host} refuses {repository} ({status}) to the token of HF_TOKEN; check the token, and accept the model's \
         terms on its page if it is gated"
    )]
    TokenRefused {
        /// The hub.
        host: String,
        /// The repository.
        repository: String,
        /// HTTP status.
        status: u16,
    },
    /// There is no such repository, revision or file.
    #[error("{host} has no {what}; check the name and the revision")]
    NotFound {
        /// The hub.
        host: String,
        /// What was asked for.
        what: String,
    },
    /// Another status.
    #[error("{host} answers with status {status} for {what}; try again later")]
    Status {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// No answer, or a broken one.
    #[error("cannot fetch {what} from {host}: {reason}")]
    Network {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// What happened.
        reason: String,
    },
    /// The hub stopped talking.
    #[error(
        "cannot fetch {what} from {host}: no data for {seconds} s; run the same command again, which fetches what is \
         missing (files that are whole are kept), or set HF_HUB_DOWNLOAD_TIMEOUT to wait longer"
    )]
    Silent {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// How long nothing came.
        seconds: u64,
    },
    /// An answer that makes no sense.
    #[error("{host} answers for {what} with {reason}; is it a Hugging Face hub?")]
    Answer {
        /// The host.
        host: String,
        /// What was asked for.
        what: String,
        /// What is odd.
        reason: &'static str,
    },
    /// The repository lacks a part that every model needs.
    #[error("{repository} has no {part}")]
    Part {
        /// The repository.
        repository: String,
        /// What it lacks.
        part: &'static str,
    },
    /// A file has another size than announced.
    #[error("{file} has {found} bytes, announced were {announced}; the download broke off, try again")]
    WrongSize {
        /// The file.
        file: String,
        /// What the hub announced.
        announced: u64,
        /// What came.
        found: u64,
    },
    /// A file has another content than announced.
    #[error("{file} does not have the SHA-256 that the hub announced; try again")]
    WrongDigest {
        /// The file.
        file: String,
    },
    /// A file is larger than any file of a model.
    #[error("{file} has more than {limit_bytes} bytes")]
    TooLarge {
        /// The file.
        file: String,
        /// The limit.
        limit_bytes: u64,
    },
    /// The cache cannot be read or written.
    #[error("cannot use {} in the model cache: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl HubError {
    /// Names the path of a failed operation.
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::Io { path: path.into(), source }
    }
}
