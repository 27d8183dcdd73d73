//! The door of a service: lets calls in whose token has the role, as often as they may come.

use std::sync::Arc;

use medley_proto::details::refusal;
use tonic::service::Interceptor;
use tonic::{Code, Request, Status};

use super::keyring::Admission;
use super::{Keyring, Role, Standing, Trust, limits};

/// Lets calls in that may do what a role may, or, where no role is needed, all that do not come too often.
#[derive(Debug, Clone)]
pub struct Guard {
    keyring: Arc<Keyring>,
    role: Option<Role>,
}

impl Guard {
    /// A guard of what `role` may do.
    #[must_use]
    pub fn new(keyring: Arc<Keyring>, role: Role) -> Self {
        Self { keyring, role: Some(role) }
    }

    /// A guard of what everybody may do.
    #[must_use]
    pub fn open(keyring: Arc<Keyring>) -> Self {
        Self { keyring, role: None }
    }

    /// Whether a call is let in, and what its connection is known for then.
    fn admit(&self, token: Option<&str>, standing: Option<&Standing>) -> Result<Trust, Status> {
        let Some(role) = self.role else {
            // What everybody may ask keeps no connection open that has shown nothing.
            let shown = Role::ALL.into_iter().filter(|role| self.keyring.admit(*role, token) == Admission::Known);
            return Ok(shown.map(trust).max().unwrap_or(Trust::Stranger));
        };
        match self.keyring.admit(role, token) {
            Admission::Known => Ok(trust(role)),
            Admission::Free => Ok(Trust::Guest),
            Admission::OwnUser if standing.is_some_and(Standing::is_own_user) => Ok(Trust::Guest),
            Admission::OwnUser => Err(refusal(
                Code::PermissionDenied,
                "without --credentials, this run takes orders on the coordinator's machine alone, from the user that \
                 started it"
                    .to_owned(),
                "OTHER_USER",
                ("role", role.name()),
            )),
            Admission::Denied => Err(denied(role, token.is_some())),
        }
    }
}

/// What a connection is known for that has shown a token which opens what `role` may do.
fn trust(role: Role) -> Trust {
    match role {
        Role::Viewer | Role::Worker => Trust::Known,
        Role::Operator => Trust::Member,
    }
}

fn denied(role: Role, has_token: bool) -> Status {
    let name = role.name();
    if has_token {
        let message = format!("the token is not one of the role {name}");
        return refusal(Code::PermissionDenied, message, "TOKEN_WITHOUT_ROLE", ("role", name));
    }
    let message = format!("this coordinator asks for a token of the role {name}: --credentials DIR or MEDLEY_TOKEN");
    refusal(Code::Unauthenticated, message, "TOKEN_MISSING", ("role", name))
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let standing = request.extensions().get::<Standing>();
        if let Some(wait) = standing.and_then(|standing| standing.call().err()) {
            let message = format!("over {} calls a second on one connection", limits::CALLS.per_second);
            let milliseconds = wait.as_millis().max(1).to_string();
            let detail = ("retry_after_ms", milliseconds.as_str());
            return Err(refusal(Code::ResourceExhausted, message, "TOO_MANY_CALLS", detail));
        }
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        let admitted = self.admit(token, standing);
        if let Some(standing) = standing {
            match &admitted {
                Ok(trust) => standing.raise(*trust),
                Err(_) => standing.deny(),
            }
        }
        admitted.map(|_| request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_proto::details::reason;
    use std::net::SocketAddr;

    fn known(peer: Option<SocketAddr>) -> Standing {
        Standing::new(peer, "10.0.0.2:7".parse().ok(), limits::CALLS)
    }

    fn call(guard: &mut Guard, standing: &Standing, token: Option<&str>) -> Option<String> {
        let mut request = Request::new(());
        request.extensions_mut().insert(standing.clone());
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        guard.call(request).err().map(|status| reason(&status).unwrap())
    }

    #[test]
    fn what_is_denied_has_a_reason_and_who_guesses_is_condemned() {
        let keyring = Arc::new(Keyring::parse("viewer vvvvvvvvvvvvvvvv\nworker wwwwwwwwwwwwwwww").unwrap());
        let (mut guard, standing) = (Guard::new(Arc::clone(&keyring), Role::Viewer), known(None));
        assert_eq!(call(&mut guard, &standing, None).as_deref(), Some("TOKEN_MISSING"));
        assert_eq!(call(&mut guard, &standing, Some("wwwwwwwwwwwwwwww")).as_deref(), Some("TOKEN_WITHOUT_ROLE"));
        assert_eq!(standing.trust(), Trust::Stranger);
        assert_eq!(call(&mut guard, &standing, Some("vvvvvvvvvvvvvvvv")), None);
        assert_eq!(standing.trust(), Trust::Known, "who looks keeps nobody out");
        (0..limits::DENIALS).for_each(|_| drop(call(&mut guard, &standing, Some("guess"))));
        assert!(standing.is_condemned());
    }

    #[test]
    fn what_everybody_may_ask_proves_what_its_token_does() {
        let keyring = Arc::new(Keyring::parse("viewer vvvvvvvvvvvvvvvv\nworker wwwwwwwwwwwwwwww").unwrap());
        let mut open = Guard::open(keyring);
        for (token, trust) in [
            (None, Trust::Stranger),
            (Some("xxxxxxxxxxxxxxxx"), Trust::Stranger),
            (Some("vvvvvvvvvvvvvvvv"), Trust::Known),
            (Some("wwwwwwwwwwwwwwww"), Trust::Known),
        ] {
            let standing = known(None);
            assert_eq!(call(&mut open, &standing, token), None);
            assert_eq!(standing.trust(), trust, "{token:?}");
        }
    }

    #[test]
    fn without_credentials_nobody_from_elsewhere_gives_orders() {
        let keyring = Arc::new(Keyring::default());
        let elsewhere = known("10.0.0.1:7".parse().ok());
        let mut operator = Guard::new(Arc::clone(&keyring), Role::Operator);
        assert_eq!(call(&mut operator, &elsewhere, None).as_deref(), Some("OTHER_USER"));
        assert_eq!(call(&mut Guard::new(Arc::clone(&keyring), Role::Viewer), &elsewhere, None), None);
        assert_eq!(call(&mut Guard::open(keyring), &elsewhere, None), None);
    }

    #[test]
    fn a_connection_calls_so_often_and_no_oftener() {
        let mut guard = Guard::open(Arc::default());
        let standing = known(None);
        let refused = (0..2 * limits::CALLS.at_once).find_map(|_| call(&mut guard, &standing, None));
        assert_eq!(refused.as_deref(), Some("TOO_MANY_CALLS"));
    }
}
