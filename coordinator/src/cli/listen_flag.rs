//! Where a coordinator listens, as it is typed.

use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// An address of this machine; `localhost` is 127.0.0.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ListenFlag(pub(crate) SocketAddr);

impl FromStr for ListenFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let local = text.strip_prefix("localhost:").map(|port| format!("{}:{port}", Ipv4Addr::LOCALHOST));
        let address = local.as_deref().unwrap_or(text);
        address.parse().map(Self).map_err(|_| "expected an IP address and a port, e.g. 127.0.0.1:29400".into())
    }
}
