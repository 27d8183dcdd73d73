//! Whose certificates connections to a hub or a tracker trust: those that the world trusts, or those of a file, as where a
//! clinic's own proxy reads all that goes out.

use std::ffi::OsString;
use std::path::PathBuf;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::bounded_file::read_text;

/// The variables by which Python's clients are told of such a file, the first that is set first.
pub(crate) const CLIENT_VARIABLES: [&str; 3] = ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"];

/// The most bytes such a file may have: all that the world trusts have 250 KB.
const FILE_LIMIT_BYTES: u64 = 16 << 20;

/// Why a file of certificates cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{variable} is {}: {problem}; name a file of certificates (PEM), or unset {variable}", path.display())]
pub struct TrustError {
    /// The variable that names it.
    variable: &'static str,
    /// The file.
    path: PathBuf,
    /// What is wrong with it.
    problem: String,
}

/// What connections of a client trust where the first of `variables` that is set names a file. Blocks.
///
/// # Errors
/// The file cannot be read, or holds no certificate.
pub(crate) fn trust(
    variables: &[&'static str],
    variable: &dyn Fn(&str) -> Option<OsString>,
) -> Result<TlsConfig, TrustError> {
    let named = |name: &&'static str| Some((*name, variable(name).filter(|value| !value.is_empty())?));
    let Some((variable, path)) = variables.iter().find_map(named) else { return Ok(TlsConfig::default()) };
    let path = PathBuf::from(path);
    let failed = |problem: String| TrustError { variable, path: path.clone(), problem };
    let pem = read_text(&path, FILE_LIMIT_BYTES).map_err(|error| failed(error.to_string()))?;
    let certificates: Vec<Certificate<'static>> = parse_pem(pem.as_bytes())
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
            Ok(_) => None,
            Err(error) => Some(Err(failed(error.to_string()))),
        })
        .collect::<Result<_, _>>()?;
    if certificates.is_empty() {
        return Err(failed("no certificate is in it".to_owned()));
    }
    Ok(TlsConfig::builder().root_certs(RootCerts::from(certificates)).build())
}

#[cfg(test)]
#[path = "trust_test.rs"]
pub(crate) mod tests;
