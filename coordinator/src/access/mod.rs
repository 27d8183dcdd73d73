//! Who may call the coordinator, and how often: transport security, tokens with a role each, limits.

mod bucket;
mod certificates;
mod connections;
mod guard;
mod keyring;
pub mod limits;
mod neighbour;
mod standing;

pub use bucket::Bucket;
pub(crate) use certificates::token;
pub use certificates::{CertificatesError, Hosts, make as make_certificates};
pub use connections::{Connections, Idle};
pub use guard::Guard;
pub use keyring::{Admission, Keyring, Role};
pub use standing::{Attending, Calls, Standing, Trust};

use std::path::{Path, PathBuf};

use medley_proto::access::{AccessError, identity, read};
use tonic::transport::{Certificate, ServerTlsConfig};

/// The file with the tokens that the coordinator knows.
pub const TOKENS: &str = "tokens";
/// The authority whose certificates clients must have, where they prove who they are by one.
pub const CLIENT_AUTHORITY: &str = "client-ca.crt";

/// What the coordinator asks of its callers.
#[derive(Debug, Clone, Default)]
pub struct Security {
    /// Certificates; `None` where connections are in the clear.
    pub tls: Option<ServerTlsConfig>,
    /// Tokens.
    pub keyring: Keyring,
}

/// Why a coordinator cannot be made secure.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// A file that cannot be used.
    #[error(transparent)]
    File(#[from] AccessError),
    /// A folder for clients, or something else.
    #[error(
        "{} has no {missing}; expected the coordinator's folder that `medley init-certs` has made: tls.crt, tls.key, \
         and tokens or client-ca.crt", path.display()
    )]
    Incomplete {
        /// The folder.
        path: PathBuf,
        /// What is not in it.
        missing: &'static str,
    },
    /// A line of the file of tokens; what it holds is not shown.
    #[error("{}:{line}: {problem}", path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
}

impl Security {
    /// Reads the coordinator's folder: `tls.crt`, `tls.key`, and `tokens` or `client-ca.crt` or both. Blocks.
    ///
    /// # Errors
    /// A file is missing, cannot be read, or makes no sense.
    pub fn load(folder: &Path) -> Result<Self, SecurityError> {
        let incomplete = |missing| SecurityError::Incomplete { path: folder.to_owned(), missing };
        let identity = identity(folder)?.ok_or_else(|| incomplete("tls.crt"))?;
        let clients = read(&folder.join(CLIENT_AUTHORITY))?;
        let path = folder.join(TOKENS);
        let keyring = match (read(&path)?, &clients) {
            (Some(tokens), _) => {
                let bad = |(line, problem)| SecurityError::Tokens { path, line, problem };
                Keyring::parse(&String::from_utf8_lossy(&tokens)).map_err(bad)?
            }
            // Whoever has such a certificate may do all.
            (None, Some(_)) => Keyring::open(),
            (None, None) => return Err(incomplete("tokens")),
        };
        let tls = ServerTlsConfig::new().identity(identity);
        let tls = match clients {
            Some(authority) => tls.client_ca_root(Certificate::from_pem(authority)),
            None => tls,
        };
        Ok(Self { tls: Some(tls), keyring })
    }

    /// Draws a token for the workers that the coordinator starts itself, and makes it known.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn admit_local(&mut self) -> std::io::Result<String> {
        let token = certificates::token()?;
        self.keyring.add(Role::Worker, &token);
        Ok(token)
    }
}
