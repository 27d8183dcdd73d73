//! A plain HTTP/1 client: one request a connection.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its code.
    pub code: u16,
    /// Its headers, in lower case.
    pub head: String,
    /// Its content.
    pub body: String,
}

/// Makes a request; `lines` are headers, each with its line's end.
#[must_use]
pub fn request(address: &str, method: &str, path: &str, lines: &str) -> Answer {
    let mut stream = TcpStream::connect(address).expect("connect to the port for probes");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set a timeout");
    let head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n{lines}\r\n");
    stream.write_all(head.as_bytes()).expect("send the request");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read the answer");
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer but {text:?}"));
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a code");
    Answer { code, head: head.to_lowercase(), body: body.to_owned() }
}

/// Asks for a page, as Prometheus and kubelets do.
#[must_use]
pub fn get(address: &str, path: &str) -> Answer {
    request(address, "GET", path, &format!("host: {address}\r\n"))
}
