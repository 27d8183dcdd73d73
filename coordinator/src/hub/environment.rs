//! The variables by which Hugging Face's tools are set up, read once at the edge.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::tls::TlsConfig;

use super::error::HubError;
use crate::bounded_file::{FileError, read_text};
use crate::trust::{CLIENT_VARIABLES, TrustError, trust};

/// Where models come from when nothing else is said.
const ENDPOINT: &str = "https://huggingface.co";
/// How long the hub may be silent when nothing else is said.
const PATIENCE: Duration = Duration::from_secs(60);
/// The most bytes a token's file may have.
const TOKEN_FILE_LIMIT_BYTES: u64 = 1 << 16;

/// How the hub and its cache are reached.
#[derive(Debug, Clone)]
pub struct HubEnv {
    /// Folder of the cached repositories; `None` where no home is known.
    pub cache: Option<PathBuf>,
    /// Address of the hub, without a slash at its end.
    pub endpoint: String,
    /// Who asks.
    pub credentials: Credentials,
    /// Whether downloads are allowed.
    pub network: Network,
    /// The proxy of `HTTPS_PROXY` and the like, with its `NO_PROXY`.
    pub proxy: Option<ureq::Proxy>,
    /// Whose certificates are trusted (`REQUESTS_CA_BUNDLE` and the like); an error only once something must be downloaded.
    pub trust: Result<TlsConfig, TrustError>,
    /// How long the hub may be silent (`HF_HUB_DOWNLOAD_TIMEOUT`, in seconds).
    pub patience: Duration,
    /// Whether a terminal should see progress bars.
    pub bars: Bars,
}

/// Whether downloads are allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// What is not cached is downloaded.
    Allowed,
    /// What is not cached is an error.
    Forbidden {
        /// The variable that says so.
        by: &'static str,
    },
}

/// Whether a terminal should see progress bars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bars {
    /// It should.
    Shown,
    /// `HF_HUB_DISABLE_PROGRESS_BARS` says no.
    Hidden,
}

/// Who asks the hub.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// Nobody in particular.
    Anonymous,
    /// The owner of a token.
    Token(Token),
    /// A token that cannot be used; an error only once something must be downloaded.
    Unusable {
        /// The variable or file it comes from.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A secret that identifies a user. It cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl HubEnv {
    /// Reads this process's environment, and the token's file if there is one.
    #[must_use]
    pub fn from_env() -> Self {
        Self { proxy: ureq::Proxy::try_from_env(), ..Self::from_variables(&|name| std::env::var_os(name)) }
    }

    /// As [`from_env`](Self::from_env) over other variables, and without a proxy.
    #[must_use]
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<OsString>) -> Self {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let on = |name: &str| set(name).is_some_and(|value| is_on(&value.to_string_lossy()));
        let user = set("HOME").map(PathBuf::from);
        let path = |name: &str| set(name).map(|value| expand(Path::new(&value), user.as_deref()));
        let home = path("HF_HOME").or_else(|| {
            let caches = path("XDG_CACHE_HOME").or_else(|| user.as_ref().map(|user| user.join(".cache")))?;
            Some(caches.join("huggingface"))
        });
        let cache = path("HF_HUB_CACHE")
            .or_else(|| path("HUGGINGFACE_HUB_CACHE"))
            .or_else(|| home.as_ref().map(|home| home.join("hub")));
        let endpoint = set("HF_ENDPOINT").map_or_else(|| ENDPOINT.into(), |value| value.to_string_lossy().into_owned());
        let token_file = path("HF_TOKEN_PATH").or_else(|| home.map(|home| home.join("token")));
        Self {
            cache,
            endpoint: endpoint.trim_end_matches('/').into(),
            credentials: match on("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
                true => Credentials::Anonymous,
                false => Credentials::find(&set, token_file.as_deref()),
            },
            network: match ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"].into_iter().find(|name| on(name)) {
                Some(by) => Network::Forbidden { by },
                None => Network::Allowed,
            },
            proxy: None,
            trust: trust(&CLIENT_VARIABLES, variable),
            patience: set("HF_HUB_DOWNLOAD_TIMEOUT")
                .and_then(|value| value.to_str()?.trim().parse().ok())
                .filter(|seconds| *seconds > 0)
                .map_or(PATIENCE, Duration::from_secs),
            bars: if on("HF_HUB_DISABLE_PROGRESS_BARS") { Bars::Hidden } else { Bars::Shown },
        }
    }
}

impl Credentials {
    fn find(set: &dyn Fn(&str) -> Option<OsString>, file: Option<&Path>) -> Self {
        for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
            if let Some(value) = set(name) {
                return Self::parse(&value.to_string_lossy(), name.to_owned());
            }
        }
        let Some(path) = file else { return Self::Anonymous };
        match read_text(path, TOKEN_FILE_LIMIT_BYTES) {
            Ok(text) => Self::parse(&text, path.display().to_string()),
            Err(FileError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Self::Anonymous,
            Err(error) => Self::Unusable { origin: path.display().to_string(), reason: error.to_string() },
        }
    }

    fn parse(text: &str, origin: String) -> Self {
        match text.trim() {
            "" => Self::Anonymous,
            token if token.bytes().all(|byte| byte.is_ascii_graphic()) => Self::Token(Token(token.into())),
            _ => Self::Unusable { origin, reason: "it has characters that no token has".into() },
        }
    }

    /// The token, if any.
    ///
    /// # Errors
    /// There is one that cannot be used.
    pub(super) fn token(&self) -> Result<Option<&Token>, HubError> {
        match self {
            Self::Anonymous => Ok(None),
            Self::Token(token) => Ok(Some(token)),
            Self::Unusable { origin, reason } => {
                Err(HubError::Token { origin: origin.clone(), reason: reason.clone() })
            }
        }
    }
}

impl Token {
    /// The value of an `Authorization` header; the one place where the secret leaves.
    pub(super) fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

/// The values that `huggingface_hub` takes for true.
fn is_on(value: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|on| value.eq_ignore_ascii_case(on))
}

fn expand(path: &Path, user: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), user) {
        (Ok(rest), Some(user)) => user.join(rest),
        _ => path.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn env(variables: &[(&str, &str)]) -> HubEnv {
        let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
        HubEnv::from_variables(&|name| variables.get(name).map(OsString::from))
    }

    #[test]
    fn the_cache_is_where_hugging_face_has_it() {
        let cache = |variables: &[_]| env(variables).cache.map(|path| path.display().to_string());
        assert_eq!(cache(&[]), None);
        assert_eq!(cache(&[("HOME", "/u")]).unwrap(), "/u/.cache/huggingface/hub");
        let mut all = vec![("HOME", "/u"), ("XDG_CACHE_HOME", "/xdg")];
        assert_eq!(cache(&all).unwrap(), "/xdg/huggingface/hub");
        all.push(("HF_HOME", "~/hf"));
        assert_eq!(cache(&all).unwrap(), "/u/hf/hub");
        all.push(("HUGGINGFACE_HUB_CACHE", "/old"));
        assert_eq!(cache(&all).unwrap(), "/old");
        all.push(("HF_HUB_CACHE", "/new"));
        assert_eq!(cache(&all).unwrap(), "/new");
        all.push(("HF_HUB_CACHE", ""));
        assert_eq!(cache(&all).unwrap(), "/old", "an empty variable counts as unset");
    }

    #[test]
    fn switches_are_read_as_hugging_face_does() {
        assert_eq!(env(&[]).network, Network::Allowed);
        for value in ["1", "ON", "Yes", "true"] {
            let by = "TRANSFORMERS_OFFLINE";
            assert_eq!(env(&[(by, value)]).network, Network::Forbidden { by });
        }
        assert_eq!(env(&[("HF_HUB_OFFLINE", "0")]).network, Network::Allowed);
        assert_eq!(env(&[("HF_HUB_DISABLE_PROGRESS_BARS", "1")]).bars, Bars::Hidden);
        let patience = |value| env(&[("HF_HUB_DOWNLOAD_TIMEOUT", value)]).patience;
        assert_eq!([patience("5"), patience("0"), patience("soon")], [Duration::from_secs(5), PATIENCE, PATIENCE]);
        assert_eq!(env(&[]).endpoint, "https://huggingface.co");
        assert_eq!(env(&[("HF_ENDPOINT", "http://mirror:8080/hf/")]).endpoint, "http://mirror:8080/hf");
    }

    #[test]
    fn tokens_come_from_variable_or_file_and_are_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let header = |env: &HubEnv| env.credentials.token().unwrap().map(Token::header);
        assert_eq!(header(&env(&[("HF_HOME", home)])), None);
        std::fs::write(folder.path().join("token"), "hf_file\n").unwrap();
        assert_eq!(header(&env(&[("HF_HOME", home)])).unwrap(), "Bearer hf_file");
        assert_eq!(header(&env(&[("HF_HOME", home), ("HF_TOKEN", "hf_var")])).unwrap(), "Bearer hf_var");
        assert_eq!(header(&env(&[("HF_TOKEN", "hf_var"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")])), None);
        let other = folder.path().join("token");
        assert_eq!(header(&env(&[("HF_TOKEN_PATH", other.to_str().unwrap())])).unwrap(), "Bearer hf_file");

        assert!(!format!("{:?}", env(&[("HF_TOKEN", "hf_var")])).contains("hf_var"));
        let broken = env(&[("HF_TOKEN", "hf_v\nar")]);
        let error = broken.credentials.token().unwrap_err();
        assert_eq!(error.to_string(), "the token from HF_TOKEN cannot be used: it has characters that no token has");
        assert!(!format!("{error:?} {broken:?}").contains("hf_v"));
    }
}
