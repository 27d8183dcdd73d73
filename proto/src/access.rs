//! How a client reaches its coordinator: in the clear on this machine, by TLS and with a token elsewhere.
//!
//! A folder holds what it takes, under the names that Kubernetes and cert-manager use: `ca.crt`, `token`, and for
//! clients that prove who they are by a certificate, `tls.crt` and `tls.key`.

use std::fmt;
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

/// The certificate of the authority that has signed the other side's.
pub const AUTHORITY: &str = "ca.crt";
/// One's own certificate.
pub const CERTIFICATE: &str = "tls.crt";
/// The private key of one's own certificate.
pub const KEY: &str = "tls.key";
/// A client's token.
pub const TOKEN: &str = "token";
/// The environment variable that names the folder.
pub const FOLDER_VARIABLE: &str = "MEDLEY_CREDENTIALS";
/// The environment variable with a client's token; comes before the file.
pub const TOKEN_VARIABLE: &str = "MEDLEY_TOKEN";

/// The header in which a session's worker is told its pass, and shows it with what it was ordered to send.
pub const PASS: &str = "medley-session";

/// The longest file of credentials that is read.
const LIMIT_BYTES: u64 = 1 << 20;

/// A client's credentials. As an interceptor it shows the token with every call.
#[derive(Clone, Default)]
pub struct Access {
    tls: Option<ClientTlsConfig>,
    authorization: Option<MetadataValue<Ascii>>,
    /// Whether the environment's token came before one of the folder's.
    overrides: bool,
    /// Whether whatever is called is on this machine, by whatever address.
    stays_here: bool,
}

/// Never shows the token.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tls, authorization, .. } = self;
        f.debug_struct("Access").field("tls", &tls.is_some()).field("token", &authorization.is_some()).finish()
    }
}

/// Why credentials cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A file that cannot be read.
    #[error("{}: {reason}; `medley init-certs` makes such a folder", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's reason. Part of the message, so it is not offered as a source a second time.
        reason: std::io::Error,
    },
    /// A file that is far too long.
    #[error("{} has over {LIMIT_BYTES} bytes; expected a certificate, a key or a token", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// A folder without what it takes.
    #[error("{} has neither ca.crt nor token; expected a folder that `medley init-certs` has made", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
    },
    /// A token with other than visible characters; it is not shown.
    #[error("the token in {origin} has characters that no token has; expected one line of letters and digits")]
    Token {
        /// The file or variable.
        origin: String,
    },
    /// A token that others in the network could read.
    #[error(
        "a token is not sent to {address} in the clear; name the folder that has ca.crt by --credentials or \
         {FOLDER_VARIABLE}, or unset {TOKEN_VARIABLE} where the coordinator asks for none"
    )]
    InTheClear {
        /// The coordinator's address.
        address: String,
    },
    /// An address or a certificate that cannot be used.
    #[error("{address}: {reason}")]
    Endpoint {
        /// The coordinator's address.
        address: String,
        /// What is wrong.
        reason: String,
    },
}

impl Access {
    /// Reads the credentials in `folder`, if one is named; `token` comes before the folder's. Blocks.
    ///
    /// # Errors
    /// The folder holds none, a file cannot be read, or the token is none.
    pub fn load(folder: Option<&Path>, token: Option<&str>) -> Result<Self, AccessError> {
        let mut access = Self::default();
        if let Some(folder) = folder {
            access.tls = tls(folder)?;
            let path = folder.join(TOKEN);
            if let Some(token) = read(&path)? {
                access.authorization = Some(authorization(&token, || path.display().to_string())?);
            }
            if access.tls.is_none() && access.authorization.is_none() {
                return Err(AccessError::Empty { path: folder.to_owned() });
            }
        }
        if let Some(token) = token {
            access.overrides = access.authorization.is_some();
            access.authorization = Some(authorization(token.as_bytes(), || TOKEN_VARIABLE.to_owned())?);
        }
        Ok(access)
    }

    /// Reads the credentials in `folder`, else in the folder that `MEDLEY_CREDENTIALS` names; `MEDLEY_TOKEN` comes
    /// before the folder's token. Blocks.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn from_environment(folder: Option<&Path>) -> Result<Self, AccessError> {
        let variable = std::env::var_os(FOLDER_VARIABLE).filter(|folder| !folder.is_empty()).map(PathBuf::from);
        Self::load(folder.or(variable.as_deref()), std::env::var(TOKEN_VARIABLE).ok().as_deref())
    }

    /// These credentials, for a coordinator on this machine: its token may go there in the clear, by any of the machine's
    /// addresses.
    #[must_use]
    pub fn on_this_machine(self) -> Self {
        Self { stays_here: true, ..self }
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.tls.is_some()
    }

    /// What a coordinator says that denies a call, and whose token that was where one might think of another.
    #[must_use]
    pub fn denied(&self, message: &str) -> String {
        if self.overrides {
            return format!("{message}; the token is {TOKEN_VARIABLE}'s, which comes before that of --credentials");
        }
        message.to_owned()
    }

    /// The coordinator at `address` (`host:port`), to connect to.
    ///
    /// # Errors
    /// The address or the certificates cannot be used, or the token would be sent to another machine in the clear.
    pub fn endpoint(&self, address: &str) -> Result<Endpoint, AccessError> {
        let is_readable = self.tls.is_none() && self.authorization.is_some() && !self.stays_here;
        if is_readable && !is_loopback(address) {
            return Err(AccessError::InTheClear { address: address.to_owned() });
        }
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let failed = |error: tonic::transport::Error| AccessError::Endpoint {
            address: address.to_owned(),
            reason: root_cause(&error),
        };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(failed)?;
        match &self.tls {
            Some(tls) => endpoint.tls_config(tls.clone()).map_err(failed),
            None => Ok(endpoint),
        }
    }
}

/// Whether what is sent to `address` (`host:port`) does not leave this machine.
fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

impl Interceptor for Access {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(authorization) = &self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
        Ok(request)
    }
}

/// The innermost error of a chain: transport errors say little at their surface.
#[must_use]
pub fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    // What rustls says of a connection that was cut ends with a page about it, which is no help to a person.
    text.split_once(": https://").map_or(text.clone(), |(reason, _)| reason.to_owned())
}

/// What a call came to, in words: the coordinator's own, or why it was not reached.
#[must_use]
pub fn describe(status: &Status, is_encrypted: bool) -> String {
    use std::error::Error;
    if status.source().is_none() && !status.message().is_empty() && !status.message().contains("404 Not Found") {
        return status.message().to_owned();
    }
    // A web server's answer, in the words of a library that expects another protocol.
    if status.message().contains("404 Not Found") {
        return "it speaks HTTP, but not this protocol: is it the port of --http_listen?".to_owned();
    }
    let cause = root_cause(status);
    if is_encrypted {
        return cause;
    }
    format!("{cause}; if it was started with --credentials, this needs them as well")
}

/// Whether a call was turned away for want of a right token.
#[must_use]
pub fn is_denied(status: &Status) -> bool {
    matches!(status.code(), tonic::Code::Unauthenticated | tonic::Code::PermissionDenied)
}

/// The content of a file of credentials; `None` where there is no such file. Blocks.
///
/// # Errors
/// It cannot be read, or is far too long.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>, AccessError> {
    let unreadable = |reason| AccessError::Unreadable { path: path.to_owned(), reason };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        // A folder that is missing is a mistake; a file in it may be.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path.parent().is_some_and(Path::is_dir) => {
            return Ok(None);
        }
        Err(error) => return Err(unreadable(error)),
    };
    let mut bytes = Vec::new();
    file.take(LIMIT_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LIMIT_BYTES {
        return Err(AccessError::TooLong { path: path.to_owned() });
    }
    Ok(Some(bytes))
}

/// One's own certificate and its key; `None` where there is no certificate. Blocks.
///
/// # Errors
/// A file cannot be read, or there is a certificate without its key.
pub fn identity(folder: &Path) -> Result<Option<Identity>, AccessError> {
    let Some(certificate) = read(&folder.join(CERTIFICATE))? else { return Ok(None) };
    let path = folder.join(KEY);
    let missing = || AccessError::Unreadable { path: path.clone(), reason: std::io::ErrorKind::NotFound.into() };
    let key = read(&path)?.ok_or_else(missing)?;
    Ok(Some(Identity::from_pem(certificate, key)))
}

fn tls(folder: &Path) -> Result<Option<ClientTlsConfig>, AccessError> {
    let Some(authority) = read(&folder.join(AUTHORITY))? else { return Ok(None) };
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority));
    Ok(Some(match identity(folder)? {
        Some(identity) => config.identity(identity),
        None => config,
    }))
}

fn authorization(token: &[u8], origin: impl Fn() -> String) -> Result<MetadataValue<Ascii>, AccessError> {
    let token = token.trim_ascii();
    let bad = || AccessError::Token { origin: origin() };
    if token.is_empty() || !token.iter().all(u8::is_ascii_graphic) {
        return Err(bad());
    }
    let mut value = MetadataValue::try_from([b"Bearer ", token].concat()).map_err(|_| bad())?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_shown_with_every_call_and_never_printed() {
        let mut access = Access::load(None, Some("s3cret\n")).unwrap();
        let request = access.call(Request::new(())).unwrap();
        let header = request.metadata().get("authorization").unwrap();
        assert_eq!(header.to_str().unwrap(), "Bearer s3cret");
        assert!(!format!("{access:?} {header:?}").contains("s3cret"));
    }

    #[test]
    fn a_token_that_comes_before_another_is_named_where_it_is_denied() {
        let folder = std::env::temp_dir().join(format!("medley-access-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(TOKEN), "operators").unwrap();
        let denied = |token| Access::load(Some(&folder), token).unwrap().denied("no");
        assert_eq!(denied(None), "no");
        assert!(denied(Some("viewers")).contains("MEDLEY_TOKEN"), "{}", denied(Some("viewers")));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn what_cannot_be_a_token_is_named_but_not_shown() {
        let error = Access::load(None, Some("two words")).unwrap_err().to_string();
        assert!(error.contains("MEDLEY_TOKEN") && !error.contains("words"), "{error}");
    }

    #[test]
    fn a_folder_without_credentials_is_an_error_that_says_how_to_make_one() {
        let here = std::env::temp_dir();
        let missing = here.join("medley-no-such-folder");
        let error = Access::load(Some(&missing), None).unwrap_err().to_string();
        assert!(error.contains("medley-no-such-folder") && error.contains("medley init-certs"), "{error}");
    }

    #[test]
    fn a_token_leaves_the_machine_encrypted_or_not_at_all() {
        let access = Access::load(None, Some("s3cret")).unwrap();
        for address in ["127.0.0.1:1", "127.8.8.8:1", "localhost:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(access.endpoint(address).is_ok(), "{address}");
        }
        for address in ["10.0.0.1:1", "node1:1", "localhost.example:1", "[fd00::7]:1", "127.0.0.1.example:1"] {
            let error = access.endpoint(address).unwrap_err().to_string();
            assert!(error.contains("in the clear") && error.contains(address) && !error.contains("s3cret"), "{error}");
            assert!(
                access.clone().on_this_machine().endpoint(address).is_ok()
                    && Access::default().endpoint(address).is_ok()
            );
        }
    }

    #[test]
    fn without_credentials_connections_are_in_the_clear() {
        let endpoint = Access::default().endpoint("127.0.0.1:29400").unwrap();
        assert_eq!(endpoint.uri().scheme_str(), Some("http"));
        assert!(Access::default().endpoint("no address").is_err());
    }
}
