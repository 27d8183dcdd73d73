//! A plain HTTP/1 client: one request a connection, or far too many.

use std::io::{BufRead, BufReader, Read, Write};
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

/// Server-sent events, as a browser reads them.
#[derive(Debug)]
pub struct Events {
    reader: BufReader<TcpStream>,
    /// What has come of the message after the last whole one.
    text: String,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Its id, to come back with.
    pub id: String,
    /// What kind it is of.
    pub event: String,
    /// Its content.
    pub data: String,
}

impl Events {
    /// Asks for `path`, after the message `last` where one was read before.
    #[must_use]
    pub fn listen(address: &str, path: &str, last: Option<&str>) -> Self {
        let mut stream = TcpStream::connect(address).expect("connect to the port for browsers");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set a timeout");
        let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let head = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: Mozilla/5.0\r\n{last}\r\n");
        stream.write_all(head.as_bytes()).expect("send the request");
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).expect("read the answer");
        assert!(line.contains(" 200 "), "{line}");
        while line != "\r\n" {
            line.clear();
            reader.read_line(&mut line).expect("read a header");
        }
        Self { reader, text: String::new() }
    }

    /// One piece of the content; nothing where it ends.
    fn piece(&mut self) -> Option<String> {
        let mut size = String::new();
        self.reader.read_line(&mut size).expect("read the size of a piece");
        let size = usize::from_str_radix(size.trim(), 16).ok().filter(|size| *size > 0)?;
        let mut piece = vec![0; size + 2];
        self.reader.read_exact(&mut piece).expect("read a piece");
        piece.truncate(size);
        Some(String::from_utf8(piece).expect("text"))
    }
}

impl Iterator for Events {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        while !self.text.contains("\n\n") {
            let piece = self.piece()?;
            self.text.push_str(&piece);
        }
        let (message, rest) = self.text.split_once("\n\n").map(|(one, rest)| (one.to_owned(), rest.to_owned()))?;
        self.text = rest;
        let field = |name: &str| {
            let found = message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            found.unwrap_or_else(|| panic!("no {name} in {message}")).to_owned()
        };
        Some(Message { id: field("id"), event: field("event"), data: field("data") })
    }
}
