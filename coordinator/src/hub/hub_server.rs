//! A small hub for the tests: the addresses of huggingface.co over plain HTTP, on a free port.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What was asked of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub path: String,
    pub authorization: Option<String>,
}

/// An answer: status, headers without the length, body. The announced length can be made wrong.
#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub announced_bytes: Option<usize>,
    /// How long the connection stays open after the last byte.
    pub silence: Duration,
}

impl Reply {
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, body: body.into(), ..Self::default() }
    }

    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A running server; it stops when it is dropped.
pub struct Server {
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
    replies: Arc<Mutex<BTreeMap<String, Reply>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (requests, replies) = <(Arc<Mutex<Vec<Request>>>, Arc<Mutex<BTreeMap<String, Reply>>>)>::default();
        let (seen, known) = (requests.clone(), replies.clone());
        let thread = thread::spawn(move || {
            while let Some((stream, request)) = listener.accept().ok().and_then(|(stream, _)| read(stream)) {
                if request.path == "/stop" {
                    break;
                }
                let reply = known.lock().unwrap().get(&request.path).cloned();
                seen.lock().unwrap().push(request);
                answer(stream, &reply.unwrap_or_else(|| Reply::status(404)));
            }
        });
        Self { address, requests, replies, thread: Some(thread) }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn serve(&self, path: impl Into<String>, reply: Reply) {
        self.replies.lock().unwrap().insert(path.into(), reply);
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        TcpStream::connect(&self.address).unwrap().write_all(b"GET /stop HTTP/1.1\r\n\r\n").unwrap();
        self.thread.take().unwrap().join().unwrap();
    }
}

fn read(stream: TcpStream) -> Option<(TcpStream, Request)> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let path = lines.next()?.ok()?.split(' ').nth(1)?.to_owned();
    let mut authorization = None;
    for line in lines.map_while(Result::ok).take_while(|line| !line.is_empty()) {
        if let Some(("authorization", value)) = line.split_once(": ") {
            authorization = Some(value.to_owned());
        }
    }
    Some((stream, Request { path, authorization }))
}

fn answer(mut stream: TcpStream, reply: &Reply) {
    let length = reply.announced_bytes.unwrap_or(reply.body.len());
    let mut head = format!("HTTP/1.1 {} X\r\nconnection: close\r\ncontent-length: {length}\r\n", reply.status);
    reply.headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    // A client that has seen enough may have gone.
    stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(&reply.body)).ok();
    thread::sleep(reply.silence);
}
