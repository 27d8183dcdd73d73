//! The connections of a port: how many there may be, and who makes room.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

use super::standing::{Calls, Standing, Trust};

/// How long accepting waits where the system has no room for another connection.
const NO_ROOM: Duration = Duration::from_millis(50);

/// How long a connection may do nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idle {
    /// For so long without a call that is allowed; then for ever, where both sides are alive.
    UntilProven(Duration),
    /// For so long without a byte.
    AtMost(Duration),
}

/// The connections of a port. Where there are too many, the one that has shown the least goes, the oldest of equals.
#[derive(Debug, Clone)]
pub struct Connections {
    open: Arc<Mutex<Open>>,
    limit: usize,
    idle: Idle,
    calls: Calls,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// Dropping a sender closes its connection.
    known: BTreeMap<u64, (Standing, oneshot::Sender<()>)>,
}

/// Connections as they come in.
#[derive(Debug)]
pub struct Incoming {
    listener: TcpListener,
    connections: Connections,
    pause: Option<Pin<Box<Sleep>>>,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    standing: Standing,
    number: u64,
    connections: Connections,
    closed: oneshot::Receiver<()>,
    deadline: Pin<Box<Sleep>>,
}

impl Connections {
    /// At most `limit` connections that may do nothing for as long as `idle` says, and make so many `calls` each.
    #[must_use]
    pub fn new(limit: usize, idle: Idle, calls: Calls) -> Self {
        Self { open: Arc::default(), limit, idle, calls }
    }

    /// The connections that come in at `listener`.
    #[must_use]
    pub fn incoming(self, listener: TcpListener) -> Incoming {
        Incoming { listener, connections: self, pause: None }
    }

    /// Lets a connection in; `None` where there is no room and nobody who could make some.
    fn admit(&self, stream: TcpStream) -> Option<Connection> {
        // Small messages go at once; one that cannot be told so is only slower.
        stream.set_nodelay(true).ok();
        let standing = Standing::new(stream.peer_addr().ok(), stream.local_addr().ok(), self.calls);
        let (close, closed) = oneshot::channel();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.known.len() >= self.limit {
            let least = open.known.iter().map(|(number, (standing, _))| (standing.trust(), *number)).min();
            let (_, number) = least.filter(|(trust, _)| *trust < Trust::Member)?;
            open.known.remove(&number);
        }
        let number = open.next;
        open.next += 1;
        open.known.insert(number, (standing.clone(), close));
        drop(open);
        let (Idle::UntilProven(limit) | Idle::AtMost(limit)) = self.idle;
        let deadline = Box::pin(sleep(limit));
        Some(Connection { stream, standing, number, connections: self.clone(), closed, deadline })
    }
}

impl Stream for Incoming {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(context)) {
                Ok((stream, _)) => {
                    if let Some(connection) = self.connections.admit(stream) {
                        return Poll::Ready(Some(Ok(connection)));
                    }
                }
                // No file descriptors, as a rule: asking again at once would only burn the processor.
                Err(_) => self.pause = Some(Box::pin(sleep(NO_ROOM))),
            }
        }
    }
}

impl Connection {
    /// Fails where the connection is to be closed.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let made_room = Pin::new(&mut self.closed).poll(context).is_ready();
        if made_room || self.standing.is_condemned() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let is_due = match self.connections.idle {
            Idle::UntilProven(_) => self.standing.trust() == Trust::Stranger,
            Idle::AtMost(_) => true,
        };
        if is_due && self.deadline.as_mut().poll(context).is_ready() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// Notes that bytes have passed.
    fn moved<T>(&mut self, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let (Poll::Ready(Ok(_)), Idle::AtMost(limit)) = (&outcome, self.connections.idle) {
            self.deadline.as_mut().reset(Instant::now() + limit);
        }
        outcome
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).known.remove(&self.number);
    }
}

impl Connected for Connection {
    type ConnectInfo = Standing;

    fn connect_info(&self) -> Standing {
        self.standing.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.moved(outcome)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.moved(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.moved(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[path = "connections_test.rs"]
mod tests;
