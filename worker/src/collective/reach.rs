//! Whether a silent peer can still be reached.
//!
//! A peer may be silent because it computes for long, or because what lies between is broken. TCP itself gives up only
//! after a quarter of an hour where data are under way. So whoever has waited for long calls the peer's listener: the
//! peer's system answers, whatever the peer is busy with.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a call may take.
const CALL: Duration = Duration::from_secs(2);

/// Calls `address` and hangs up; a second time where the first was in vain, for packets are lost.
///
/// # Errors
/// Nobody answers there.
pub(super) fn reach(address: &str) -> io::Result<()> {
    let address: SocketAddr = address.parse().map_err(|error| io::Error::new(ErrorKind::InvalidInput, error))?;
    let call = |_| TcpStream::connect_timeout(&address, CALL).map(drop);
    call(()).or_else(|_| call(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collective::Listener;

    #[test]
    fn who_is_busy_is_reached_and_who_is_gone_is_not() {
        let listener = Listener::bind(([127, 0, 0, 1], 0).into()).unwrap();
        for _ in 0..3 {
            reach(&listener.endpoint()).unwrap();
        }
        listener.clear();
        assert!(listener.accept().unwrap().is_none(), "calls are forgotten");
        let endpoint = listener.endpoint();
        drop(listener);
        assert_eq!(reach(&endpoint).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        assert_eq!(reach("nowhere").unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
