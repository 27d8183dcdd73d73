//! What the collective does when peers fail, lie, are silent or are strangers.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use medley_common::identity::{Generation, Rank};
use medley_common::lane::{LaneTree, Node};
use medley_common::plan::mix;

use super::duet::{Duet, duet};
use super::frame::{Header, Kind};
use super::handshake::Greeting;
use super::local_group::{BOTH, SECRET, SETTINGS, WRONG_SECRET, forms, head, join, lane, layout, listener, run, split};
use super::{AbortSwitch, Collective, CollectiveError, SparseRows, Tcp, TcpSettings};
use crate::layout::Segment;

/// Far below the timeouts of [`SETTINGS`]: what happens "at once" happens within.
const AT_ONCE: Duration = Duration::from_secs(10);

/// The header of the first part that is due from rank 1, with so many elements.
pub(super) fn due(count: u32) -> Header {
    Header {
        kind: Kind::Part,
        present: true,
        generation: Generation(3),
        sequence: 0,
        segment: Segment::Head,
        node: lane(1),
        offset: 0,
        count,
    }
}

#[test]
fn a_dead_peer_is_named_at_once() {
    for settings in BOTH {
        let started = Instant::now();
        let results = run(&split(3, 3), settings, |rank, mut tcp| {
            if rank == 2 {
                return None;
            }
            tcp.launch(Segment::Head, vec![(lane(rank as u32), head())]).ok()?;
            let error = tcp.fence().map(|_| ()).unwrap_err();
            assert!(tcp.fence().is_err() && tcp.launch(Segment::Head, Vec::new()).is_err(), "and stays failed");
            Some(error)
        });
        for error in results.into_iter().flatten() {
            // The first to notice leaves, too, so that the other may see it leave first.
            let CollectiveError::Connection { peer, address, .. } = error else { panic!("{error}") };
            assert!(peer < Rank(3) && address.starts_with("127.0.0.1:"));
        }
        assert!(started.elapsed() < AT_ONCE);
    }
}

#[test]
fn the_peer_that_hangs_up_is_the_one_named() {
    for settings in BOTH {
        let Duet { listeners, peer, mut tcp, .. } = duet(settings);
        tcp.launch(Segment::Head, vec![(lane(0), head())]).unwrap();
        drop(peer);
        let text = tcp.fence().map(|_| ()).unwrap_err().to_string();
        assert!(text.starts_with(&format!("rank 1 at {}: ", listeners[1].endpoint())), "{text}");
    }
}

#[test]
fn what_was_handed_over_comes_back_as_it_was() {
    for settings in BOTH {
        let lanes = split(3, 3);
        let parts = run(&lanes, settings, |rank, mut tcp| {
            let node = lane(rank as u32);
            let own = |segment| vec![(node, vec![rank as f32 + 1.0; layout().range(segment).len()])];
            tcp.launch(Segment::Head, own(Segment::Head)).unwrap();
            if rank == 2 {
                // It dies in the middle of the update: the sum of the head may have come about, that of the layer cannot.
                return None;
            }
            // Whether a launch sees the death or not, what it took comes back.
            let late = [tcp.launch(Segment::Layer(1), own(Segment::Layer(1))), tcp.fence().map(|_| ())];
            assert!(late[1].is_err());
            let words = SparseRows { rows: vec![7], values: vec![0.5; 12] };
            assert!(tcp.launch_words(vec![(node, words.clone())]).is_err());
            let parts = tcp.salvage();
            assert_eq!(parts.words, Some(vec![(node, words)]));
            assert_eq!(parts.dense.len(), 2);
            for (segment, nodes) in &parts.dense {
                assert_eq!(*nodes, own(*segment), "{segment:?}");
            }
            assert!(tcp.salvage().dense.is_empty());
            Some(parts)
        });
        assert_eq!(parts.iter().flatten().count(), 2);
    }
}

#[test]
fn a_silent_peer_is_an_error_after_the_timeout() {
    for settings in BOTH {
        let doubt_after = Duration::from_millis(20);
        let settings = TcpSettings { silence_timeout: Duration::from_millis(200), doubt_after, ..settings };
        // It is called, and its system answers.
        let Duet { mut tcp, peer: _peer, listeners: _reachable, .. } = duet(settings);
        let started = Instant::now();
        tcp.launch(Segment::Head, vec![(lane(0), head())]).unwrap();
        let error = tcp.fence().map(|_| ()).unwrap_err();
        let CollectiveError::Connection { peer: Rank(1), doing, source, .. } = error else { panic!("{error}") };
        assert_eq!((doing, source.kind()), ("waiting for its part of a sum", ErrorKind::TimedOut));
        assert!((Duration::from_millis(200)..AT_ONCE).contains(&started.elapsed()));
    }
}

#[test]
fn a_silent_peer_that_cannot_be_reached_is_an_error_soon() {
    for settings in BOTH {
        let Duet { mut tcp, peer: _peer, listeners, .. } =
            duet(TcpSettings { doubt_after: Duration::from_millis(50), ..settings });
        drop(listeners);
        tcp.launch(Segment::Head, vec![(lane(0), head())]).unwrap();
        let error = tcp.fence().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("calling a silent peer"), "{error}");
    }
}

#[test]
fn a_blocked_fence_is_aborted_from_another_thread() {
    for settings in BOTH {
        let listeners = [listener(), listener()];
        let forms = forms(&listeners, 3, &split(2, 2));
        let (aborted, wait) = mpsc::channel();
        let started = Instant::now();
        std::thread::scope(|scope| {
            let (listener, form) = (&listeners[1], &forms[1]);
            let other = scope.spawn(move || {
                let mut tcp = join(listener, form, settings).unwrap();
                wait.recv().unwrap();
                tcp.launch(Segment::Head, vec![(lane(1), head())]).and_then(|()| tcp.fence()).map(|_| ()).unwrap_err()
            });
            let switch = AbortSwitch::new().unwrap();
            let mut tcp = Tcp::connect(&listeners[0], &forms[0], &layout(), settings, switch.clone()).unwrap();
            tcp.launch(Segment::Head, vec![(lane(0), head())]).unwrap();
            scope.spawn(move || switch.abort());
            assert!(matches!(tcp.fence(), Err(CollectiveError::Aborted)));
            assert!(matches!(tcp.launch(Segment::Head, Vec::new()), Err(CollectiveError::Aborted)));
            aborted.send(()).unwrap();
            // The sockets are shut: the peer learns of it although `tcp` still lives.
            let error = other.join().unwrap();
            assert!(matches!(error, CollectiveError::Connection { peer: Rank(0), .. }), "{error}");
            drop(tcp);
        });
        assert!(started.elapsed() < AT_ONCE);
    }
}

#[test]
fn connecting_is_aborted_and_times_out_naming_the_peer() {
    let listeners = [listener(), listener()];
    let forms = forms(&listeners, 3, &split(2, 2));
    for rank in 0..2 {
        let switch = AbortSwitch::new().unwrap();
        std::thread::scope(|scope| {
            let abort = switch.clone();
            scope.spawn(move || abort.abort());
            let result = Tcp::connect(&listeners[rank], &forms[rank], &layout(), SETTINGS, switch);
            assert!(matches!(result, Err(CollectiveError::Aborted)));
        });
        let settings = TcpSettings { connect_timeout: Duration::from_millis(150), ..SETTINGS };
        let text = join(&listeners[rank], &forms[rank], settings).map(|_| ()).unwrap_err().to_string();
        let peer = 1 - rank;
        assert!(text.starts_with(&format!("rank {peer} at {}: ", listeners[peer].endpoint())), "{text}");
        assert!(text.contains("not done after 150 ms"), "{text}");
    }
}

#[test]
fn strangers_are_turned_away_and_block_nobody() {
    let listeners = [listener(), listener()];
    let forms = forms(&listeners, 3, &split(2, 2));
    let address = listeners[0].address();
    let silent: Vec<TcpStream> = (0..100).map(|_| TcpStream::connect(address).unwrap()).collect();
    let greeting = Greeting::new(&forms[1], 1, 0, SETTINGS.chunk_elements);
    let hellos = [
        greeting.hello(&WRONG_SECRET, None).to_vec(),
        Greeting { generation: 2, ..greeting }.hello(&SECRET, None).to_vec(),
        Greeting { from: 0, ..greeting }.hello(&SECRET, None).to_vec(),
        Greeting { from: 9, ..greeting }.hello(&SECRET, None).to_vec(),
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.0 and so on and so on\r\n\r\n".to_vec(),
    ];
    let strangers = hellos.map(|hello| {
        let mut stranger = TcpStream::connect(address).unwrap();
        stranger.write_all(&hello).unwrap();
        stranger
    });
    std::thread::scope(|scope| {
        for (rank, (listener, form)) in listeners.iter().zip(&forms).enumerate() {
            scope.spawn(move || {
                let mut tcp = join(listener, form, SETTINGS).unwrap();
                tcp.launch(Segment::Head, vec![(lane(rank as u32), head())]).unwrap();
                assert_eq!(tcp.fence().unwrap().segments[0].1[0], 2.0);
            });
        }
    });
    for mut stranger in strangers {
        // Closed, or reset because what it said was not read to its end.
        assert!(!matches!(stranger.read(&mut [0; 1]), Ok(1..)));
    }
    drop(silent);
}

#[test]
fn a_listener_serves_one_group_after_another() {
    let listeners = [listener(), listener()];
    for generation in 1..4 {
        let forms = forms(&listeners, generation, &split(2, 2));
        // A caller of the group before, who is late.
        let stale = Greeting { generation: generation - 1, ..Greeting::new(&forms[1], 1, 0, SETTINGS.chunk_elements) };
        TcpStream::connect(listeners[0].address()).unwrap().write_all(&stale.hello(&SECRET, None)).unwrap();
        std::thread::scope(|scope| {
            for (rank, (listener, form)) in listeners.iter().zip(&forms).enumerate() {
                scope.spawn(move || {
                    let mut tcp = join(listener, form, SETTINGS).unwrap();
                    // In generation 2, rank 1 leaves in the middle: before it has handed anything over.
                    if generation != 2 || rank == 0 {
                        tcp.launch(Segment::Head, vec![(lane(rank as u32), head())]).unwrap();
                        assert_eq!(tcp.fence().is_ok(), generation != 2);
                    }
                });
            }
        });
    }
}

#[test]
fn who_has_its_sums_may_leave() {
    for settings in BOTH {
        let lanes = split(3, 3);
        for _ in 0..20 {
            run(&lanes, settings, |rank, mut tcp| {
                let node = LaneTree::new(3).cover(lanes[rank].clone())[0];
                tcp.launch(Segment::Head, vec![(node, head())]).unwrap();
                assert_eq!(tcp.fence().unwrap().segments[0].1[0], 3.0);
                if rank > 0 {
                    // One more sum with rank 0, which has left, fails.
                    tcp.launch(Segment::Head, vec![(node, head())]).ok();
                    assert!(tcp.fence().is_err());
                }
            });
        }
    }
}

#[test]
fn dropping_never_hangs() {
    for settings in BOTH {
        let started = Instant::now();
        run(&split(2, 2), settings, |rank, mut tcp| {
            tcp.launch(
                Segment::Layer(0),
                vec![(lane(rank as u32), vec![0.0; layout().range(Segment::Layer(0)).len()])],
            )
            .unwrap();
        });
        drop(duet(settings));
        assert!(started.elapsed() < AT_ONCE);
    }
}

/// Every field of a frame's header is checked against the one that is due.
#[test]
fn wrong_frames_are_refused() {
    for settings in BOTH {
        let count = 37;
        let wrong = [
            Header { kind: Kind::Sum, ..due(count) },
            Header { generation: Generation(2), ..due(count) },
            Header { sequence: 1, ..due(count) },
            Header { sequence: u64::MAX, ..due(count) },
            Header { segment: Segment::Layer(0), ..due(count) },
            Header { segment: Segment::Words, ..due(count) },
            Header { node: lane(0), ..due(count) },
            Header { node: Node { level: u32::MAX, index: u32::MAX }, ..due(count) },
            Header { offset: 1, ..due(count) },
            Header { offset: u64::MAX, ..due(count) },
            due(count - 1),
            due(u32::MAX),
            Header { present: false, ..due(0) },
        ];
        for header in wrong {
            let Duet { mut peer, mut tcp, .. } = duet(settings);
            tcp.launch(Segment::Head, vec![(lane(0), head())]).unwrap();
            peer.write_all(&header.encode()).unwrap();
            let error = tcp.fence().map(|_| ()).unwrap_err();
            assert!(matches!(error, CollectiveError::Protocol { peer: Rank(1), .. }), "{header:?}: {error}");
        }
        let Duet { mut peer, mut tcp, .. } = duet(settings);
        peer.write_all(&[0xab; 48]).unwrap();
        let error = tcp.fence().and_then(|_| tcp.launch(Segment::Head, Vec::new())).and_then(|()| tcp.fence());
        assert!(matches!(error, Err(CollectiveError::Protocol { .. })), "{error:?}");
    }
}

#[test]
fn wrong_words_are_refused() {
    for settings in BOTH {
        // Rank 0 adds up words 0 to 25 of 53, in rows of 12.
        let wrong: [(u32, &[u32]); 6] =
            [(2, &[5, 5]), (2, &[5, 4]), (1, &[26]), (1, &[u32::MAX]), (27, &[]), (u32::MAX, &[])];
        for (count, rows) in wrong {
            let Duet { mut peer, mut tcp, .. } = duet(settings);
            tcp.launch_words(vec![(lane(0), SparseRows { rows: vec![3], values: vec![1.0; 12] })]).unwrap();
            let header = Header { segment: Segment::Words, ..due(count) };
            let values = vec![0.5f32; rows.len() * 12];
            let frame = [&header.encode()[..], bytemuck::cast_slice(rows), bytemuck::cast_slice(&values)].concat();
            peer.write_all(&frame).unwrap();
            let error = tcp.fence().map(|_| ()).unwrap_err();
            assert!(matches!(error, CollectiveError::Protocol { peer: Rank(1), .. }), "{count} {rows:?}: {error}");
        }
    }
}

/// What a true peer sends, with a few bytes changed: other numbers, or an error that names the peer.
#[test]
fn damaged_streams_never_panic() {
    for settings in BOTH {
        let length = head().len();
        let frames = (0..length / 2).step_by(37).map(|offset| {
            let count = 37.min(length / 2 - offset);
            let header = Header { offset: offset as u64, ..due(count as u32) };
            [&header.encode()[..], &vec![0; count * 4]].concat()
        });
        let stream: Vec<u8> = frames.collect::<Vec<_>>().concat();
        let mut refused = 0;
        for case in 0..150u64 {
            let mut damaged = stream.clone();
            for flip in 0..=case % 3 {
                let random = mix(case * 4 + flip + 1);
                // Headers come every 196 bytes.
                let place = (random % 8 * 196 + (random >> 8) % 64) as usize % damaged.len();
                damaged[place] ^= (random >> 32) as u8 | 1;
            }
            let Duet { mut peer, mut tcp, .. } = duet(settings);
            tcp.launch(Segment::Head, vec![(lane(0), head())]).unwrap();
            // The collective may have hung up before the end.
            peer.write_all(&damaged).ok();
            peer.end();
            match tcp.fence().map(|_| ()).unwrap_err() {
                CollectiveError::Protocol { peer: Rank(1), .. } => refused += 1,
                CollectiveError::Connection { peer: Rank(1), .. } => {}
                error => panic!("case {case}: {error}"),
            }
        }
        assert!(refused > 50, "{refused} of 150 were refused");
    }
}
