//! A connection to somebody else's coordinator, for the commands that ask one or order something.

use std::time::Duration;

use medley_proto::access::{Access, AccessError, describe, root_cause};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::cli::Reach;

/// How long a coordinator may take to answer: it never waits for the run.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The credentials cannot be used.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// Nobody answers.
    #[error("no coordinator answers at {address}: {reason}; name one with --coordinator HOST:PORT")]
    Unreachable {
        /// Where it was looked for.
        address: String,
        /// The innermost reason.
        reason: String,
    },
    /// It refuses, or the answer broke off.
    #[error("coordinator at {address}: {reason}")]
    Call {
        /// The coordinator.
        address: String,
        /// What came back.
        reason: String,
    },
    /// Standard output is gone.
    #[error("write the answer: {0}")]
    Output(#[from] std::io::Error),
}

/// A coordinator that can be called.
#[derive(Debug, Clone)]
pub struct Client {
    address: String,
    access: Access,
    channel: Channel,
}

impl Client {
    /// Connects to the coordinator that the flags name.
    ///
    /// # Errors
    /// The credentials cannot be used, or nobody answers.
    pub async fn connect(reach: &Reach) -> Result<Self, ClientError> {
        let address = reach.coordinator.to_string();
        let access = Access::from_environment(reach.credentials.as_deref())?;
        let endpoint = access
            .endpoint(&address)?
            .connect_timeout(ANSWER_TIMEOUT)
            .http2_keep_alive_interval(ANSWER_TIMEOUT)
            .keep_alive_timeout(ANSWER_TIMEOUT);
        let unreachable = |error| ClientError::Unreachable { address: address.clone(), reason: root_cause(&error) };
        let channel = endpoint.connect().await.map_err(unreachable)?;
        Ok(Self { address, access, channel })
    }

    /// What a service's client is made of: the connection, with the token on every call.
    #[must_use]
    pub fn calls(&self) -> InterceptedService<Channel, Access> {
        InterceptedService::new(self.channel.clone(), self.access.clone())
    }

    /// What a refusal or a broken answer is to a person.
    #[must_use]
    pub fn broken(&self, status: &tonic::Status) -> ClientError {
        let reason = describe(status, self.access.is_encrypted());
        ClientError::Call { address: self.address.clone(), reason }
    }
}

/// A request that must be answered soon.
pub fn soon<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(ANSWER_TIMEOUT);
    request
}
