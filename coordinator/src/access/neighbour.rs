//! Whose process is at the other end of a connection within this machine, as the kernel knows it.

use std::net::{IpAddr, SocketAddr};

/// The user whose socket is at `peer`, connected to `own`; `None` where that is another machine's, or not known.
/// Blocks for as long as the kernel lists its sockets.
#[must_use]
pub fn user(peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    if !peer.ip().to_canonical().is_loopback() {
        return None;
    }
    let tables = ["/proc/self/net/tcp", "/proc/self/net/tcp6"];
    tables.into_iter().find_map(|table| find(&std::fs::read_to_string(table).ok()?, peer, own))
}

/// The owner of the socket in one of the kernel's tables.
fn find(table: &str, peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    // The other end has the same two addresses, the other way round.
    let ends = [written(peer), written(own)];
    table.lines().skip(1).find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().take(8).collect();
        let [_, local, remote, state, _, _, _, user] = words[..] else { return None };
        let is_it = (0..2).any(|form| local == ends[0][form] && remote == ends[1][form]);
        // A socket that is about to go belongs to nobody, which reads as root.
        (is_it && state == "01").then(|| user.parse().ok()).flatten()
    })
}

/// An address as the tables have it: as version 4, where it is, and as version 6.
fn written(address: SocketAddr) -> [String; 2] {
    let port = address.port();
    let (four, six) = match address.ip().to_canonical() {
        IpAddr::V4(ip) => (format!("{:08X}:{port:04X}", u32::from_ne_bytes(ip.octets())), ip.to_ipv6_mapped()),
        IpAddr::V6(ip) => (String::new(), ip),
    };
    let words = six.octets();
    let words = words.chunks_exact(4).map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let six: String = words.map(|word| format!("{word:08X}")).collect();
    [four, format!("{six}:{port:04X}")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_connection_within_this_machine_has_an_owner() {
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            // Some machines have no IPv6.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            let host = if address.starts_with("[::1]") { "::1" } else { "127.0.0.1" };
            let _client = TcpStream::connect((host, port)).unwrap();
            let (served, peer) = listener.accept().unwrap();
            assert_eq!(user(peer, served.local_addr().unwrap()), Some(rustix::process::getuid().as_raw()), "{address}");
        }
    }

    #[test]
    fn only_a_connection_that_stands_has_one() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
             \x20  0: 0100007F:1F90 0100007F:A0B1 01 00000000:00000000 00:00000000 00000000     0        0 1 1\n\
             \x20  1: 0100007F:A0B1 0100007F:1F90 01 00000000:00000000 00:00000000 00000000  1000        0 2 1\n\
             \x20  2: 0100007F:A0B2 0100007F:1F90 06 00000000:00000000 03:00000000 00000000     0        0 0 3\n";
        let own: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        assert_eq!(find(table, "127.0.0.1:41137".parse().unwrap(), own), Some(1000));
        assert_eq!(find(table, "127.0.0.1:41138".parse().unwrap(), own), None);
        assert_eq!(find("nonsense\n\n1 2 3", own, own), None);
        assert_eq!(user("10.0.0.1:5".parse().unwrap(), own), None);
    }
}
