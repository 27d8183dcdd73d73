//! The door of a service: lets calls in whose token has the role.

use std::sync::Arc;

use tonic::service::Interceptor;
use tonic::{Request, Status};

use super::{Keyring, Role};

/// Lets calls in that may do what a role may.
#[derive(Debug, Clone)]
pub struct Guard {
    keyring: Arc<Keyring>,
    role: Role,
}

impl Guard {
    /// A guard of what `role` may do.
    #[must_use]
    pub fn new(keyring: Arc<Keyring>, role: Role) -> Self {
        Self { keyring, role }
    }
}

impl Interceptor for Guard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let header = request.metadata().get("authorization").and_then(|value| value.to_str().ok());
        let token = header.and_then(|value| value.strip_prefix("Bearer ")).map(str::trim);
        if self.keyring.allows(self.role, token) {
            return Ok(request);
        }
        let role = self.role.name();
        Err(match token {
            None => Status::unauthenticated(format!(
                "this coordinator asks for a token of the role {role}: --credentials DIR or MEDLEY_TOKEN"
            )),
            Some(_) => Status::permission_denied(format!("the token is not one of the role {role}")),
        })
    }
}
