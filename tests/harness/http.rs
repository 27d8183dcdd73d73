//! A plain HTTP/1 client: one request a connection, or far too many.

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

/// Asks for a page many times on one connection, without waiting for answers; their codes.
#[must_use]
pub fn flood(address: &str, path: &str, count: usize) -> Vec<u16> {
    let mut stream = TcpStream::connect(address).expect("connect to the port for probes");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set a timeout");
    let one = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n");
    let last = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let mut reader = stream.try_clone().expect("a second handle");
    let read = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).expect("read the answers");
        text
    });
    stream.write_all((one.repeat(count - 1) + &last).as_bytes()).expect("send the requests");
    let text = read.join().expect("the reader");
    text.split("HTTP/1.1 ").skip(1).filter_map(|answer| answer.get(..3)?.parse().ok()).collect()
}
