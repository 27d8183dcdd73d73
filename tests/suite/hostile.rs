//! Attacks on a run that goes on: by strangers on its machine, and by somebody with a worker's token. It ends in the same
//! bytes as one that nobody attacks, and loses nobody on the way.

use std::sync::OnceLock;

use medley_common::identity::{Digest, Generation, Split, Update};
use medley_common::message::{Event, Failure, FailureKind, Hello, Token};
use medley_common::save::{Piece, SaveId};
use medley_proto::access::Access;
use medley_proto::v1;
use medley_proto::v1::status_service_client::StatusServiceClient;
use medley_proto::v1::worker_service_client::WorkerServiceClient;
use medley_tests::crowd::hello;
use medley_tests::{Ended, Running, Scratch, attack};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::RECIPE;
use crate::probes::{channel, port};
use crate::serving::address;

/// Long enough that an attack is over before the run is.
const EPOCHS: &str = "--num_train_epochs 450 --save_strategy steps --save_steps 300";
/// What must be the same, whoever attacks.
const FILES: [&str; 2] = ["out/model.safetensors", "out/checkpoint-300/optimizer.safetensors"];

/// Compares with the same run that nobody attacks.
fn unharmed(scratch: &Scratch, ended: &Ended) {
    static CALM: OnceLock<[String; 2]> = OnceLock::new();
    for word in ["was lost", "panicked", "silent"] {
        assert!(!ended.stderr.contains(word), "{word}:\n{}", ended.stderr);
    }
    let calm = CALM.get_or_init(|| {
        let calm = Scratch::new(100);
        calm.run(&format!("train {RECIPE} {EPOCHS} --workers 1")).expect(0);
        FILES.map(|file| calm.sha256(file))
    });
    assert_eq!(&FILES.map(|file| scratch.sha256(file)), calm);
}

/// A call of the status service with a message of a megabyte.
async fn giant(channel: Channel) -> Code {
    let part = Some(v1::upload_artifact_request::Part::Chunk(vec![7; 1 << 20]));
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<v1::UploadArtifactRequest, v1::GetStatusResponse>::default();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/medley.v1.StatusService/GetStatus");
    let request = tonic::Request::new(v1::UploadArtifactRequest { part });
    client.unary(request, path, codec).await.unwrap_err().code()
}

/// Watches that nobody reads, more calls than anybody needs, and calls that one without a token must not make.
async fn calls(address: &str) {
    let channel = channel(address).await;
    let mut unread = Vec::new();
    for _ in 0..100 {
        unread.extend(StatusServiceClient::new(channel.clone()).watch_status(v1::WatchStatusRequest {}).await.ok());
    }
    let mut flood = JoinSet::new();
    for _ in 0..8000 {
        let mut client = StatusServiceClient::new(channel.clone());
        flood.spawn(async move { client.get_status(v1::GetStatusRequest {}).await.map_err(|status| status.code()) });
    }
    let answers = flood.join_all().await;
    assert!(answers.iter().any(Result::is_ok));
    let other = answers.iter().find(|it| !matches!(it, Ok(_) | Err(Code::ResourceExhausted)));
    assert!(other.is_none(), "an answer of another kind: {other:?}");
    assert!(matches!(giant(crate::probes::channel(address).await).await, Code::OutOfRange | Code::ResourceExhausted));
    let mut worker = WorkerServiceClient::new(crate::probes::channel(address).await);
    let (_held, stream) = tokio::sync::mpsc::channel(1);
    let denied = worker.session(ReceiverStream::new(stream)).await.unwrap_err();
    assert_eq!(denied.code(), Code::Unauthenticated);
    for split in [v1::Split::Train, v1::Split::Test] {
        let request = v1::FetchExamplesRequest { worker: 1, split: split.into() };
        assert_eq!(worker.fetch_examples(request).await.unwrap_err().code(), Code::Unauthenticated);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_can_neither_crash_nor_stall_a_run() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("train {RECIPE} {EPOCHS} --workers 2 --http_listen 127.0.0.1:0"));
    let port = port(&mut run);
    let address = address(&mut run);
    run.wait_for("update 1/");
    // More than there is room for; among all those that say nothing, one that asks is answered.
    let silent = attack::silence(&address, 300);
    assert_eq!(silent.len(), 300);
    scratch.run(&format!("status --coordinator {address}")).expect(0);
    calls(&address).await;
    // Now so many at once that newcomers come in vain; those that are in notice nothing.
    let mut attackers = Vec::new();
    for reached in [address.clone(), port] {
        attackers.push(std::thread::spawn(move || {
            let silent = attack::silence(&reached, 400);
            let sent = (attack::garbage(&reached, 2), attack::frames(&reached, 2000));
            (silent.len(), sent)
        }));
    }
    for attacker in attackers {
        let (silent, sent) = attacker.join().unwrap();
        assert!(silent > 0 && sent.0 > 0 && sent.1 > 0, "the attack never arrived");
    }
    drop(silent);
    let ended = run.end().expect(0);
    unharmed(&scratch, &ended);
}

/// Answers that nobody takes in are kept; so there are so many of them, and what is ordered does not wait for them.
#[tokio::test(flavor = "multi_thread")]
async fn who_looks_and_does_not_read_takes_so_much_memory_and_no_more() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("train {RECIPE} --num_train_epochs 10000 --save_strategy no --workers 1"));
    let address = address(&mut run);
    run.wait_for("update 1/");
    let mut watches = Vec::new();
    let mut refused = 0;
    for _ in 0..6 {
        let channel = channel(&address).await;
        for _ in 0..100 {
            match StatusServiceClient::new(channel.clone()).watch_status(v1::WatchStatusRequest {}).await {
                Ok(watch) => watches.push(watch),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                    refused += 1;
                }
            }
        }
    }
    assert_eq!((watches.len(), refused), (512, 88));
    let looked = scratch.run(&format!("status --coordinator {address}"));
    assert_ne!(looked.says(&["on their way already"]).code, Some(0));
    // Room comes back with who hangs up.
    drop(watches.pop());
    while scratch.run(&format!("status --coordinator {address}")).code != Some(0) {}
    scratch.run(&format!("stop --at_once --coordinator {address}")).expect(0);
    run.end().expect(75);
}

type Insider = WorkerServiceClient<InterceptedService<Channel, Access>>;

async fn insider(scratch: &Scratch, port: &str) -> Insider {
    let access = Access::load(Some(&scratch.path("keys/worker")), None).unwrap();
    let channel = access.endpoint(&format!("localhost:{port}")).unwrap().connect().await.unwrap();
    WorkerServiceClient::with_interceptor(channel, access)
}

/// Says things in a session of its own until it is sent away; what it was told.
async fn say(client: &mut Insider, said: Vec<v1::SessionRequest>) -> String {
    let (events, stream) = tokio::sync::mpsc::channel(64);
    for event in said {
        events.send(event).await.unwrap();
    }
    let mut commands = match client.session(ReceiverStream::new(stream)).await {
        Ok(commands) => commands.into_inner(),
        Err(status) => return status.message().to_owned(),
    };
    match commands.message().await {
        Ok(Some(v1::SessionResponse { command: Some(v1::session_response::Command::Stop(stop)) })) => stop.reason,
        Ok(other) => format!("{other:?}"),
        Err(status) => status.message().to_owned(),
    }
}

/// What a worker of a group that is gone, or of none, might say.
fn lies(generation: u64) -> Vec<v1::SessionRequest> {
    let generation = Generation(generation);
    let failure = Failure { kind: FailureKind::Diverged, message: "the loss is not a number".to_owned() };
    let parameters = Digest([9; 32]);
    let save = SaveId { update: Update(300), generation };
    [
        Event::Prepared { layout: parameters, endpoint: "127.0.0.1:1".to_owned(), notes: vec!["x".repeat(1000)] },
        Event::Token { generation, token: Token::new(vec![9; 128]).unwrap() },
        Event::Formed { generation },
        Event::Saved { save, piece: Piece { index: 0, count: 1 }, parameters },
        Event::Predicted { generation, split: Split::Validation, predictions: Vec::new() },
        Event::Evaluated { generation, split: Split::Validation },
        Event::Disconnected { generation, problem: "everybody left".to_owned() },
        Event::StandingBy { generation, update: Update(1_000_000), kept: Vec::new() },
        Event::Failed(failure),
    ]
    .map(v1::SessionRequest::from)
    .into()
}

/// An upload that was not ordered, of an older group and of this one: for the files that the run will save next, before
/// its own workers bring them. They would be of another size, and the disk have no room for one of them.
async fn upload(client: &mut Insider, generation: u64, (update, bytes): (u64, u64)) {
    let kind = v1::ArtifactKind::Weights.into();
    let header = v1::UploadHeader { worker: 1, generation, update, kind, bytes, piece: 0, pieces: 1 };
    let part = Some(v1::upload_artifact_request::Part::Header(header));
    let chunk = Some(v1::upload_artifact_request::Part::Chunk(vec![1; 1 << 16]));
    let parts = [part, chunk].map(|part| v1::UploadArtifactRequest { part });
    let refused = client.upload_artifact(tokio_stream::iter(parts)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
}

/// A run under TLS whose workers train.
fn behind_tls(scratch: &Scratch, epochs: &str) -> (Running, String, [Running; 2]) {
    scratch.run("init-certs keys").expect(0);
    let serve = format!("serve {RECIPE} {epochs} --workers 2 --listen 127.0.0.1:0 --credentials keys/coordinator");
    let mut run = scratch.start(&serve);
    let port = address(&mut run).rsplit_once(':').unwrap().1.to_owned();
    let line = format!("--coordinator localhost:{port} --threads 1 --credentials keys/worker");
    let workers = [scratch.start_worker(&line), scratch.start_worker(&line)];
    run.wait_for("update 1/");
    (run, port, workers)
}

/// Without a token: a header that is too long, and calls that are denied. With a worker's: files and rows that nobody
/// reads, and more sessions than workers. And before any handshake: silence, noise and floods.
#[tokio::test(flavor = "multi_thread")]
async fn tls_lets_nobody_harm_a_run_either() {
    let scratch = Scratch::new(100);
    let (run, port, workers) = behind_tls(&scratch, EPOCHS);
    let address = format!("127.0.0.1:{port}");
    let stranger = Access::load(Some(&scratch.path("keys/viewer")), None).unwrap();
    let channel = stranger.endpoint(&format!("localhost:{port}")).unwrap().connect().await.unwrap();
    let mut unknown = StatusServiceClient::new(channel.clone());
    let mut long = tonic::Request::new(v1::GetStatusRequest {});
    long.metadata_mut().insert("x-long", "x".repeat(20 << 10).parse().unwrap());
    assert!(unknown.get_status(long).await.is_err());
    for _ in 0..64 {
        let denied = unknown.get_status(v1::GetStatusRequest {}).await.unwrap_err();
        assert!(!matches!(denied.code(), Code::Ok | Code::Internal), "{denied}");
    }

    let client = insider(&scratch, &port).await;
    // Asked for and not read; what does not fit into a connection's buffers keeps its room, and the others wait for some.
    let mut unread = JoinSet::new();
    for _ in 0..50 {
        let mut client = client.clone();
        unread.spawn(async move {
            let kind = v1::ArtifactKind::Weights.into();
            let file = client.fetch_artifact(v1::FetchArtifactRequest { worker: 1, update: 0, kind }).await;
            let split = v1::Split::Train.into();
            let rows = client.fetch_examples(v1::FetchExamplesRequest { worker: 1, split }).await;
            std::future::pending::<()>().await;
            drop((file, rows));
        });
    }
    let mut sessions = Vec::new();
    let refused = loop {
        let (events, stream) = tokio::sync::mpsc::channel::<v1::SessionRequest>(1);
        let mut other = insider(&scratch, &port).await;
        match other.session(ReceiverStream::new(stream)).await {
            Ok(session) => sessions.push((other, events, session)),
            Err(refused) => break refused,
        }
    };
    assert_eq!(medley_proto::details::reason(&refused).as_deref(), Some("TOO_MANY_SESSIONS"), "{refused}");
    assert!(sessions.len() >= 64, "{} sessions", sessions.len());
    // A genuine newcomer waits until one of them is gone.
    let line = format!("--coordinator localhost:{port} --threads 1 --credentials keys/worker --connect_timeout 60");
    let mut late = scratch.start_worker(&line);
    late.wait_for("so many sessions are open");
    drop((sessions, unread));
    late.end().expect(78).says(&["full"]);

    let silent = attack::silence(&address, 300);
    assert!(attack::garbage(&address, 1) > 0 && attack::frames(&address, 500) > 0, "the attack never arrived");
    drop(silent);
    let ended = run.end().expect(0);
    workers.into_iter().for_each(|worker| drop(worker.end().expect(0)));
    unharmed(&scratch, &ended);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_token_and_no_place_harms_nobody() {
    let scratch = Scratch::new(100);
    let (run, port, workers) = behind_tls(&scratch, EPOCHS);
    let mut client = insider(&scratch, &port).await;
    let hello = v1::SessionRequest::from(Event::from(hello(1)));
    for generation in [0, 1, 2, u64::MAX] {
        for lie in lies(generation) {
            // What is of another group is not heard at all, so that something else must end the session.
            let last = lies(generation).pop().unwrap();
            let told = say(&mut client, vec![lie.clone(), last.clone()]).await;
            assert!(told.contains("out of turn"), "{lie:?}: {told}");
            let told = say(&mut client, vec![hello.clone(), lie.clone(), last]).await;
            assert!(told.contains("out of turn"), "{lie:?}: {told}");
        }
        for update in [300, 600, 900] {
            for bytes in [1, u64::MAX] {
                upload(&mut client, generation, (update, bytes)).await;
            }
        }
    }
    // A message that says nothing, and one that is larger than any.
    assert!(say(&mut client, vec![v1::SessionRequest::default()]).await.len() < 10_000);
    let notes = vec!["x".repeat(20 << 20)];
    let giant = Event::Prepared { layout: Digest([0; 32]), endpoint: String::new(), notes };
    say(&mut client, vec![v1::SessionRequest::from(giant)]).await;
    let ended = run.end().expect(0);
    workers.into_iter().for_each(|worker| drop(worker.end().expect(0)));
    unharmed(&scratch, &ended);
}

/// Who is refused is not listened to any more, whatever it goes on to say, and its place is free; nor does what it says
/// reach a person's terminal as it was sent.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_sent_away_is_not_heard_again() {
    let scratch = Scratch::new(100);
    let (run, port, workers) = behind_tls(&scratch, EPOCHS);
    let mut client = insider(&scratch, &port).await;
    let forged = "\u{1b}[2J\nupdate 99999: mean loss 0.0000";
    // More sessions than there are places.
    for _ in 0..100 {
        let (events, stream) = tokio::sync::mpsc::channel(4);
        let lie = Event::from(Hello { version: forged.to_owned(), device: forged.repeat(1000), ..hello(1) });
        events.send(v1::SessionRequest::from(lie)).await.unwrap();
        let mut commands = client.session(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let Some(v1::session_response::Command::Stop(stop)) = commands.message().await.unwrap().unwrap().command else {
            panic!("it was not refused")
        };
        assert!(stop.reason.contains("install the same version"), "{}", stop.reason);
        let notes = vec![forged.repeat(100); 10];
        let more = Event::Prepared { layout: Digest([0; 32]), endpoint: String::new(), notes };
        // Until the coordinator has closed the session.
        while events.send(v1::SessionRequest::from(more.clone())).await.is_ok() {}
    }
    let ended = run.end().expect(0);
    workers.into_iter().for_each(|worker| drop(worker.end().expect(0)));
    assert!(!ended.stderr.contains('\u{1b}'), "{}", ended.stderr);
    let lines: Vec<&str> = ended.stderr.lines().filter(|line| line.contains("99999")).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| line.starts_with("refused worker")), "{lines:?}");
    assert!(lines.iter().all(|line| line.len() < 2_000));
    unharmed(&scratch, &ended);
}

/// A session that says nothing but that it lives does not live long, and keeps nobody from being heard.
#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_alone_are_no_worker() {
    let scratch = Scratch::new(100);
    let (run, port, workers) = behind_tls(&scratch, EPOCHS);
    let mut floods = JoinSet::new();
    for _ in 0..8 {
        let mut client = insider(&scratch, &port).await;
        floods.spawn(async move {
            let (events, stream) = tokio::sync::mpsc::channel(64);
            let session = client.session(ReceiverStream::new(stream)).await.unwrap();
            let beat = v1::SessionRequest::from(Event::Heartbeat);
            while events.send(beat.clone()).await.is_ok() {}
            drop(session);
        });
    }
    floods.join_all().await;
    let ended = run.end().expect(0);
    workers.into_iter().for_each(|worker| drop(worker.end().expect(0)));
    unharmed(&scratch, &ended);
}
