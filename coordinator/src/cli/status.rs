//! `medley status`: which run to ask, and how to show it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// How to reach a run's coordinator.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Reach {
    /// Where the run's coordinator listens
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:29400")]
    pub coordinator: CoordinatorAddress,
    /// Folder with ca.crt and token, of a coordinator that other machines reach [default: $MEDLEY_CREDENTIALS]
    #[arg(long, value_name = "DIR")]
    pub credentials: Option<PathBuf>,
}

/// What `medley status` was asked.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Status {
    /// Which run.
    #[command(flatten)]
    pub reach: Reach,
    /// Go on showing until the run ends
    #[arg(long)]
    pub watch: bool,
    /// Show JSON, one object a line
    #[arg(long)]
    pub json: bool,
}

/// A host and a port, as in `node1:29400`; not looked up yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoordinatorAddress(String);

impl CoordinatorAddress {
    /// The host and the port, with a colon between them.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CoordinatorAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for CoordinatorAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let address = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        match address.rsplit_once(':') {
            Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok_and(|port| port > 0) => {
                Ok(Self(address.to_owned()))
            }
            _ => Err("expected a host and a port, e.g. 127.0.0.1:29400".into()),
        }
    }
}

/// A name, an IPv4 address, or an IPv6 address in brackets.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok()),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    }
}
