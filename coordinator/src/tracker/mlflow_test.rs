use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Mutex;

use super::super::subject::tests::subject;
use super::*;

/// What was asked: method and address, authorization, body.
type Asked = (String, Option<String>, Value);

/// A small MLflow on a free port: it answers what is planned, in turn, and writes down what it is asked.
struct Server {
    place: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    fn start(answers: Vec<(u16, &'static str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let place = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let seen = Arc::clone(&asked);
        std::thread::spawn(move || {
            for (status, answer) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap());
                let (mut first, mut authorization, mut length) = (String::new(), None, 0);
                lines.read_line(&mut first).unwrap();
                loop {
                    let mut line = String::new();
                    lines.read_line(&mut line).unwrap();
                    match line.trim().split_once(": ") {
                        Some(("authorization", value)) => authorization = Some(value.to_owned()),
                        Some(("content-length", value)) => length = value.parse().unwrap(),
                        Some(_) => {}
                        None => break,
                    }
                }
                let mut body = vec![0; length];
                lines.read_exact(&mut body).unwrap();
                let body = serde_json::from_slice(&body).unwrap_or_default();
                let path = first.trim_end_matches(" HTTP/1.1\r\n").replace("/api/2.0/mlflow", "");
                seen.lock().unwrap().push((path, authorization, body));
                let head =
                    format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", answer.len());
                stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(answer.as_bytes())).ok();
            }
        });
        Self { place, asked }
    }

    fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|(path, ..)| path).collect()
    }
}

fn mlflow(folder: &std::path::Path, place: &str, more: &[(&str, &str)]) -> MlFlow {
    let set = |name: &str| match name {
        "MLFLOW_TRACKING_URI" => Some(place.to_owned()),
        _ => more.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned()),
    };
    let settings = Settings::from_variables(&set).unwrap();
    MlFlow { subject: Arc::new(subject(folder.to_owned())), client: Client::new(&settings), settings, run: None }
}

const MADE: (u16, &str) = (200, r#"{"run": {"info": {"run_id": "f00"}}}"#);
const OK: (u16, &str) = (200, "{}");
const THERE: (u16, &str) = (
    200,
    r#"{"run": {"info": {"experiment_id": "3", "lifecycle_stage": "active"}, "data": {"metrics": [
        {"key": "loss", "value": 0.5, "step": "20"}, {"key": "eval_loss", "value": 0.5, "step": 10}],
        "params": [{"key": "precision", "value": "float32"}]}}}"#,
);

fn begin(mlflow: &mut MlFlow, kept: Option<u64>) -> Result<Begun, Trouble> {
    mlflow.begin(&Start { kept, history: Vec::new() })
}

#[test]
fn a_run_is_made_in_its_experiment_described_reported_and_ended() {
    let folder = tempfile::tempdir().unwrap();
    let missing = (404, r#"{"error_code": "RESOURCE_DOES_NOT_EXIST"}"#);
    let server = Server::start(vec![missing, (200, r#"{"experiment_id": "3"}"#), MADE, OK, THERE, OK, OK, OK, OK]);
    let more = [("MLFLOW_EXPERIMENT_NAME", "n l/i&é"), ("MLFLOW_TRACKING_TOKEN", "secret")];
    let mut mlflow = mlflow(folder.path(), &server.place, &more);
    let begun = begin(&mut mlflow, None).unwrap();
    assert_eq!(begun.place, format!("{}/#/experiments/3/runs/f00", server.place));
    let point = Point { step: 21, time: 1.5, values: vec![(mlflow.key("f1_a(b)é"), 0.25), (mlflow.key("loss"), 0.5)] };
    mlflow.show(&[point]).unwrap();
    mlflow.end(Ending::Stopped).unwrap();
    let asked = server.asked();
    assert!(asked.iter().all(|(_, authorization, _)| authorization.as_deref() == Some("Bearer secret")), "{asked:?}");
    let wanted = [
        "GET /experiments/get-by-name?experiment_name=n%20l%2Fi%26%C3%A9",
        "POST /experiments/create",
        "POST /runs/create",
        "POST /runs/update",
        "GET /runs/get?run_id=f00",
        "POST /runs/log-batch",
        "POST /runs/set-tag",
        "POST /runs/log-batch",
        "POST /runs/update",
    ];
    assert_eq!(server.paths(), wanted);
    let body = |number: usize| &asked[number].2;
    assert_eq!((&body(1)["name"], &body(2)["experiment_id"]), (&"n l/i&é".into(), &"3".into()));
    // Of the settings of the fixture one is null, and one is there already.
    let params = body(5)["params"].as_array().unwrap();
    assert_eq!(
        params,
        &[json!({"key": "learning_rate", "value": "3e-5"}), json!({"key": "reproducible", "value": "true"})]
    );
    let metric = json!({"key": "f1_a_b__", "value": 0.25, "timestamp": 1500, "step": 21});
    assert_eq!((&body(7)["metrics"][0], &body(7)["run_id"]), (&metric, &"f00".into()));
    assert_eq!(body(8)["status"], "KILLED");
}

#[test]
fn a_process_that_goes_on_goes_on_with_the_same_run_and_tells_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(vec![MADE, OK, THERE, OK, OK, THERE, OK, THERE, OK, OK, MADE, OK, THERE, OK, OK]);
    begin(&mut mlflow(folder.path(), &server.place, &[]), None).unwrap();
    let before = server.asked().len();
    let mut shown = begin(&mut mlflow(folder.path(), &server.place, &[]), Some(10)).unwrap().shown;
    let told = server.paths();
    assert_eq!(told[before..before + 2], ["GET /runs/get?run_id=f00", "POST /runs/update"]);
    let point = |step| Point { step, time: 0.0, values: vec![("loss".to_owned(), 0.5)] };
    assert_eq!((shown.news(point(20)), shown.news(point(30))), (None, Some(point(30))));
    // One that begins anew has a run of its own, and so has one on another server.
    let before = server.asked().len();
    begin(&mut mlflow(folder.path(), &server.place, &[]), None).unwrap();
    assert_eq!(server.paths()[before], "POST /runs/create");
    let other = Server::start(vec![MADE, OK, THERE, OK, OK, THERE, OK, THERE, OK, OK]);
    begin(&mut mlflow(folder.path(), &other.place, &[]), Some(10)).unwrap();
    assert_eq!(other.paths()[0], "POST /runs/create");
    // A run that the environment names is there already.
    begin(&mut mlflow(folder.path(), &other.place, &[("MLFLOW_RUN_ID", "abc")]), None).unwrap();
    assert_eq!(other.paths()[5], "GET /runs/get?run_id=abc");
}

#[test]
fn what_may_pass_is_told_from_what_stays() {
    let folder = tempfile::tempdir().unwrap();
    let trouble = |status, answer| {
        let server = Server::start(vec![(status, answer)]);
        begin(&mut mlflow(folder.path(), &server.place, &[]), None).unwrap_err()
    };
    for status in [408, 429, 500, 502, 503, 504] {
        assert!(trouble(status, "").may_pass, "{status}");
    }
    let refused = trouble(400, "{\"message\": \"Invalid \\u001b[31m value\"}");
    assert!(!refused.may_pass && refused.reason.ends_with("with 400: Invalid  [31m value"), "{refused}");
    let forbidden = trouble(403, "no");
    assert!(!forbidden.may_pass && forbidden.reason.contains("MLFLOW_TRACKING_TOKEN"), "{forbidden}");
    for odd in ["<html>", "{}", "[]", "{\"run\": {\"info\": {\"run_id\": 7}}}"] {
        let odd = trouble(200, odd);
        assert!(!odd.may_pass && odd.reason.contains("is it an MLflow server?"), "{odd}");
    }
    assert!(trouble(302, "").reason.contains("redirect"));
    // Nobody listens.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let silent = begin(&mut mlflow(folder.path(), &format!("http://{gone}"), &[]), None).unwrap_err();
    assert!(silent.may_pass && silent.reason.contains(&gone.to_string()), "{silent}");
    let deleted = Server::start(vec![(200, r#"{"run": {"info": {"lifecycle_stage": "deleted"}}}"#)]);
    let deleted = begin(&mut mlflow(folder.path(), &deleted.place, &[("MLFLOW_RUN_ID", "abc")]), None).unwrap_err();
    assert!(!deleted.may_pass && deleted.reason.contains("was deleted"), "{deleted}");
}
