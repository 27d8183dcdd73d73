//! A private authority for one cluster: certificates for the coordinator, tokens for all.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use medley_proto::access::{AUTHORITY, CERTIFICATE, KEY, TOKEN};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};

use super::{CLIENT_AUTHORITY, Role, TOKENS};

/// How far back certificates are valid: the clocks of a cluster differ.
const SKEW: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// The names that clients reach a coordinator by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts(Vec<String>);

/// Why there are no certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// The folder is there.
    #[error("{} is there already; name a new folder, so that nobody's key is replaced", path.display())]
    Exists {
        /// The folder.
        path: PathBuf,
    },
    /// The disk refuses.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The folder or file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A name that no certificate can carry.
    #[error("make a certificate for {hosts}: {source}")]
    Certificate {
        /// The names.
        hosts: String,
        /// The reason.
        source: rcgen::Error,
    },
}

impl Hosts {
    /// The names and addresses that are given, and those of the coordinator's own machine.
    #[must_use]
    pub fn new(given: &[String]) -> Self {
        let own = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
        let mut hosts: Vec<String> = given.iter().cloned().chain(own).collect();
        let mut known = std::collections::BTreeSet::new();
        hosts.retain(|host| known.insert(host.clone()));
        Self(hosts)
    }
}

/// An authority, or a certificate that it has signed.
struct Signed {
    certificate: String,
    key: String,
}

/// Makes `folder` with an authority, a folder for the coordinator and one for each role; all certificates are valid for
/// `days`. With `mutual`, clients have certificates as well and need them. Blocks.
///
/// # Errors
/// The folder exists, the disk refuses, or a name cannot be in a certificate; nothing is left behind then.
pub fn make(folder: &Path, hosts: &Hosts, days: u32, mutual: bool) -> Result<(), CertificatesError> {
    let disk = |source| CertificatesError::Disk { path: folder.to_owned(), source };
    if folder.symlink_metadata().is_ok() {
        return Err(CertificatesError::Exists { path: folder.to_owned() });
    }
    let failed = |source| CertificatesError::Certificate { hosts: hosts.0.join(", "), source };
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(disk)?;
    // All or nothing: the folder appears with everything in it.
    let owner = fs::Permissions::from_mode(0o700);
    let draft = tempfile::Builder::new().prefix(".medley-credentials").permissions(owner).tempdir_in(parent);
    let draft = draft.map_err(disk)?;
    let until = SystemTime::now() + DAY * days;
    let (authority, issuer) = authority(until).map_err(failed)?;
    let mut tokens = String::from("# role token\n");
    let root = draft.path();
    write(root, AUTHORITY, &authority.certificate)?;
    write(root, "ca.key", &authority.key)?;
    for role in Role::ALL {
        let own = subfolder(root, role.name())?;
        let token = token().map_err(disk)?;
        tokens.push_str(&format!("{} {token}\n", role.name()));
        write(&own, TOKEN, &token)?;
        write(&own, AUTHORITY, &authority.certificate)?;
        if mutual {
            let name = format!("medley-{}", role.name());
            write_pair(&own, &signed(&issuer, &name, &[], until).map_err(failed)?)?;
        }
    }
    let own = subfolder(root, "coordinator")?;
    write_pair(&own, &signed(&issuer, "medley-coordinator", &hosts.0, until).map_err(failed)?)?;
    write(&own, TOKENS, &tokens)?;
    write(&own, AUTHORITY, &authority.certificate)?;
    if mutual {
        write(&own, CLIENT_AUTHORITY, &authority.certificate)?;
    }
    let draft = draft.keep();
    fs::rename(&draft, folder).map_err(|source| {
        // What cannot be removed either is the reader's to see: its name begins with a dot beside the folder.
        fs::remove_dir_all(&draft).ok();
        disk(source)
    })
}

fn authority(until: SystemTime) -> Result<(Signed, Issuer<'static, KeyPair>), rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, "Medley cluster authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (SystemTime::now() - SKEW).into();
    params.not_after = until.into();
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    let signed = Signed { certificate, key: key.serialize_pem() };
    Ok((signed, Issuer::new(params, key)))
}

fn signed(
    issuer: &Issuer<'static, KeyPair>,
    name: &str,
    hosts: &[String],
    until: SystemTime,
) -> Result<Signed, rcgen::Error> {
    let mut params = CertificateParams::new(hosts.to_vec())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // The coordinator's own workers show its certificate.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if !hosts.is_empty() {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.not_before = (SystemTime::now() - SKEW).into();
    params.not_after = until.into();
    let key = KeyPair::generate()?;
    Ok(Signed { certificate: params.signed_by(&key, issuer)?.pem(), key: key.serialize_pem() })
}

/// 256 random bits, in hexadecimal.
pub(crate) fn token() -> io::Result<String> {
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn subfolder(parent: &Path, name: &str) -> Result<PathBuf, CertificatesError> {
    let path = parent.join(name);
    let made = DirBuilder::new().mode(0o700).create(&path);
    made.map_err(|source| CertificatesError::Disk { path: path.clone(), source })?;
    Ok(path)
}

fn write_pair(folder: &Path, pair: &Signed) -> Result<(), CertificatesError> {
    write(folder, CERTIFICATE, &pair.certificate)?;
    write(folder, KEY, &pair.key)
}

/// Writes a file that only its owner can read.
fn write(folder: &Path, name: &str, text: &str) -> Result<(), CertificatesError> {
    let path = folder.join(name);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
    let written = file.and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(|source| CertificatesError::Disk { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Admission, Security};
    use medley_proto::access::Access;

    #[test]
    fn what_is_made_can_be_used_by_every_role_and_read_by_nobody_else() {
        let here = tempfile::tempdir().unwrap();
        for mutual in [false, true] {
            let folder = here.path().join(format!("mutual-{mutual}"));
            make(&folder, &Hosts::new(&["node1.example.org".to_owned(), "10.0.0.5".to_owned()]), 30, mutual).unwrap();
            let security = Security::load(&folder.join("coordinator")).unwrap();
            assert!(security.tls.is_some());
            for role in Role::ALL {
                let own = folder.join(role.name());
                let token = fs::read_to_string(own.join(TOKEN)).unwrap();
                assert_eq!(security.keyring.admit(role, Some(&token)), Admission::Known);
                assert!(Access::load(Some(&own), None).unwrap().is_encrypted());
                assert_eq!(own.join(KEY).exists(), mutual);
                assert_eq!(fs::metadata(own.join(TOKEN)).unwrap().permissions().mode() & 0o077, 0);
            }
            assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
            assert_eq!(fs::metadata(folder.join("ca.key")).unwrap().permissions().mode() & 0o077, 0);
        }
    }

    #[test]
    fn a_folder_that_is_there_is_left_alone_and_a_bad_name_leaves_nothing() {
        let here = tempfile::tempdir().unwrap();
        let taken = make(here.path(), &Hosts::new(&[]), 30, false).unwrap_err();
        assert!(matches!(taken, CertificatesError::Exists { .. }), "{taken}");
        let folder = here.path().join("new");
        make(&folder, &Hosts::new(&["naïve.example".to_owned()]), 30, false).unwrap_err();
        assert_eq!(fs::read_dir(here.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_coordinators_folder_must_have_what_it_needs() {
        let here = tempfile::tempdir().unwrap();
        make(&here.path().join("new"), &Hosts::new(&[]), 30, false).unwrap();
        let missing = |folder: &str| Security::load(&here.path().join("new").join(folder)).unwrap_err().to_string();
        assert!(missing("worker").contains("has no tls.crt"), "{}", missing("worker"));
        fs::remove_file(here.path().join("new/coordinator/tokens")).unwrap();
        assert!(missing("coordinator").contains("has no tokens"));
    }
}
