//! What the environment says of MLflow: the variables of its own client, and what they mean to it.

use std::ffi::OsString;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::http::Uri;
use ureq::tls::TlsConfig;

use crate::trust::{CLIENT_VARIABLES, trust};

/// How long a server may take to answer, where the environment does not say: the client's own default.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where to report, and as whom.
#[derive(Clone)]
pub(super) struct Settings {
    /// The server (`MLFLOW_TRACKING_URI`): scheme, host, and a path; no user, and no slash at its end.
    pub server: String,
    /// `MLFLOW_EXPERIMENT_NAME`, or else `MLFLOW_EXPERIMENT_ID`.
    pub experiment: Experiment,
    /// A run that is there already (`MLFLOW_RUN_ID`).
    pub run: Option<String>,
    /// `MLFLOW_HTTP_REQUEST_TIMEOUT`, in seconds.
    pub patience: Duration,
    /// The header that says who asks (`MLFLOW_TRACKING_TOKEN`, or else `MLFLOW_TRACKING_USERNAME` and `_PASSWORD`).
    pub authorization: Option<String>,
    /// Proxies of `HTTPS_PROXY` and the like.
    pub proxy: Option<ureq::Proxy>,
    /// Whose certificates are trusted (`MLFLOW_TRACKING_SERVER_CERT_PATH`, or else `REQUESTS_CA_BUNDLE` and the like).
    pub trust: TlsConfig,
}

/// Which experiment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Experiment {
    /// The one of this id; 0 is that of a server's start.
    Id(String),
    /// The one of this name.
    Named(String),
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without what is secret.
        let Self { server, experiment, run, .. } = self;
        f.debug_struct("Settings").field("server", server).field("experiment", experiment).field("run", run).finish()
    }
}

impl Settings {
    /// Reads this process's environment.
    ///
    /// # Errors
    /// It names no server that can be asked.
    pub(super) fn from_env() -> Result<Self, String> {
        let settings = Self::from_variables(&|name| std::env::var(name).ok())?;
        Ok(Self { proxy: ureq::Proxy::try_from_env(), ..settings })
    }

    /// As [`from_env`](Self::from_env) over other variables, and without a proxy.
    pub(super) fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let set = |name: &str| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let uri = set("MLFLOW_TRACKING_URI").ok_or(
            "--report_to mlflow needs MLFLOW_TRACKING_URI in the environment; name the server there, e.g. \
             http://127.0.0.1:5000, which `mlflow server` starts",
        )?;
        let (server, user) = server(&uri)?;
        let basic = |user: &str, password: &str| format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
        let token = set("MLFLOW_TRACKING_TOKEN").map(|token| format!("Bearer {token}"));
        let named = set("MLFLOW_TRACKING_USERNAME");
        let named = named.map(|name| basic(&name, &set("MLFLOW_TRACKING_PASSWORD").unwrap_or_default()));
        let authorization = named.or(token).or(user.map(|(name, password)| basic(&name, &password)));
        if authorization.as_ref().is_some_and(|header| header.chars().any(char::is_control)) {
            return Err("MLFLOW_TRACKING_TOKEN has characters that no token has; set it again".to_owned());
        }
        let seconds = set("MLFLOW_HTTP_REQUEST_TIMEOUT");
        let patience = match &seconds {
            None => PATIENCE,
            Some(text) => match text.parse() {
                Ok(seconds @ 1..=86_400) => Duration::from_secs(seconds),
                _ => {
                    return Err(format!(
                        "MLFLOW_HTTP_REQUEST_TIMEOUT is {text}; expected a whole number of 1 to 86400 seconds"
                    ));
                }
            },
        };
        let own = ["MLFLOW_TRACKING_SERVER_CERT_PATH"];
        let variables: Vec<&'static str> = own.into_iter().chain(CLIENT_VARIABLES).collect();
        // Of no use in the clear, and no reason then to refuse what is wrong about it.
        let variables = if server.starts_with("https:") { variables.as_slice() } else { &[] };
        let trust = trust(variables, &|name| variable(name).map(OsString::from)).map_err(|error| error.to_string())?;
        let experiment = match (set("MLFLOW_EXPERIMENT_NAME"), set("MLFLOW_EXPERIMENT_ID")) {
            (Some(name), _) => Experiment::Named(name),
            (None, id) => Experiment::Id(id.unwrap_or_else(|| "0".to_owned())),
        };
        Ok(Self { server, experiment, run: set("MLFLOW_RUN_ID"), patience, authorization, proxy: None, trust })
    }
}

/// A name and a password.
type User = (String, String);

/// The server of an address, and the user that it may name.
fn server(uri: &str) -> Result<(String, Option<User>), String> {
    let refused = || {
        // What stands before an @ may be a password.
        let shown = uri.rsplit_once('@').map_or(uri, |(_, rest)| rest);
        format!("MLFLOW_TRACKING_URI is {shown}; expected the address of a server, e.g. http://127.0.0.1:5000")
    };
    let (scheme, rest) = uri.split_once("://").ok_or_else(refused)?;
    if !matches!(scheme, "http" | "https") {
        return Err(refused());
    }
    let host_end = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(host_end);
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => {
            let (name, password) = user.split_once(':').unwrap_or((user, ""));
            (Some((name.to_owned(), password.to_owned())), host)
        }
        None => (None, authority),
    };
    let server = format!("{scheme}://{host}{}", path.trim_end_matches('/'));
    let parsed: Uri = server.parse().map_err(|_| refused())?;
    let is_plain = parsed.host().is_some_and(|host| !host.is_empty()) && parsed.query().is_none();
    if is_plain { Ok((server, user)) } else { Err(refused()) }
}

#[cfg(test)]
mod tests {
    use super::super::client::Client;
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Settings, String> {
        let set = |name: &str| variables.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned());
        Settings::from_variables(&set)
    }

    #[test]
    fn the_server_is_trusted_by_its_own_variable_before_others() {
        let (address, certificate) = crate::trust::tests::server();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("own.pem").display().to_string();
        std::fs::write(&path, certificate).unwrap();
        let uri = ("MLFLOW_TRACKING_URI", address.as_str());
        let own = ("MLFLOW_TRACKING_SERVER_CERT_PATH", path.as_str());
        let told = |variables: &[(&str, &str)]| {
            let client = Client::new(&settings(variables).unwrap());
            client.get("experiments/get", &[]).unwrap_err().to_string()
        };
        assert!(told(&[uri]).contains("certificate"), "{}", told(&[uri]));
        let heard = told(&[uri, own, ("REQUESTS_CA_BUNDLE", "nowhere.pem")]);
        assert!(!heard.contains("certificate"), "{heard}");
        let wrong = settings(&[uri, ("SSL_CERT_FILE", "nowhere.pem")]).unwrap_err();
        assert!(wrong.starts_with("SSL_CERT_FILE is nowhere.pem"), "{wrong}");
        // In the clear there is nothing to trust.
        let plain = ("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000");
        assert!(settings(&[plain, ("SSL_CERT_FILE", "nowhere.pem")]).is_ok());
    }

    #[test]
    fn the_variables_of_mlflows_client_are_honoured() {
        let uri = ("MLFLOW_TRACKING_URI", "https://mlflow.example:8443/team/");
        let plain = settings(&[uri, ("MLFLOW_RUN_ID", " ")]).unwrap();
        assert_eq!((plain.server.as_str(), &plain.run), ("https://mlflow.example:8443/team", &None));
        assert_eq!((plain.experiment, plain.patience), (Experiment::Id("0".into()), PATIENCE));
        assert_eq!(plain.authorization, None);
        let (id, name) = (("MLFLOW_EXPERIMENT_ID", "7"), ("MLFLOW_EXPERIMENT_NAME", "nli"));
        assert_eq!(settings(&[uri, id]).unwrap().experiment, Experiment::Id("7".into()));
        assert_eq!(settings(&[uri, id, name]).unwrap().experiment, Experiment::Named("nli".into()));
        let (token, user) = (("MLFLOW_TRACKING_TOKEN", "secret"), ("MLFLOW_TRACKING_USERNAME", "Aladdin"));
        let header = |variables: &[(&str, &str)]| settings(variables).unwrap().authorization.unwrap();
        assert_eq!(header(&[uri, token]), "Bearer secret");
        // The example of RFC 7617.
        let password = ("MLFLOW_TRACKING_PASSWORD", "open sesame");
        assert_eq!(header(&[uri, token, user, password]), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let inside = ("MLFLOW_TRACKING_URI", "http://Aladdin:open@localhost:5000");
        assert_eq!(header(&[inside]), "Basic QWxhZGRpbjpvcGVu");
        let shown = format!("{:?}", settings(&[inside, token]).unwrap());
        assert!(
            shown.contains("http://localhost:5000") && !shown.contains("secret") && !shown.contains("open"),
            "{shown}"
        );
        assert_eq!(settings(&[uri, ("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")]).unwrap().patience, Duration::from_secs(3));
    }

    #[test]
    fn what_names_no_server_is_refused_without_its_password() {
        assert!(settings(&[]).unwrap_err().contains("needs MLFLOW_TRACKING_URI"));
        for odd in [
            "sqlite:///mlflow.db",
            "./mlruns",
            "http://",
            "databricks",
            "http://a:pass@",
            "http://h/?q=1",
            "http://h h",
        ] {
            let refused = settings(&[("MLFLOW_TRACKING_URI", odd)]).unwrap_err();
            assert!(refused.contains("MLFLOW_TRACKING_URI is") && !refused.contains("pass"), "{refused}");
        }
        let uri = ("MLFLOW_TRACKING_URI", "http://localhost:5000");
        let refused = settings(&[uri, ("MLFLOW_HTTP_REQUEST_TIMEOUT", "soon")]).unwrap_err();
        assert!(refused.contains("is soon; expected"), "{refused}");
        let refused = settings(&[uri, ("MLFLOW_TRACKING_TOKEN", "to\nken")]).unwrap_err();
        assert!(!refused.contains("ken\"") && refused.contains("MLFLOW_TRACKING_TOKEN"), "{refused}");
    }
}
