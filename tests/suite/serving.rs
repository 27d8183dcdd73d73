//! The coordinator and its workers as separate commands, and the status RPCs.

use medley_common::message::{Command, Event, Hello, Verdict};
use medley_proto::v1;
use medley_proto::v1::status_service_client::StatusServiceClient;
use medley_proto::v1::worker_service_client::WorkerServiceClient;
use medley_tests::crowd::hello;
use medley_tests::{Running, Scratch};
use tokio_stream::wrappers::ReceiverStream;

use crate::RECIPE;

/// The address in a line such as `coordinator listens on 127.0.0.1:29400`.
pub fn address(run: &mut Running) -> String {
    let line = run.wait_for("listens on ");
    let after = line.split("listens on ").nth(1).unwrap();
    after.split_whitespace().next().unwrap().trim_end_matches([',', ';']).to_owned()
}

#[test]
fn workers_need_nothing_but_the_address() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("serve {RECIPE} --num_train_epochs 1 --workers 2 --listen 127.0.0.1:0"));
    let address = address(&mut run);
    // Folders with no model and no data.
    let (left, right) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let arguments = ["--coordinator", &address, "--threads", "1"];
    let workers = [left.path(), right.path()].map(|folder| Running::start("medley-worker", &arguments, folder));
    run.end().expect(0);
    for worker in workers {
        worker.end().expect(0);
    }
    let local = Scratch::new(100);
    local.run(&format!("train {RECIPE} --num_train_epochs 1 --workers 1")).expect(0);
    assert_eq!(scratch.sha256("out/model.safetensors"), local.sha256("out/model.safetensors"));
}

#[tokio::test]
async fn status_shows_the_run() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("train {RECIPE} --num_train_epochs 10000 --save_strategy no --workers 2"));
    let address = address(&mut run);
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = StatusServiceClient::new(endpoint.connect().await.unwrap());
    let mut watch = client.watch_status(v1::WatchStatusRequest {}).await.unwrap().into_inner();
    let mut last = 0;
    while last < 3 {
        let status = watch.message().await.unwrap().unwrap().status.unwrap();
        assert!(status.update >= last, "the run goes forward");
        last = status.update;
    }
    let status = client.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.phase(), v1::Phase::Training);
    assert_eq!((status.workers_expected, status.workers.len()), (2, 2));
    assert_eq!(status.total_updates, 130_000);
    assert!(status.loss.is_some_and(f64::is_finite) && status.learning_rate.is_some());

    let shown = scratch.run(&format!("status --coordinator {address}")).expect(0);
    assert!(shown.stdout.contains("training") && shown.stdout.contains("of 130000"), "{}", shown.stdout);
    let shown = scratch.run(&format!("status --coordinator {address} --json")).expect(0);
    let json: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(json["phase"], "training");
}

#[test]
fn a_worker_too_many_is_refused_by_name() {
    let scratch = Scratch::new(100);
    let mut run = scratch
        .start(&format!("serve {RECIPE} --num_train_epochs 10000 --save_strategy no --workers 1 --listen 127.0.0.1:0"));
    let address = address(&mut run);
    let _first = scratch.start_worker(&format!("--coordinator {address} --threads 1"));
    run.wait_for("update 1/");
    let second = scratch.start_worker(&format!("--coordinator {address} --threads 1")).end();
    second.expect(78).says(&["full"]);
}

#[test]
fn a_status_without_a_coordinator_says_so() {
    let scratch = Scratch::new(1);
    let ended = scratch.run("status --coordinator 127.0.0.1:1");
    assert_ne!(ended.code, Some(0));
    ended.says(&["127.0.0.1:1"]);
}

/// Impatient dashboards do not slow the run down, nor it them.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_status_calls_a_second_are_answered_at_once() {
    let scratch = Scratch::new(100);
    let mut run = scratch.start(&format!("train {RECIPE} --num_train_epochs 10000 --save_strategy no --workers 2"));
    let address = address(&mut run);
    run.wait_for("update 1/");
    let load = medley_tests::load::status(&address, 1000, 1000).await;
    // The figure is 10 ms (tests/peers/faults.py); tests share their machine with each other.
    assert!(load.rate > 500.0 && load.answers.milliseconds(0.5) < 100.0, "{load:?}");
}

/// A worker of another version is named, and told both versions.
#[tokio::test]
async fn a_worker_of_another_version_is_refused() {
    let scratch = Scratch::new(10);
    let mut run = scratch.start(&format!("serve {RECIPE} --num_train_epochs 1 --workers 1 --listen 127.0.0.1:0"));
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{}", address(&mut run))).unwrap();
    let mut client = WorkerServiceClient::new(endpoint.connect().await.unwrap());
    let hello = Hello { version: "9.9.9".to_owned(), ..hello(1) };
    // The stream stays open, as a worker's does.
    let (events, stream) = tokio::sync::mpsc::channel(1);
    events.send(v1::SessionRequest::from(Event::from(hello))).await.unwrap();
    let mut commands = client.session(ReceiverStream::new(stream)).await.unwrap().into_inner();
    let command = Command::try_from(commands.message().await.unwrap().unwrap()).unwrap();
    let Command::Stop { reason, verdict: Verdict::Refused } = command else { panic!("{command:?}") };
    assert!(reason.contains("medley-worker 9.9.9") && reason.contains(env!("CARGO_PKG_VERSION")), "{reason}");
}
