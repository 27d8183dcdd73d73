//! Where a coordinator is reached.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// The port that a coordinator listens on, and is looked for at, where nobody says otherwise.
pub const PORT: u16 = 29_400;

/// A host and a port, as in `node1:29400`; not looked up yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoordinatorAddress(String);

impl CoordinatorAddress {
    /// The coordinator on `host`, a name or an address; `None` where it is neither.
    #[must_use]
    pub fn on(host: &str, port: u16) -> Option<Self> {
        let bare = host.parse::<Ipv6Addr>().is_ok();
        let host = if bare { format!("[{host}]") } else { host.to_owned() };
        format!("{host}:{port}").parse().ok()
    }

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
        Some(rest) => rest.strip_suffix(']').is_some_and(|ip| ip.parse::<Ipv6Addr>().is_ok()),
        None => !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        let on = |host, port| CoordinatorAddress::on(host, port).map(|address| address.to_string());
        assert_eq!(on("node1", PORT).as_deref(), Some("node1:29400"));
        assert_eq!(on("fd00::1", 7).as_deref(), Some("[fd00::1]:7"));
        assert_eq!(on("[fd00::1]", 7).as_deref(), Some("[fd00::1]:7"));
        for (host, port) in [("", 7), ("two words", 7), ("node1:7", 7), ("node1", 0), ("$(id)", 7)] {
            assert_eq!(on(host, port), None, "{host}:{port}");
        }
    }
}
