//! A connection to somebody else's coordinator, for the commands that ask one or order something.

use std::time::Duration;

use medley_proto::access::{Access, AccessError, describe, is_denied, root_cause};
use medley_proto::mistake::mistake;
use tonic::Code;
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
    /// Somebody answers, and no waiting will make it the coordinator that was meant.
    #[error("coordinator at {address}: {reason}")]
    Mistaken {
        /// Where it was looked for.
        address: String,
        /// What is wrong, and the way out.
        reason: String,
    },
    /// The token is not one that may do this.
    #[error("coordinator at {address}: {reason}")]
    Denied {
        /// The coordinator.
        address: String,
        /// What it says.
        reason: String,
    },
    /// What was named is not there.
    #[error("coordinator at {address}: {reason}")]
    NotFound {
        /// The coordinator.
        address: String,
        /// What it says, and what there is.
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
    /// Whoever watched was ended by a signal, of this number.
    #[error("watching was ended by signal {0}")]
    Signalled(u8),
    /// Standard output is gone.
    #[error("write the answer: {0}")]
    Output(#[from] std::io::Error),
}

impl ClientError {
    /// The exit code: 78 where other credentials or another address are needed, 64 where something else is to be named,
    /// 128 and the number of a signal, else 70.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Access(_) | Self::Mistaken { .. } | Self::Denied { .. } => 78,
            Self::NotFound { .. } => 64,
            Self::Signalled(number) => 128 + number,
            Self::Unreachable { .. } | Self::Call { .. } | Self::Output(_) => 70,
        }
    }
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
        let failed = |error| match mistake(&error) {
            Some(reason) => ClientError::Mistaken { address: address.clone(), reason },
            None => ClientError::Unreachable { address: address.clone(), reason: root_cause(&error) },
        };
        let channel = endpoint.connect().await.map_err(failed)?;
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
        let (address, reason) = (self.address.clone(), describe(status, self.access.is_encrypted()));
        match status.code() {
            _ if is_denied(status) => ClientError::Denied { reason: self.access.denied(&reason), address },
            Code::NotFound => ClientError::NotFound { address, reason },
            _ => ClientError::Call { address, reason },
        }
    }
}

/// A request that must be answered soon.
pub fn soon<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(ANSWER_TIMEOUT);
    request
}
