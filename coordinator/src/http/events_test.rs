use axum::body::{Body, HttpBody};
use medley_common::identity::{Generation, Update};

use super::*;
use crate::run::Action;
use crate::run::report::GroupRecord;

/// The next message of an answer, as it goes over the wire; nothing where it ends.
async fn message(body: &mut Body) -> Option<String> {
    let frame = std::future::poll_fn(|context| std::pin::Pin::new(&mut *body).poll_frame(context)).await?;
    Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
}

/// The content of a line of a message.
fn line<'m>(message: &'m str, name: &str) -> &'m str {
    let found = message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap_or_else(|| panic!("no {name} in {message}")).trim_start()
}

fn data(message: &str) -> Value {
    serde_json::from_str(line(message, "data")).unwrap()
}

fn happen(live: &watch::Sender<Live>) {
    let group = GroupRecord { generation: Generation(1), members: Vec::new() };
    live.send_if_modified(|live| live.did(&Action::Group(group), None));
}

fn feeds() -> (watch::Sender<v1::Status>, watch::Sender<Live>, Listeners) {
    let (status, told) = watch::channel(v1::Status::default());
    let (live, seen) = watch::channel(Live::new(std::iter::empty(), &[], None, Update(0)));
    let listeners = Listeners::new(told, seen);
    (status, live, listeners)
}

fn after(id: &str) -> HeaderMap {
    HeaderMap::from_iter([(header::HeaderName::from_static("last-event-id"), id.parse().unwrap())])
}

#[tokio::test]
async fn a_picture_comes_first_then_what_is_new_and_then_the_end() {
    let (status, live, listeners) = feeds();
    happen(&live);
    let answer = listeners.clone().admit(&HeaderMap::new());
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut body = answer.into_body();
    let first = message(&mut body).await.unwrap();
    assert!(first.ends_with("\n\n") && first.trim_end().lines().count() == 4, "{first}");
    assert_eq!((line(&first, "event"), line(&first, "retry")), ("picture", "2000"));
    assert_eq!(data(&first)["moments"].as_array().unwrap().len(), 1);
    assert_eq!(data(&first)["status"]["state"], "reading data");
    happen(&live);
    let second = message(&mut body).await.unwrap();
    assert_eq!(line(&second, "event"), "news");
    assert_eq!(data(&second)["moments"].as_array().unwrap().len(), 1);
    assert!(data(&second)["training"].is_null());
    // Who was cut off after the first message is told what came later, and nothing twice.
    let mut body = listeners.clone().admit(&after(line(&first, "id"))).into_body();
    let again = message(&mut body).await.unwrap();
    assert_eq!((line(&again, "event"), line(&again, "id")), ("news", line(&second, "id")));
    assert_eq!(data(&again)["moments"].as_array().unwrap().len(), 1);
    status.send_modify(|status| status.outcome = "completed".to_owned());
    let last = message(&mut body).await.unwrap();
    assert_eq!((&data(&last)["status"]["state"], &data(&last)["status"]["ended"]), (&json!("completed"), &json!(true)));
    assert_eq!(message(&mut body).await, None);
}

#[tokio::test]
async fn an_id_of_another_process_or_of_none_is_told_all() {
    let (_status, live, listeners) = feeds();
    happen(&live);
    for id in ["0-1", "", "-", "zz-1", "0", "99999999999999999999-1"] {
        let first = message(&mut listeners.clone().admit(&after(id)).into_body()).await.unwrap();
        assert_eq!(line(&first, "event"), "picture", "{id}");
    }
}

#[tokio::test]
async fn so_many_are_told_and_one_that_leaves_makes_room() {
    let (_status, _live, listeners) = feeds();
    let admit = || listeners.clone().admit(&HeaderMap::new());
    let mut let_in: Vec<Response> = (0..LISTENERS).map(|_| admit()).collect();
    let refused = admit();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()[header::RETRY_AFTER], "10");
    assert!(let_in.iter().all(|answer| answer.status() == StatusCode::OK));
    let_in.pop();
    // It is let go by its own task.
    let room = listeners.room.acquire().await.unwrap();
    drop(room);
    assert_eq!(admit().status(), StatusCode::OK);
}

/// One that takes nothing in has one message on its way, however much happens; then it is told what it has missed.
#[tokio::test]
async fn one_that_is_slow_keeps_nothing_but_its_place() {
    let (_status, live, listeners) = feeds();
    let mut body = listeners.clone().admit(&HeaderMap::new()).into_body();
    let first = message(&mut body).await.unwrap();
    for _ in 0..100 {
        happen(&live);
    }
    let mut told = 0;
    while told < 100 {
        told += data(&message(&mut body).await.unwrap())["moments"].as_array().unwrap().len();
    }
    assert_eq!(told, 100);
    // So much that a change is not kept for each.
    let mut body = listeners.clone().admit(&after(line(&first, "id"))).into_body();
    assert_eq!(line(&message(&mut body).await.unwrap(), "event"), "news");
    for _ in 0..2000 {
        happen(&live);
    }
    let mut body = listeners.admit(&after(line(&first, "id"))).into_body();
    let whole = message(&mut body).await.unwrap();
    assert_eq!(line(&whole, "event"), "picture");
    assert_eq!((data(&whole)["moments"].as_array().unwrap().len(), &data(&whole)["forgotten"]), (256, &json!(1844)));
}
