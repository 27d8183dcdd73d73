//! Ranks that share memory: whether they do, and what becomes of sums where one of them is mad, slow or dead.

use std::io::{ErrorKind, IoSlice};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use medley_common::identity::Rank;
use medley_common::lane::LaneTree;
use medley_common::plan::mix;
use rustix::event::{PollFd, Timespec, poll};

use super::duet::{Duet, duet, duet_with_false_offer};
use super::frame::Kind;
use super::handshake::Offer;
use super::local_group::{BOTH, SETTINGS, forms, head, join, lane, listener, run, split};
use super::ring::RING_BYTES;
use super::shared_memory::{self, Offered};
use super::wire::Wire;
use super::{Collective, CollectiveError, TcpSettings};
use crate::layout::Segment;

const SHARED: TcpSettings = TcpSettings { shared_memory: true, ..SETTINGS };

#[test]
fn it_is_said_what_sums_travel_over() {
    for (settings, way) in BOTH.into_iter().zip(["TCP", "shared memory"]) {
        let said = run(&split(3, 3), settings, |_, tcp| tcp.describe().unwrap());
        for said in said {
            assert_eq!(said, format!("3 ranks on 1 host (127.0.0.1: 3) over {way}"));
        }
    }
}

/// Sums of a group whose ranks have different settings, and what each says of its way.
fn group(settings: [TcpSettings; 3]) -> Vec<String> {
    let listeners = [listener(), listener(), listener()];
    let forms = forms(&listeners, 3, &split(3, 3));
    std::thread::scope(|scope| {
        let ranks = listeners.iter().zip(&forms).zip(settings).enumerate();
        let threads = ranks.map(|(rank, ((listener, form), settings))| {
            scope.spawn(move || {
                let mut tcp = join(listener, form, settings).unwrap();
                let node = LaneTree::new(3).cover(split(3, 3)[rank].clone())[0];
                tcp.launch(Segment::Head, vec![(node, head())]).unwrap();
                assert!(tcp.fence().unwrap().segments[0].1.iter().all(|sum| *sum == 3.0));
                tcp.describe().unwrap()
            })
        });
        threads.collect::<Vec<_>>().into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn who_does_not_share_is_summed_with_over_tcp() {
    let said = group([SHARED, SHARED, SETTINGS]);
    assert!(said[0].ends_with("over shared memory with 1 and TCP with 1 of them"), "{said:?}");
    assert!(said[2].ends_with("over TCP"), "{said:?}");
    let said = group([SETTINGS, SHARED, SHARED]);
    assert!(said[0].ends_with("over TCP"), "{said:?}");
    assert!(said[1].ends_with("with 1 of them; no memory is shared with rank 0: it takes none"), "{said:?}");
}

/// As where another machine, or another container, has the same address.
#[test]
fn an_offer_of_what_is_not_there_is_declined() {
    let other = Offered::new().unwrap();
    let (process, nonce) = (std::process::id(), *other.nonce());
    let foreign = std::fs::File::open("/dev/null").unwrap();
    let swapped = Offer::new(process, other.descriptor(), &[1; 32]);
    let offers = [
        (swapped, "is not the memory that it offers"),
        (Offer::new(process, u32::MAX, &nonce), "No such file"),
        (Offer::new(u32::MAX, 0, &nonce), "No such file"),
        // Of the process that runs this test, but not of its kind.
        (
            Offer::new(process, foreign.as_raw_fd().unsigned_abs(), &nonce),
            "not memory that a worker of this user shares",
        ),
    ];
    for (offer, why) in offers {
        let Duet { mut tcp, mut peer, .. } = duet_with_false_offer(SHARED, &offer);
        let said = tcp.describe().unwrap();
        assert!(said.contains("over TCP; no memory is shared with rank 1: ") && said.contains(why), "{said}");
        tcp.launch(Segment::Head, vec![(lane(0), head())]).unwrap();
        peer.write_all(&[0xab; 48]).unwrap();
        let error = tcp.fence().map(|_| ()).unwrap_err();
        assert!(matches!(error, CollectiveError::Protocol { peer: Rank(1), .. }), "it is heard by TCP: {error}");
    }
}

#[test]
fn a_rank_whose_counters_are_wild_is_named() {
    for wild in [RING_BYTES as u64 + 1, u64::MAX, 1 << 40] {
        let Duet { mut tcp, peer, listeners, .. } = duet(SHARED);
        tcp.launch(Segment::Head, vec![(lane(0), head())]).unwrap();
        peer.wire.lie(wild);
        // Whoever lies may not ring: here it hangs up.
        peer.end();
        let error = tcp.fence().map(|_| ()).unwrap_err();
        assert!(matches!(error, CollectiveError::Protocol { peer: Rank(1), .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&listeners[1].endpoint()) && text.contains(&format!("is {wild}, where 0 to")), "{text}");
    }
}

/// What it had written before it died is read, and then that it is gone.
#[test]
fn a_peer_that_dies_in_the_middle_of_a_frame_is_named_at_once() {
    let started = Instant::now();
    for written in [1, 47, 48, 49, 100] {
        let Duet { mut tcp, mut peer, .. } = duet(SHARED);
        tcp.launch(Segment::Head, vec![(lane(0), head())]).unwrap();
        let header = super::failure_test::due(37).encode();
        assert_eq!(super::failure_test::due(37).kind, Kind::Part);
        peer.write_all(&[&header[..], &[0; 148]].concat()[..written]).unwrap();
        drop(peer);
        let error = tcp.fence().map(|_| ()).unwrap_err();
        assert!(matches!(error, CollectiveError::Connection { peer: Rank(1), .. }), "{written}: {error}");
    }
    assert!(started.elapsed() < Duration::from_secs(10));
}

/// Two ends of one wire that shares memory.
fn wires() -> [Wire; 2] {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    let offered = Offered::new().unwrap();
    let (_, theirs) = shared_memory::open(std::process::id(), offered.descriptor()).unwrap();
    [(one, offered.accepted()), (other, theirs)].map(|(stream, ends)| {
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        Wire::new(stream, Some(ends))
    })
}

/// Pieces of any length both ways at once, by sides that sleep whenever they can: nobody sleeps for ever, and every byte
/// comes, once and in its place.
#[test]
fn whoever_sleeps_is_woken() {
    const BYTES: u64 = 400_000;
    let talk = |mut wire: Wire, seed: u64| {
        let byte = |count: u64, seed: u64| mix(count ^ seed << 40) as u8;
        let (mut written, mut read, mut step, mut slept) = (0, 0, seed, 0);
        while written < BYTES || read < BYTES {
            step += 2;
            let length = 1 + mix(step) % (if step % 5 == 0 { 3 * RING_BYTES as u64 } else { 60 });
            let bytes: Vec<u8> = (written..BYTES.min(written + length)).map(|count| byte(count, seed)).collect();
            let (first, second) = bytes.split_at(bytes.len() / 3);
            let sent = wire.write_vectored(&[IoSlice::new(first), IoSlice::new(second)]);
            let mut into = vec![0; 1 + mix(step + 1) as usize % 400];
            let received = wire.read(&mut into, step % 3 == 0);
            for result in [&sent, &received] {
                assert!(result.as_ref().err().is_none_or(|error| error.kind() == ErrorKind::WouldBlock), "{result:?}");
            }
            written += sent.as_ref().map_or(0, |count| *count as u64);
            for there in &into[..received.as_ref().map_or(0, |count| *count)] {
                assert_eq!(*there, byte(read, 1 - seed), "byte {read}");
                read += 1;
            }
            if sent.is_err() && received.is_err() && wire.sleeps(read < BYTES, written < BYTES).unwrap() {
                slept += 1;
                let mut fds = [PollFd::from_borrowed_fd(wire.fd(), wire.interest(true, true).unwrap())];
                let patience = Timespec { tv_sec: 20, tv_nsec: 0 };
                assert_eq!(poll(&mut fds, Some(&patience)).unwrap(), 1, "{written} bytes written, {read} read");
                wire.hears();
            }
            wire.rises();
        }
        // Neither hangs up before the other has read all.
        (wire, slept)
    };
    std::thread::scope(|scope| {
        let talks = wires().into_iter().zip(0..).map(|(wire, seed)| scope.spawn(move || talk(wire, seed)));
        let ends: Vec<_> = talks.collect::<Vec<_>>().into_iter().map(|talk| talk.join().unwrap()).collect();
        assert!(ends.iter().any(|(_, slept)| *slept > 0));
    });
}
