//! What a worker says and hears outside of its group while that comes together.
//!
//! Ranks that need more than each other's addresses to connect get it from rank 0 as a token, by way of the coordinator:
//! the agent hands it to the engine's thread, which waits here and for nothing else meanwhile.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use medley_common::message::Token;

use super::{AbortSwitch, CollectiveError};

/// How long to wait for a token between two looks at the group; a token that comes ends the waiting at once.
const LOOK: Duration = Duration::from_millis(2);

/// One group's, from the order to form it on.
pub struct Rendezvous<'a> {
    /// Aborts the coming together, and the group.
    pub switch: &'a AbortSwitch,
    /// Tells the coordinator the group's token, for all other ranks.
    pub tell: &'a dyn Fn(Token),
    /// Where the token comes in that rank 0 has told.
    pub told: &'a Receiver<Token>,
}

impl Rendezvous<'_> {
    /// Waits until rank 0's token is here, or for `patience`; the switch and `failed` end the waiting early.
    ///
    /// # Errors
    /// What `failed` says; the group was aborted; nothing came.
    pub fn token(
        &self,
        patience: Duration,
        mut failed: impl FnMut() -> Option<CollectiveError>,
    ) -> Result<Token, CollectiveError> {
        let start = Instant::now();
        loop {
            match self.told.recv_timeout(LOOK) {
                Ok(token) => return Ok(token),
                Err(RecvTimeoutError::Timeout) => {}
                // Whoever brings it has turned to another group, or has ended.
                Err(RecvTimeoutError::Disconnected) => return Err(CollectiveError::Aborted),
            }
            if self.switch.is_aborted() {
                return Err(CollectiveError::Aborted);
            }
            if let Some(error) = failed() {
                return Err(error);
            }
            if start.elapsed() > patience {
                let seconds = patience.as_secs();
                let problem = format!("the coordinator has passed on no token of rank 0 for {seconds} s");
                return Err(CollectiveError::Invalid { problem });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{SyncSender, channel, sync_channel};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Waits for a token that `bring` may bring; the switch is its, too.
    fn wait(
        patience: Duration,
        failed: impl FnMut() -> Option<CollectiveError>,
        bring: impl FnOnce(SyncSender<Token>, AbortSwitch) + Send,
    ) -> Result<Token, CollectiveError> {
        let (switch, (sender, told)) = (AbortSwitch::new().unwrap(), sync_channel(1));
        let rendezvous = Rendezvous { switch: &switch, tell: &|_| panic!("only rank 0 tells"), told: &told };
        std::thread::scope(|scope| {
            let switch = switch.clone();
            scope.spawn(|| bring(sender, switch));
            rendezvous.token(patience, failed)
        })
    }

    #[test]
    fn a_token_that_comes_ends_the_waiting() {
        let token = Token::new(vec![7; 128]).unwrap();
        let brought = wait(LONG, || None, |sender, _| sender.send(token.clone()).unwrap());
        assert_eq!(brought.unwrap(), token);
    }

    #[test]
    fn a_group_that_is_dissolved_is_not_waited_for() {
        // Kept, so that it is the switch that ends the waiting.
        let (keep, kept) = channel();
        let dissolve = |sender, switch: AbortSwitch| {
            switch.abort();
            keep.send(sender).unwrap();
        };
        let waited = wait(LONG, || None, dissolve);
        assert!(matches!(waited, Err(CollectiveError::Aborted)), "{waited:?}");
        drop(kept);
        let waited = wait(LONG, || None, |sender, _| drop(sender));
        assert!(matches!(waited, Err(CollectiveError::Aborted)), "the agent has turned to something else: {waited:?}");
    }

    #[test]
    fn a_lost_peer_and_a_token_that_never_comes_are_named() {
        let (keep, kept) = channel();
        let lost = || Some(CollectiveError::Invalid { problem: "rank 0 is gone".to_owned() });
        let waited = wait(LONG, lost, |sender, _| keep.send(sender).unwrap());
        assert_eq!(waited.unwrap_err().to_string(), "rank 0 is gone");
        let waited = wait(Duration::ZERO, || None, |sender, _| keep.send(sender).unwrap());
        assert!(waited.unwrap_err().to_string().contains("no token of rank 0"));
        drop(kept);
    }
}
