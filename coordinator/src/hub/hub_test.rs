use std::fs;
use std::time::Duration;

use super::environment::Credentials;
use super::hub_server::{Reply, Server};
use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const WEIGHTS: &[u8] = b"the weights";
const SECRET: &str = "hf_SECRET";

/// A repository `org/model` with small files and large-file weights, as huggingface.co serves them.
struct Hub {
    server: Server,
    /// Where the weights are redirected to.
    store: Server,
    cache: tempfile::TempDir,
}

impl Hub {
    fn new() -> Self {
        let hub = Self { server: Server::start(), store: Server::start(), cache: tempfile::tempdir().unwrap() };
        hub.describe(&["README.md", "config.json", "model.safetensors", "pytorch_model.bin", "vocab.txt"]);
        for (file, etag) in [("config.json", "\"aaaaaaaaaaaa\""), ("vocab.txt", "W/\"bbbbbbbbbbbb\"")] {
            hub.serve(file, Reply::status(307).with("location", format!("/elsewhere/{file}")));
            let content = format!("content of {file}");
            hub.server.serve(format!("/elsewhere/{file}"), Reply::ok(content).with("etag", etag));
        }
        hub.serve_weights(&sha256(WEIGHTS), WEIGHTS);
        hub
    }

    fn describe(&self, files: &[&str]) {
        let siblings: Vec<_> = files.iter().map(|file| serde_json::json!({"rfilename": file})).collect();
        let description = serde_json::json!({"sha": COMMIT, "siblings": siblings}).to_string();
        self.server.serve("/api/models/org/model/revision/main", Reply::ok(description));
    }

    fn serve(&self, file: &str, reply: Reply) {
        self.server.serve(format!("/org/model/resolve/{COMMIT}/{file}"), reply);
    }

    fn serve_weights(&self, digest: &str, content: &[u8]) {
        let redirect = Reply::status(302)
            .with("location", format!("{}/blob?signature=SIGNED", self.store.url()))
            .with("x-linked-etag", format!("\"{digest}\""))
            .with("x-linked-size", WEIGHTS.len().to_string())
            .with("etag", "\"cccccccccccc\"");
        self.serve("model.safetensors", redirect);
        self.store.serve("/blob?signature=SIGNED", Reply::ok(content).with("etag", "\"of-the-store\""));
    }

    fn env(&self) -> HubEnv {
        let (cache, url) = (self.cache.path().to_owned(), self.server.url());
        HubEnv::from_variables(&|name| match name {
            "HF_HUB_CACHE" => Some(cache.clone().into()),
            "HF_ENDPOINT" => Some(url.clone().into()),
            _ => None,
        })
    }

    fn env_with_token(&self) -> HubEnv {
        let token = HubEnv::from_variables(&|name| (name == "HF_TOKEN").then(|| SECRET.into()));
        HubEnv { credentials: token.credentials, ..self.env() }
    }

    fn resolve(&self, name: &str, env: &HubEnv) -> Result<PathBuf, String> {
        resolve(name, env, &mut |_| ()).map_err(|error| {
            let text = error.to_string();
            assert!(!format!("{text} {error:?}").contains("SECRET") && !text.contains("SIGNED"), "{text}");
            text.replace(&self.server.address, "hub").replace(&self.store.address, "store")
        })
    }

    fn repository(&self) -> PathBuf {
        self.cache.path().join("models--org--model")
    }
}

fn sha256(content: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    medley_common::identity::Digest(Sha256::digest(content).into()).to_string()
}

#[test]
fn a_model_is_fetched_once_and_in_the_layout_of_the_cache() {
    let hub = Hub::new();
    let mut seen = Vec::new();
    let snapshot = resolve("org/model", &hub.env(), &mut |transfer| {
        seen.push((transfer.file.to_owned(), transfer.done_bytes, transfer.total_bytes));
    })
    .unwrap();
    assert_eq!(snapshot, hub.repository().join("snapshots").join(COMMIT));
    assert_eq!(fs::read(snapshot.join("model.safetensors")).unwrap(), WEIGHTS);
    assert_eq!(fs::read(snapshot.join("config.json")).unwrap(), b"content of config.json");
    assert_eq!(fs::read_to_string(hub.repository().join("refs/main")).unwrap(), COMMIT);
    let link = fs::read_link(snapshot.join("model.safetensors")).unwrap();
    assert_eq!(link, Path::new("../../blobs").join(sha256(WEIGHTS)));
    let mut blobs: Vec<_> =
        fs::read_dir(hub.repository().join("blobs")).unwrap().map(|b| b.unwrap().file_name()).collect();
    blobs.sort();
    assert_eq!(blobs.len(), 3, "{blobs:?}");
    assert!(!snapshot.join("pytorch_model.bin").exists() && !snapshot.join("README.md").exists());
    assert!(seen.contains(&("model.safetensors".into(), 0, Some(11))));
    assert_eq!(seen.last().unwrap(), &("model.safetensors".into(), 11, Some(11)));

    let requests = hub.server.requests().len() + hub.store.requests().len();
    assert_eq!(hub.resolve("org/model", &hub.env()).unwrap(), snapshot);
    assert_eq!(hub.resolve(&format!("org/model@{COMMIT}"), &hub.env()).unwrap(), snapshot);
    let offline = HubEnv { network: Network::Forbidden { by: "HF_HUB_OFFLINE" }, ..hub.env() };
    assert_eq!(hub.resolve("org/model", &offline).unwrap(), snapshot);
    assert_eq!(hub.server.requests().len() + hub.store.requests().len(), requests);
}

#[test]
fn a_lost_content_alone_is_fetched_again() {
    let hub = Hub::new();
    let snapshot = hub.resolve("org/model", &hub.env()).unwrap();
    fs::remove_file(hub.repository().join("blobs/bbbbbbbbbbbb")).unwrap();
    let before = hub.server.requests().len();
    assert_eq!(hub.resolve("org/model", &hub.env()).unwrap(), snapshot);
    let paths: Vec<_> = hub.server.requests()[before..].iter().map(|request| request.path.clone()).collect();
    assert_eq!(paths.len(), 3, "the description, the file and its redirect: {paths:?}");
    assert!(snapshot.join("vocab.txt").is_file());
    assert_eq!(hub.store.requests().len(), 1);

    // A file of another commit with a content that is there needs no transfer.
    fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    hub.resolve("org/model", &hub.env()).unwrap();
    assert_eq!(hub.store.requests().len(), 1);
}

#[test]
fn the_token_stays_with_its_host() {
    let hub = Hub::new();
    hub.resolve("org/model", &hub.env_with_token()).unwrap();
    let bearer = format!("Bearer {SECRET}");
    let requests = hub.server.requests();
    assert_eq!(requests.len(), 6);
    assert!(requests.iter().all(|request| request.authorization.as_deref() == Some(&bearer)), "{requests:?}");
    assert_eq!(hub.store.requests().len(), 1);
    assert_eq!(hub.store.requests()[0].authorization, None);
}

#[test]
fn refusals_say_what_to_do() {
    let hub = Hub::new();
    let description = "/api/models/org/model/revision/main";
    for status in [401, 403] {
        hub.server.serve(description, Reply::status(status));
        assert_eq!(
            hub.resolve("org/model", &hub.env()).unwrap_err(),
            format!(
                "hub refuses org/model ({status}) without a token; it is private, gated or does not exist: set \
                 HF_TOKEN to a token that may read it"
            )
        );
        let error = hub.resolve("org/model", &hub.env_with_token()).unwrap_err();
        assert!(error.starts_with(&format!("hub refuses org/model ({status}) to the token of HF_TOKEN")), "{error}");
    }
    hub.server.serve(description, Reply::status(503));
    let error = hub.resolve("org/model", &hub.env()).unwrap_err();
    assert_eq!(error, "hub answers with status 503 for org/model; try again later");
    assert_eq!(
        hub.resolve("org/other@refs/pr/1", &hub.env()).unwrap_err(),
        "hub has no org/other@refs/pr/1; check the name and the revision"
    );
    assert_eq!(hub.server.requests().last().unwrap().path, "/api/models/org/other/revision/refs%2Fpr%2F1");
    let unusable = Credentials::Unusable { origin: "HF_TOKEN".into(), reason: "odd".into() };
    let error = hub.resolve("org/model", &HubEnv { credentials: unusable, ..hub.env() }).unwrap_err();
    assert_eq!(error, "the token from HF_TOKEN cannot be used: odd");
}

#[test]
fn odd_answers_are_named() {
    let hub = Hub::new();
    let description = "/api/models/org/model/revision/main";
    for (body, reason) in [
        ("<html>", "something that is not JSON"),
        ("{}", "no commit"),
        (r#"{"sha": "../../../etc", "siblings": []}"#, "no commit"),
        (&format!(r#"{{"sha": "{COMMIT}"}}"#), "no list of files"),
    ] {
        hub.server.serve(description, Reply::ok(body));
        let error = hub.resolve("org/model", &hub.env()).unwrap_err();
        assert_eq!(error, format!("hub answers for org/model with {reason}; is it a Hugging Face hub?"));
    }
    hub.server.serve(description, Reply::status(302).with("location", description));
    let error = hub.resolve("org/model", &hub.env()).unwrap_err();
    assert!(error.contains("more than 5 redirects"), "{error}");
    for location in ["ftp://x/y", "", "https://"] {
        hub.server.serve(description, Reply::status(302).with("location", location));
        let error = hub.resolve("org/model", &hub.env()).unwrap_err();
        assert!(error.contains("an unusable redirect"), "{error}");
    }
    for (files, part) in [
        (&["model.safetensors", "vocab.txt"][..], "config.json"),
        (&["config.json", "vocab.txt", "tf_model.h5"], "model.safetensors or pytorch_model.bin"),
        (&["config.json", "vocab.txt", "model.safetensors.index.json"], "weights in one file"),
        (&["config.json", "model.safetensors"], "tokenizer.json or vocab.txt"),
    ] {
        hub.describe(files);
        let error = hub.resolve("org/model", &hub.env()).unwrap_err();
        assert!(error.starts_with(&format!("org/model has no {part}")), "{error}");
    }
}

#[test]
fn a_broken_content_never_gets_its_name() {
    let hub = Hub::new();
    let whole = Reply::ok(&WEIGHTS[..4]);
    let broken_off = Reply { announced_bytes: Some(WEIGHTS.len()), ..whole.clone() };
    for reply in [whole, broken_off] {
        hub.store.serve("/blob?signature=SIGNED", reply);
        let error = hub.resolve("org/model", &hub.env()).unwrap_err();
        assert_eq!(error, "model.safetensors has 4 bytes, announced were 11; the download broke off, try again");
    }
    hub.store.serve("/blob?signature=SIGNED", Reply::ok(b"the weightz".as_slice()));
    let error = hub.resolve("org/model", &hub.env()).unwrap_err();
    assert_eq!(error, "model.safetensors does not have the SHA-256 that the hub announced; try again");
    hub.store.serve("/blob?signature=SIGNED", Reply::ok(b"the weights and more".as_slice()));
    let error = hub.resolve("org/model", &hub.env()).unwrap_err();
    assert_eq!(error, "model.safetensors has more than 11 bytes");

    let names = fs::read_dir(hub.repository().join("blobs")).unwrap().map(|blob| blob.unwrap().file_name());
    assert!(names.map(|name| name.into_string().unwrap()).all(|name| name.len() == 12), "only the small files");
    assert!(!hub.repository().join("refs").exists(), "a broken download is no revision");
    hub.serve_weights(&sha256(WEIGHTS), WEIGHTS);
    hub.resolve("org/model", &hub.env()).unwrap();
}

#[test]
fn a_hub_that_falls_silent_is_named_with_the_way_out() {
    let hub = Hub::new();
    let reply = Reply::ok(&WEIGHTS[..4]).with("etag", "\"of-the-store\"");
    let silent = Reply { announced_bytes: Some(WEIGHTS.len()), silence: Duration::from_secs(2), ..reply };
    hub.store.serve("/blob?signature=SIGNED", silent);
    let error = hub.resolve("org/model", &HubEnv { patience: Duration::from_secs(1), ..hub.env() }).unwrap_err();
    let told = "cannot fetch model.safetensors from store: no data for 1 s; run the same command again";
    assert!(error.starts_with(told), "{error}");
}

#[test]
fn an_etag_that_is_a_path_is_refused() {
    let hub = Hub::new();
    for etag in ["../../../../tmp/x", "\"..\"", "", "a/b/c/d/e", "short"] {
        hub.server.serve("/elsewhere/config.json", Reply::ok("x").with("etag", etag));
        let error = hub.resolve("org/model", &hub.env()).unwrap_err();
        assert!(error.contains("no usable etag"), "{etag}: {error}");
    }
}

#[test]
fn without_network_the_cache_must_do() {
    let hub = Hub::new();
    let offline = HubEnv { network: Network::Forbidden { by: "HF_HUB_OFFLINE" }, ..hub.env() };
    let error = hub.resolve("org/model", &offline).unwrap_err();
    assert!(error.starts_with("org/model is not in the cache (") && error.contains("unset HF_HUB_OFFLINE"), "{error}");
    let snapshot = hub.resolve("org/model", &hub.env()).unwrap();
    fs::remove_file(hub.repository().join("blobs").join(sha256(WEIGHTS))).unwrap();
    let error = hub.resolve("org/model", &offline).unwrap_err();
    assert!(error.contains("without weights, and HF_HUB_OFFLINE forbids"), "{error}");
    assert!(snapshot.is_dir());
    assert!(matches!(resolve("org/model", &HubEnv { cache: None, ..offline }, &mut |_| ()), Err(HubError::NoCache)));
}

#[test]
fn a_dead_hub_is_named() {
    let hub = Hub::new();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let error = hub.resolve("org/model", &HubEnv { endpoint: format!("http://{free}"), ..hub.env() }).unwrap_err();
    assert!(error.starts_with(&format!("cannot fetch org/model from {free}: ")), "{error}");
    for endpoint in ["", "huggingface.co", "ftp://x", "http://", "http://x/?y"] {
        let error = hub.resolve("org/model", &HubEnv { endpoint: endpoint.into(), ..hub.env() }).unwrap_err();
        assert!(error.starts_with("HF_ENDPOINT is no address"), "{endpoint}: {error}");
    }
}

#[test]
fn references_are_not_trusted() {
    let hub = Hub::new();
    let outside = hub.cache.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::create_dir_all(hub.repository().join("refs")).unwrap();
    fs::create_dir_all(hub.repository().join("snapshots")).unwrap();
    for text in ["../../outside", "/etc", "", "..", "0123"] {
        fs::write(hub.repository().join("refs/main"), text).unwrap();
        let error = hub.resolve("org/model", &hub.env()).unwrap_err();
        assert!(error.ends_with("refs/main does not hold a commit; delete it"), "{error}");
    }
    assert!(hub.server.requests().is_empty());
}

#[test]
fn folders_are_taken_as_they_are() {
    let hub = Hub::new();
    let folder = hub.cache.path().join("my model");
    fs::create_dir(&folder).unwrap();
    assert_eq!(hub.resolve(folder.to_str().unwrap(), &hub.env()).unwrap(), folder);
    let file = hub.cache.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(hub.resolve(file.to_str().unwrap(), &hub.env()).unwrap_err().contains("is a file; expected a model's"));
    let error = hub.resolve("./no/such/folder", &hub.env()).unwrap_err();
    assert_eq!(error, "\"./no/such/folder\" is no folder, and no name on the hub either: expected org/name");
    assert!(hub.server.requests().is_empty());
}
