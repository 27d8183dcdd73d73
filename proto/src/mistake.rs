//! What is wrong with a connection for good: a certificate, or a port where nobody speaks this protocol.
//!
//! Such a thing does not pass by waiting, so whoever calls says it at once instead of trying again.

use std::error::Error;
use std::io;

use rustls::{CertificateError, Error as TlsError};

/// Why a connection can never stand as it was asked for, and the way out; `None` where it may yet.
///
/// Times are left out where a clock may be wrong by a little: a certificate that is not valid yet will be.
#[must_use]
pub fn mistake(error: &(dyn Error + 'static)) -> Option<String> {
    if let Some(tls) = error.downcast_ref::<TlsError>() {
        return words(tls);
    }
    // An I/O error does not tell of the error in it as its source, only of that one's.
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match inner {
        Some(inner) => mistake(inner),
        None => mistake(error.source()?),
    }
}

fn words(error: &TlsError) -> Option<String> {
    let TlsError::InvalidCertificate(problem) = error else {
        // An answer in the clear.
        return matches!(error, TlsError::InvalidMessage(_)).then(|| {
            "it does not speak TLS: it was started without --credentials, or this is the port of --http_listen"
                .to_owned()
        });
    };
    Some(match problem {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not signed by the authority in ca.crt: name the folder that was made together with the \
             coordinator's own"
                .to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: make new credentials with `medley init-certs`, and start it again with them"
                .to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "its certificate is not for the name {}: call it by one that it is for ({}), or make another with `medley \
             init-certs DIR --host NAME`",
            expected.to_str(),
            presented.join(", ")
        ),
        CertificateError::NotValidForName => {
            "its certificate is not for this name: call it by one that it is for, or make another with `medley init-certs \
             DIR --host NAME`"
                .to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => return None,
        other => format!("its certificate cannot be used ({other:?}): make another with `medley init-certs DIR`"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(error: TlsError) -> io::Error {
        io::Error::other(io::Error::new(io::ErrorKind::InvalidData, error))
    }

    #[test]
    fn what_waiting_does_not_mend_is_told_with_the_way_out() {
        for (problem, way_out) in [
            (CertificateError::UnknownIssuer, "name the folder that was made together"),
            (CertificateError::Expired, "make new credentials"),
            (CertificateError::NotValidForName, "--host NAME"),
            (CertificateError::Revoked, "cannot be used (Revoked)"),
        ] {
            let told = mistake(&wrapped(TlsError::InvalidCertificate(problem))).unwrap();
            assert!(told.contains(way_out), "{told}");
        }
        let plain = TlsError::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        assert!(mistake(&plain).unwrap().contains("does not speak TLS"));
    }

    #[test]
    fn what_may_pass_is_none() {
        assert_eq!(mistake(&io::Error::from(io::ErrorKind::ConnectionRefused)), None);
        assert_eq!(mistake(&wrapped(TlsError::InvalidCertificate(CertificateError::NotValidYet))), None);
        assert_eq!(mistake(&wrapped(TlsError::HandshakeNotComplete)), None);
    }
}
