//! Pages from elsewhere in somebody's browser must not read what this port tells (DNS rebinding): what a browser sends
//! must name the port by an address of the machine, and come from no other page.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// Lets a request through, or refuses it; no answer is to be kept or guessed at.
pub async fn check(request: Request, next: Next) -> Response {
    let mut response = match refusal(request.headers(), request.uri().host()) {
        Some(line) => (StatusCode::FORBIDDEN, line).into_response(),
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    // For browsers that do not say where a request comes from, as they do not where this port has no TLS.
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    response
}

/// Why a request is refused, if it is; HTTP/2 has the host in its target.
fn refusal(headers: &HeaderMap, target: Option<&str>) -> Option<&'static str> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let is_browser = headers.contains_key("origin")
        || headers.keys().any(|name| name.as_str().starts_with("sec-fetch-"))
        || text("user-agent").is_some_and(|agent| agent.starts_with("Mozilla/"));
    if !is_browser {
        return None;
    }
    let host = text("host").map(without_port).or(target).unwrap_or_default();
    if !is_address(host) {
        return Some("open this page by the machine's address, not by a name\n");
    }
    let from = text("origin").map(|origin| origin.split_once("://").map_or("", |(_, host)| host));
    let is_elsewhere = from.is_some_and(|from| Some(from) != text("host"));
    let is_cross = matches!(text("sec-fetch-site"), Some("cross-site" | "same-site"));
    (is_elsewhere || is_cross).then_some("another page may not read this one\n")
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether nobody else can have the name lead elsewhere.
fn is_address(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(lines: &[(&'static str, &'static str)]) -> bool {
        let mut headers = HeaderMap::new();
        lines.iter().for_each(|(name, value)| drop(headers.insert(*name, HeaderValue::from_static(value))));
        refusal(&headers, None).is_some()
    }

    #[test]
    fn programs_may_use_any_name() {
        assert!(!refused(&[("host", "medley.team.svc:29401"), ("user-agent", "Prometheus/3.1")]));
        assert!(!refused(&[("host", "10.1.2.3:29401"), ("user-agent", "kube-probe/1.37")]));
        assert!(!refused(&[]));
    }

    #[test]
    fn a_browser_comes_by_address_and_from_no_other_page() {
        let browser = ("user-agent", "Mozilla/5.0 (X11)");
        assert!(!refused(&[browser, ("host", "127.0.0.1:29401")]));
        assert!(!refused(&[browser, ("host", "localhost:29401"), ("origin", "http://localhost:29401")]));
        assert!(!refused(&[browser, ("host", "[::1]:29401"), ("sec-fetch-site", "none")]));
        assert!(refused(&[browser, ("host", "evil.example:29401")]));
        assert!(refused(&[browser]));
        assert!(refused(&[("host", "127.0.0.1:29401"), ("origin", "http://evil.example")]));
        assert!(refused(&[("host", "127.0.0.1:29401"), ("origin", "null")]));
        assert!(refused(&[("host", "127.0.0.1:29401"), ("sec-fetch-site", "cross-site")]));
        assert!(refused(&[("host", "127.0.0.1:29401"), ("origin", "http://127.0.0.1:8000")]));
    }
}
