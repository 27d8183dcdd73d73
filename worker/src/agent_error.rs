//! Why a worker ends without having been told to.

use medley_common::message::Failure;

use crate::session::SessionError;

/// Why a worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The coordinator could not be reached or was lost.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// Somebody accepts connections but says nothing.
    #[error("{address} accepts connections but does not answer as a coordinator: it is suspended, or somebody else's")]
    Silent {
        /// The address.
        address: String,
    },
    /// The coordinator closed the session without a word.
    #[error("coordinator at {address} ended the session; has it stopped?")]
    Abandoned {
        /// The coordinator's address.
        address: String,
    },
    /// The coordinator spoke out of turn.
    #[error("coordinator at {address} sent {found}; expected {expected}")]
    OutOfTurn {
        /// The coordinator's address.
        address: String,
        /// What came.
        found: String,
        /// What should have come.
        expected: &'static str,
    },
    /// No address could be found that peers can reach.
    #[error("no local address leads to {address}: {source}; name one with --collective_host")]
    NoRoute {
        /// The coordinator's address.
        address: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The engine failed; the coordinator has been told.
    #[error("{0}")]
    Engine(Failure),
}

impl AgentError {
    /// Whether the coordinator is gone, rather than wrong: it may come back.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        match self {
            // One that is suspended accepts connections, and says nothing.
            Self::Abandoned { .. } | Self::Silent { .. } => true,
            // Where all sessions are taken, some of them may be those of who is gone.
            Self::Session(SessionError::Unreachable { .. } | SessionError::Call { .. } | SessionError::Full { .. }) => {
                true
            }
            Self::Session(_) => false,
            Self::OutOfTurn { .. } | Self::NoRoute { .. } | Self::Engine(_) => false,
        }
    }
}
