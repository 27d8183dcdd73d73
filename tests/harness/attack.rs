//! What a stranger may send to a port: each attack is bounded, and counts what it got through. Errors are no news to an
//! attacker.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What an HTTP/2 client says first, with its settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
const PATIENCE: Duration = Duration::from_secs(2);

/// Bytes that look like nothing, the same for the same seed.
#[must_use]
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

fn connect(address: &str) -> Option<TcpStream> {
    let stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    stream.set_write_timeout(Some(PATIENCE)).ok()?;
    Some(stream)
}

/// Sends `bytes` and reads until the other side ends or is slow; whether it could connect.
fn send(address: &str, bytes: &[u8]) -> bool {
    let Some(mut stream) = connect(address) else { return false };
    if stream.write_all(bytes).is_ok() {
        stream.shutdown(std::net::Shutdown::Write).ok();
        let mut answer = vec![0; 1 << 16];
        while matches!(stream.read(&mut answer), Ok(1..)) {}
    }
    true
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), content].concat()
}

/// The headers of a call, without compression.
fn headers(stream: u32, path: &str, end: bool) -> Vec<u8> {
    let literal = |name: &str, value: &str| {
        [&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
    };
    let block = [
        // :method POST, :scheme http
        vec![0x83, 0x86],
        literal(":path", path),
        literal(":authority", "coordinator"),
        literal("content-type", "application/grpc"),
        literal("te", "trailers"),
    ];
    frame(1, if end { 5 } else { 4 }, stream, &block.concat())
}

/// Everything that is not a call: noise, half a greeting, other protocols; on `rounds` connections of each kind.
#[must_use]
pub fn garbage(address: &str, rounds: u64) -> usize {
    let mut sent = 0;
    for round in 0..rounds {
        let greeting = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
        let cut = PREFACE[..PREFACE.len() / 2].to_vec();
        let after = [PREFACE, &noise(round + 1, 4096)].concat();
        let request = b"GET /../../etc/passwd HTTP/1.1\r\nhost: x\r\n\r\n".to_vec();
        let endless = [b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'a'; 1 << 20]].concat();
        for bytes in [noise(round, 1 << 16), greeting, cut, after, request, endless] {
            sent += usize::from(send(address, &bytes));
        }
    }
    sent
}

/// Frames that HTTP/2 allows, or nearly, as many as fit: settings, pings, windows, calls that are taken back at once.
#[must_use]
pub fn frames(address: &str, count: u32) -> usize {
    let many = |one: &dyn Fn(u32) -> Vec<u8>| [PREFACE.to_vec(), (0..count).flat_map(one).collect()].concat();
    let path = "/medley.v1.StatusService/GetStatus";
    let taken_back =
        |call: u32| [headers(2 * call + 1, path, false), frame(3, 0, 2 * call + 1, &[0, 0, 0, 8])].concat();
    let floods = [
        many(&|_| frame(4, 0, 0, &[])),
        many(&|ping| frame(6, 0, 0, &u64::from(ping).to_be_bytes())),
        many(&|_| frame(8, 0, 0, &[0, 0, 0, 1])),
        many(&taken_back),
        // A header that never ends.
        many(&|part| frame(if part == 0 { 1 } else { 9 }, 0, 1, &[0; 64])),
        // A frame that says it has 16 MiB, and a message that says it has 4 GiB.
        [PREFACE, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat(),
        [PREFACE.to_vec(), headers(1, path, false), frame(0, 1, 1, &[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3])].concat(),
    ];
    floods.iter().filter(|flood| send(address, flood)).count()
}

/// Connections that are opened and say nothing, or nearly nothing; they stay open as long as what is returned.
#[must_use]
pub fn silence(address: &str, count: usize) -> Vec<TcpStream> {
    let open = |number: usize| {
        let mut stream = connect(address)?;
        let words: [&[u8]; 3] = [b"", b"P", PREFACE];
        stream.write_all(words[number % words.len()]).ok()?;
        Some(stream)
    };
    (0..count).filter_map(open).collect()
}
