//! Requests to an MLflow server, and what its answers mean.

use std::time::Duration;

use serde_json::Value;
use ureq::Agent;
use ureq::http::{Response, StatusCode};

use super::settings::Settings;
use crate::tracker::Trouble;

/// To find a host and to connect to it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// No answer of a server is as long.
const LONGEST_ANSWER_BYTES: u64 = 64 << 20;
/// So much of what a server says of an error is shown.
const LONGEST_MESSAGE: usize = 300;

/// A connection to one server.
#[derive(Debug)]
pub(super) struct Client {
    agent: Agent,
    server: String,
    authorization: Option<Header>,
}

/// A header that is not to be shown.
struct Header(String);

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Client {
    pub(super) fn new(settings: &Settings) -> Self {
        let config = Agent::config_builder()
            .tls_config(settings.trust.clone())
            .proxy(settings.proxy.clone())
            .http_status_as_error(false)
            // Elsewhere the token must not go, and a POST would become a GET.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_global(Some(settings.patience))
            .user_agent(concat!("medley/", env!("CARGO_PKG_VERSION")))
            .build();
        let authorization = settings.authorization.clone().map(Header);
        Self { agent: config.new_agent(), server: settings.server.clone(), authorization }
    }

    /// The server's address.
    pub(super) fn place(&self) -> &str {
        &self.server
    }

    /// Asks for what is there.
    ///
    /// # Errors
    /// There is no answer, or one that says no.
    pub(super) fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, Trouble> {
        let (status, text) = self.ask(path, query)?;
        self.judge(path, status, &text)
    }

    /// As [`get`](Self::get); `None` where it is not there.
    pub(super) fn get_if_there(&self, path: &str, query: &[(&str, &str)]) -> Result<Option<Value>, Trouble> {
        let (status, text) = self.ask(path, query)?;
        if status == StatusCode::NOT_FOUND && error_code(&text).as_deref() == Some("RESOURCE_DOES_NOT_EXIST") {
            return Ok(None);
        }
        self.judge(path, status, &text).map(Some)
    }

    /// Has something done.
    ///
    /// # Errors
    /// There is no answer, or one that says no.
    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Trouble> {
        let mut request = self.agent.post(self.address(path)).header("content-type", "application/json");
        if let Some(Header(authorization)) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let (status, text) = self.answer(request.send(body.to_string()))?;
        self.judge(path, status, &text)
    }

    /// An answer that is none of MLflow's.
    pub(super) fn odd(&self, path: &str, what: &str) -> Trouble {
        let server = &self.server;
        Trouble::lasting(format!("{server} answers {path} with {what}; is it an MLflow server?"))
    }

    fn ask(&self, path: &str, query: &[(&str, &str)]) -> Result<(StatusCode, String), Trouble> {
        let mut request = self.agent.get(self.address(path)).query_pairs(query.iter().copied());
        if let Some(Header(authorization)) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        self.answer(request.call())
    }

    fn address(&self, path: &str) -> String {
        format!("{}/api/2.0/mlflow/{path}", self.server)
    }

    fn answer(&self, answer: Result<Response<ureq::Body>, ureq::Error>) -> Result<(StatusCode, String), Trouble> {
        let broken = |error: ureq::Error| Trouble::passing(format!("{}: {error}", self.server));
        let mut answer = answer.map_err(broken)?;
        let text = answer.body_mut().with_config().limit(LONGEST_ANSWER_BYTES).lossy_utf8(true).read_to_string();
        Ok((answer.status(), text.map_err(broken)?))
    }

    /// What MLflow's own client tries again may pass; all else stays.
    fn judge(&self, path: &str, status: StatusCode, text: &str) -> Result<Value, Trouble> {
        let code = status.as_u16();
        let (server, said) = (&self.server, message(text));
        match code {
            200..=299 => serde_json::from_str(text).map_err(|_| self.odd(path, "no JSON")),
            401 | 403 => Err(Trouble::lasting(format!(
                "{server} refuses {path} ({code}){said}; set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and \
                 MLFLOW_TRACKING_PASSWORD"
            ))),
            408 | 429 | 500 | 502 | 503 | 504 => {
                Err(Trouble::passing(format!("{server} answers {path} with {code}{said}")))
            }
            300..=399 => Err(Trouble::lasting(format!(
                "{server} answers {path} with a redirect ({code}); set MLFLOW_TRACKING_URI to where it leads"
            ))),
            _ => Err(Trouble::lasting(format!("{server} answers {path} with {code}{said}"))),
        }
    }
}

fn error_code(text: &str) -> Option<String> {
    let answer: Value = serde_json::from_str(text).ok()?;
    Some(answer.get("error_code")?.as_str()?.to_owned())
}

/// What a server says of an error, as one line that does no harm to a terminal.
fn message(text: &str) -> String {
    let answer: Option<Value> = serde_json::from_str(text).ok();
    let said = answer.as_ref().and_then(|answer| answer.get("message")?.as_str()).unwrap_or_default();
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    let said: String = said.chars().map(plain).take(LONGEST_MESSAGE).collect();
    if said.is_empty() { said } else { format!(": {said}") }
}
