//! How a worker gets into a run: it says who it is, and fetches all that it computes with.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use medley_common::identity::{Known, ProcessMark};
use medley_common::message::{Command, Event, Hello, PROTOCOL, Welcome};

use crate::agent::{AgentError, Settings};
use crate::display::say;
use crate::engine::Preparation;
use crate::holding::Holding;
use crate::session::{Coordinator, Session, SessionError};

/// Between two attempts to open a session.
const PAUSE: Duration = Duration::from_secs(1);

/// Opens the session and waits for the first command: whoever listens there may be no coordinator at all. Notes in
/// `met` that one has opened it. Where others have all sessions that there are, it tries again while `patience` lasts.
///
/// # Errors
/// The session broke, or nothing came.
pub async fn greet(
    coordinator: &Coordinator,
    hello: Hello,
    (address, patience): (&str, Duration),
    met: &mut bool,
) -> Result<(Session, Option<Command>), AgentError> {
    let (started, mut told) = (Instant::now(), false);
    let greeting = async {
        let mut session = loop {
            match coordinator.open(Event::from(hello.clone())).await {
                Err(error @ SessionError::Full { .. }) if started.elapsed() < patience.saturating_sub(PAUSE) => {
                    if !std::mem::replace(&mut told, true) {
                        say(&format!(
                            "{error}; tried for {} s more",
                            patience.saturating_sub(started.elapsed()).as_secs()
                        ));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                opened => break opened?,
            }
        };
        *met = true;
        let first = session.command().await?;
        Ok((session, first))
    };
    match tokio::time::timeout(patience, greeting).await {
        Ok(greeted) => greeted,
        Err(_) => Err(AgentError::Silent { address: address.to_owned() }),
    }
}

/// Everything the engine needs comes through the coordinator: no data set, no tokenizer, no shared disk.
///
/// # Errors
/// The session broke, or what came is damaged.
pub async fn fetch(
    coordinator: &Coordinator,
    welcome: Welcome,
    (collective, settings): (SocketAddr, &Settings),
) -> Result<Preparation, SessionError> {
    let mut examples = BTreeMap::new();
    for info in &welcome.splits {
        examples.insert(info.split, coordinator.examples(welcome.worker, info.split, info.rows).await?);
    }
    let mut artifacts = BTreeMap::new();
    for artifact in &welcome.artifacts {
        let bytes = coordinator.artifact((welcome.worker, welcome.start), artifact).await?;
        artifacts.insert(artifact.kind, (artifact.file_name.clone(), bytes));
    }
    let (place, shared_memory) = (settings.place.clone(), settings.shared_memory);
    Ok(Preparation { welcome, examples, artifacts, collective, place, shared_memory })
}

/// Who this worker is, and what it holds.
#[must_use]
pub fn hello(
    settings: &Settings,
    (process, session): (ProcessMark, u64),
    known: Option<&Known>,
    holding: Option<&Holding>,
) -> Hello {
    Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        host: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        pid: std::process::id(),
        process,
        session,
        device: settings.place.to_string(),
        gpu: settings.place.gpu(settings.shares_gpu),
        processor: settings.place.processor(),
        threads: settings.threads,
        program: settings.program,
        known: known.cloned(),
        held: holding.and_then(Holding::held).map(Box::new),
    }
}

/// The local address that packets to `coordinator` leave from: connecting a datagram socket sends nothing.
///
/// # Errors
/// None leads there.
pub fn route_to(coordinator: &str) -> std::io::Result<IpAddr> {
    use std::net::ToSocketAddrs;
    let mut last = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
    for address in coordinator.to_socket_addrs()? {
        let any: SocketAddr = if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        match UdpSocket::bind(any).and_then(|socket| {
            socket.connect(address)?;
            socket.local_addr()
        }) {
            Ok(local) => return Ok(local.ip()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_coordinators_are_reached_from_loopback() {
        assert_eq!(route_to("127.0.0.1:29400").unwrap(), IpAddr::from([127, 0, 0, 1]));
        assert!(route_to("nobody.invalid:1").is_err());
    }
}
