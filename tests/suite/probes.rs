//! The port for probes and metrics, and the health service, as kubelets, Prometheus and browsers meet them.

use std::collections::BTreeSet;

use medley_proto::v1;
use medley_proto::v1::status_service_client::StatusServiceClient;
use medley_tests::{Running, Scratch, http};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::RECIPE;
use crate::serving::address;

/// The address of the port for probes.
pub fn port(run: &mut Running) -> String {
    let line = run.wait_for("health and metrics on http://");
    line.split("http://").nth(1).unwrap().split(':').take(2).collect::<Vec<_>>().join(":")
}

/// Connects to a coordinator on this machine.
pub async fn channel(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

fn long_run(scratch: &Scratch) -> Running {
    let flags = "--num_train_epochs 10000 --save_strategy no --logging_steps 10 --workers 2 --http_listen 127.0.0.1:0";
    scratch.start(&format!("train {RECIPE} {flags}"))
}

#[test]
fn probes_and_metrics_are_answered_in_the_clear_and_nothing_else_is() {
    let scratch = Scratch::new(100);
    let mut run = long_run(&scratch);
    let port = port(&mut run);
    run.wait_for("update 20:");
    assert_eq!(http::get(&port, "/healthz").code, 200);
    assert_eq!(http::get(&port, "/readyz").code, 200);
    let metrics = http::get(&port, "/metrics");
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{}", metrics.head);
    assert!(metrics.head.contains("cache-control: no-store"), "{}", metrics.head);
    let value = |name: &str| -> f64 {
        let line = metrics.body.lines().find(|line| line.starts_with(&format!("{name} ")));
        line.unwrap_or_else(|| panic!("no {name} in {}", metrics.body)).split(' ').nth(1).unwrap().parse().unwrap()
    };
    assert!(value("medley_updates_total") >= 20.0 && value("medley_rows_total") >= 150.0);
    assert!(value("medley_train_loss").is_finite() && value("medley_workers") == 2.0);
    assert!(metrics.body.contains("medley_worker_wait_ratio{rank=\"1\"} 0."), "{}", metrics.body);
    // Whose machines these are is nobody's business here.
    assert!(!metrics.body.contains("host"));

    let page = http::request(&port, "GET", "/", &format!("host: {port}\r\nuser-agent: Mozilla/5.0\r\n"));
    assert!(page.head.contains("content-type: text/html") && page.head.contains("default-src 'none'"), "{}", page.head);
    assert!(page.body.contains("of 130000") && page.body.contains("2 of 2 workers"), "{}", page.body);
    assert!(!page.body.contains("pid"), "{}", page.body);

    assert_eq!(http::get(&port, "/metrics/../../etc/passwd").code, 404);
    assert_eq!(http::request(&port, "POST", "/metrics", "content-length: 0\r\n").code, 405);
    assert_eq!(http::request(&port, "DELETE", "/healthz", "").code, 405);
    let browser = "user-agent: Mozilla/5.0\r\n";
    assert_eq!(http::request(&port, "GET", "/metrics", &format!("host: evil.example\r\n{browser}")).code, 403);
    assert_eq!(http::request(&port, "GET", "/metrics", &format!("host: {port}\r\n{browser}")).code, 200);
    let page = format!("host: {port}\r\norigin: http://evil.example\r\n{browser}");
    assert_eq!(http::request(&port, "GET", "/metrics", &page).code, 403);

    let flood = http::flood(&port, "/metrics", 400);
    assert!(flood.contains(&200) && flood.contains(&429), "{flood:?}");
    assert_eq!(http::get(&port, "/healthz").code, 200, "a kubelet's own connection is answered");
}

/// Whoever watches is told that the end comes, and holds nothing up.
#[tokio::test(flavor = "multi_thread")]
async fn health_says_when_the_run_stops_and_its_watches_end() {
    let scratch = Scratch::new(100);
    let mut run = long_run(&scratch);
    let port = port(&mut run);
    let address = address(&mut run);
    run.wait_for("update 1/");
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    for reached in [&address, &port] {
        let mut health = HealthClient::new(channel(reached).await);
        assert_eq!(health.check(ask("")).await.unwrap().into_inner().status(), ServingStatus::Serving);
        assert_eq!(health.check(ask("else")).await.unwrap_err().code(), tonic::Code::NotFound);
    }
    // The other services are not on the port that is in the clear.
    let mut elsewhere = StatusServiceClient::new(channel(&port).await);
    elsewhere.get_status(v1::GetStatusRequest {}).await.unwrap_err();

    let channel = channel(&address).await;
    let mut health =
        HealthClient::new(channel.clone()).watch(ask("medley.v1.WorkerService")).await.unwrap().into_inner();
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let mut status =
        StatusServiceClient::new(channel).watch_status(v1::WatchStatusRequest {}).await.unwrap().into_inner();
    scratch.run(&format!("stop --coordinator {address}")).expect(0);
    assert_eq!(health.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    let mut outcome = String::new();
    while let Some(message) = status.message().await.unwrap() {
        outcome = message.status.unwrap().outcome;
    }
    assert!(outcome.starts_with("stopped"), "{outcome}");
    assert!(health.message().await.unwrap().is_none(), "the watch ends");
    run.end().expect(75).says(&["an operator at 127.0.0.1:"]);
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("medley_")).map(ToOwned::to_owned).collect()
}

/// A dashboard that asks for a metric of another name shows nothing, and nobody is told.
#[test]
fn dashboard_rules_and_readme_name_the_metrics_that_there_are() {
    let scratch = Scratch::new(100);
    let flags = "--num_train_epochs 2000 --logging_steps 10 --save_strategy steps --save_steps 20 --eval_strategy steps --eval_steps 20";
    let data = "--do_eval --validation_file dev.jsonl --workers 1 --http_listen 127.0.0.1:0";
    let mut run = scratch.start(&format!("train {RECIPE} {flags} {data}"));
    let port = port(&mut run);
    run.wait_for("update 50:");
    let text = http::get(&port, "/metrics").body;
    let known: BTreeSet<String> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).map(first_word).collect();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/observability");
    for file in ["dashboard.json", "alerts.yaml", "README.md"] {
        let named = named(&std::fs::read_to_string(format!("{folder}/{file}")).unwrap());
        assert!(named.len() > 5, "{file} names {named:?}");
        let unknown: Vec<_> = named.difference(&known).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}, which the program does not tell");
        if file == "README.md" {
            assert_eq!(named, known);
        }
    }
    let dashboard = std::fs::read_to_string(format!("{folder}/dashboard.json")).unwrap();
    serde_json::from_str::<serde_json::Value>(&dashboard).unwrap();
}

fn first_word(line: &str) -> String {
    line.split(' ').next().unwrap_or_default().to_owned()
}

/// What patients' notes say is told to nobody: not by logs, status, metrics, pages, ledger, results or errors.
#[test]
fn no_word_of_the_rows_is_told() {
    const MARK: &str = "Zyxwort";
    let scratch = Scratch::new(100);
    for name in ["train.jsonl", "dev.jsonl", "test.jsonl"] {
        let marked = scratch.read(name).replace("\"sentence1\": \"", &format!("\"sentence1\": \"{MARK} "));
        assert!(marked.contains(MARK));
        scratch.write(name, &marked);
    }
    let work = "--num_train_epochs 60 --save_steps 100 --logging_steps 10 --do_eval --validation_file dev.jsonl \
        --evaluation_strategy epoch --do_predict --test_file test.jsonl --workers 2 --http_listen 127.0.0.1:0 \
        --chaos kill:worker=1@update=20";
    let mut run = scratch.start(&format!("train {RECIPE} {work}"));
    let (port, address) = (port(&mut run), address(&mut run));
    run.wait_for("was lost while");
    let browser = format!("host: {port}\r\nuser-agent: Mozilla/5.0\r\n");
    let mut told = vec![http::get(&port, "/metrics").body, http::request(&port, "GET", "/", &browser).body];
    told.extend(http::Events::listen(&port, "/events", None).next().map(|message| message.data));
    told.push(scratch.run(&format!("status --json --coordinator {address}")).expect(0).stdout);
    let ended = run.end().expect(0);
    told.extend([ended.stdout, ended.stderr]);
    for entry in std::fs::read_dir(scratch.path("out")).unwrap() {
        let path = entry.unwrap().path();
        // The vocabulary is the model's own.
        if path.is_file() && !path.ends_with("model.safetensors") {
            told.push(scratch.read(path.to_str().unwrap()));
        }
    }
    assert!(told.len() > 13, "{}", told.len());
    scratch
        .write("train.jsonl", &scratch.read("train.jsonl").replacen("\"gold_label\": \"", "\"gold_label\": \"un", 1));
    let refused = scratch.run(&format!("train {RECIPE} --num_train_epochs 1 --output_dir other")).expect(65);
    told.push(refused.says(&["train.jsonl:1"]).stderr);
    let word = told.iter().find(|text| text.to_lowercase().contains(&MARK.to_lowercase()));
    assert_eq!(word, None);
}
