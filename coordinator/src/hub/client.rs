//! Requests to the hub: where they may go, who they say they come from, and what an answer means.

use std::time::Duration;

use ureq::http::{HeaderValue, Response, Uri};
use ureq::{Agent, Body, Timeout};

use super::environment::HubEnv;
use super::error::HubError;
use super::repository::Repository;

/// Most redirects of one request.
const REDIRECT_LIMIT: usize = 5;
/// To find a host and to connect to it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection to one hub.
#[derive(Debug)]
pub struct Client {
    agent: Agent,
    patience: Duration,
    endpoint: Uri,
    /// Sent to the endpoint's own origin alone.
    authorization: Option<HeaderValue>,
}

/// An answer, and where it came from.
pub(super) struct Answer {
    pub host: String,
    pub response: Response<Body>,
}

/// What a caller wants to do with a redirect.
pub(super) enum Redirect {
    Follow,
    /// The redirect itself says enough.
    Stop,
}

impl Client {
    /// A client for the hub of `env`.
    ///
    /// # Errors
    /// The endpoint or the token cannot be used.
    pub fn new(env: &HubEnv) -> Result<Self, HubError> {
        let endpoint: Uri = env.endpoint.parse().map_err(|_| HubError::Endpoint)?;
        if !is_http(&endpoint) || endpoint.query().is_some() {
            return Err(HubError::Endpoint);
        }
        let authorization = env.credentials.token()?.and_then(|token| {
            let mut header = HeaderValue::try_from(token.header()).ok()?;
            header.set_sensitive(true);
            Some(header)
        });
        let config = Agent::config_builder()
            .tls_config(env.trust.clone()?)
            .proxy(env.proxy.clone())
            .http_status_as_error(false)
            // Redirects are followed here, where the token can be held back.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(env.patience))
            .timeout_per_read(Some(env.patience))
            .user_agent(concat!("medley/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent: config.new_agent(), patience: env.patience, endpoint, authorization })
    }

    /// Fetches `path` of the hub, following redirects as `on_redirect` says; `what` names it in errors.
    ///
    /// # Errors
    /// There is no answer, or one that is neither a success nor a redirect at which to stop.
    pub(super) fn get(
        &self,
        repository: &Repository,
        path: &str,
        what: &str,
        on_redirect: &mut dyn FnMut(&Response<Body>) -> Redirect,
    ) -> Result<Answer, HubError> {
        let base = self.endpoint.to_string();
        let first = format!("{}{path}", base.trim_end_matches('/'));
        let mut target: Uri = first.parse().map_err(|_| HubError::Endpoint)?;
        for _ in 0..=REDIRECT_LIMIT {
            let answer = self.send(&target, what)?;
            if !answer.response.status().is_redirection() {
                return self.judge(answer, repository, what);
            }
            if let Redirect::Stop = on_redirect(&answer.response) {
                return Ok(answer);
            }
            let next = location(&answer.response).and_then(|location| join(&target, location));
            // Falling back to plain text would show the content, and the signed address, to the network.
            let safe = next.filter(|next| next.scheme() == target.scheme() || target.scheme_str() == Some("http"));
            let Answer { host, .. } = answer;
            target = safe.ok_or(HubError::Answer { host, what: what.into(), reason: "an unusable redirect" })?;
        }
        let host = host_of(&target);
        Err(HubError::Answer { host, what: what.into(), reason: "more than 5 redirects" })
    }

    fn send(&self, target: &Uri, what: &str) -> Result<Answer, HubError> {
        // Sizes and digests are those of the file itself, not of a compressed form.
        let mut request = self.agent.get(target).header("accept-encoding", "identity");
        if let Some(authorization) = self.authorization.as_ref().filter(|_| same_origin(target, &self.endpoint)) {
            request = request.header("authorization", authorization);
        }
        let host = host_of(target);
        match request.call() {
            Ok(response) => Ok(Answer { host, response }),
            Err(error) => Err(self.broken(host, what, &error)),
        }
    }

    /// What to say of a connection that gave no answer, or no whole one.
    pub(super) fn broken(&self, host: String, what: &str, error: &ureq::Error) -> HubError {
        let what = what.to_owned();
        match error {
            // Finding and reaching a host have a limit of their own.
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                HubError::Network { host, what, reason: reason(error) }
            }
            ureq::Error::Timeout(_) => HubError::Silent { host, what, seconds: self.patience.as_secs() },
            other => HubError::Network { host, what, reason: reason(other) },
        }
    }

    fn judge(&self, answer: Answer, repository: &Repository, what: &str) -> Result<Answer, HubError> {
        let Answer { host, response } = answer;
        let (status, repository, what) = (response.status().as_u16(), repository.to_string(), what.to_owned());
        match status {
            200..=299 => Ok(Answer { host, response }),
            401 | 403 if self.authorization.is_none() => Err(HubError::NeedsToken { host, repository, status }),
            401 | 403 => Err(HubError::TokenRefused { host, repository, status }),
            404 => Err(HubError::NotFound { host, what }),
            _ => Err(HubError::Status { host, what, status }),
        }
    }
}

/// A header's text.
pub(super) fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

/// What went wrong, without addresses: a redirect's may be signed.
fn reason(error: &ureq::Error) -> String {
    match error {
        ureq::Error::BadUri(_) | ureq::Error::RequireHttpsOnly(_) => "bad address".into(),
        other => other.to_string(),
    }
}

fn location(response: &Response<Body>) -> Option<&str> {
    header(response, "location")
}

/// `location` as seen from `base`: a whole address, or a path on the same host.
fn join(base: &Uri, location: &str) -> Option<Uri> {
    let absolute = match location {
        _ if location.starts_with("//") => format!("{}:{location}", base.scheme_str()?),
        _ if location.starts_with('/') => format!("{}://{}{location}", base.scheme_str()?, base.authority()?),
        _ => location.to_owned(),
    };
    absolute.parse().ok().filter(is_http)
}

fn is_http(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some_and(|host| !host.is_empty())
}

fn same_origin(one: &Uri, other: &Uri) -> bool {
    let origin = |uri: &Uri| {
        let port = uri.port_u16().or(if uri.scheme_str() == Some("https") { Some(443) } else { Some(80) });
        (uri.scheme_str().map(str::to_owned), uri.host().map(str::to_ascii_lowercase), port)
    };
    origin(one) == origin(other)
}

/// Host and port, never a user name.
fn host_of(uri: &Uri) -> String {
    let host = uri.host().unwrap_or("?");
    uri.port_u16().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined_as_browsers_do() {
        let base: Uri = "https://hub.example:8443/a/b?c".parse().unwrap();
        let joined = |location: &str| join(&base, location).map(|uri| uri.to_string());
        assert_eq!(joined("/x?y").unwrap(), "https://hub.example:8443/x?y");
        assert_eq!(joined("//cdn.example/x").unwrap(), "https://cdn.example/x");
        assert_eq!(joined("https://cdn.example/x").unwrap(), "https://cdn.example/x");
        for odd in ["ftp://x/y", "x/y", "", "file:///etc/passwd", "https://"] {
            assert_eq!(joined(odd), None, "{odd}");
        }
    }

    #[test]
    fn origins_compare_scheme_host_and_port() {
        let same = |one: &str, other: &str| same_origin(&one.parse().unwrap(), &other.parse().unwrap());
        assert!(same("https://Hub.co/a", "https://hub.co:443/b"));
        assert!(!same("https://hub.co", "http://hub.co"));
        assert!(!same("https://hub.co", "https://hub.co.evil.example"));
        assert!(!same("https://hub.co", "https://hub.co:444"));
        assert_eq!(host_of(&"https://user:secret@hub.co:1/x".parse().unwrap()), "hub.co:1");
    }
}
