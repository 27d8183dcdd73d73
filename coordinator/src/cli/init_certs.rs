//! `medley init-certs`: for which hosts to make certificates, and where.

use std::path::PathBuf;

use crate::access::{CertificatesError, Hosts, make_certificates};

/// What `medley init-certs` was asked.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct InitCerts {
    /// Folder to make, with one for the coordinator, its workers, viewers and operators
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Name or address that the coordinator is reached by; may be given more than once
    #[arg(long = "host", value_name = "HOST")]
    pub hosts: Vec<String>,
    /// Days that the certificates are valid
    #[arg(long, value_name = "N", default_value_t = 825, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    pub days: u32,
    /// Have workers, viewers and operators prove who they are by certificates as well
    #[arg(long)]
    pub mutual: bool,
}

impl InitCerts {
    /// Makes the folder and says what to do with it. Blocks.
    ///
    /// # Errors
    /// See [`CertificatesError`].
    pub fn make(&self) -> Result<String, CertificatesError> {
        make_certificates(&self.folder, &Hosts::new(&self.hosts), self.days, self.mutual)?;
        let folder = self.folder.display();
        let host = self.hosts.first().map_or("127.0.0.1", String::as_str);
        Ok(format!(
            "made {folder}: keep {folder}/ca.key away from the cluster; give each its own folder alone:\n\
             \x20 medley serve --listen 0.0.0.0:29400 --credentials {folder}/coordinator ...\n\
             \x20 medley-worker --coordinator {host}:29400 --credentials {folder}/worker\n\
             \x20 medley status --coordinator {host}:29400 --credentials {folder}/viewer"
        ))
    }
}
