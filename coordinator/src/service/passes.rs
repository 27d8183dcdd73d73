//! Who may bring pieces of which save. A token of the role opens sessions; it is no leave to write a checkpoint: each
//! session has a pass that its worker alone is told, and a save is open to it once it was ordered to send a piece of it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use medley_common::identity::WorkerId;
use medley_common::message::Command;
use medley_common::save::SaveId;
use subtle::ConstantTimeEq;

use crate::access::token;

/// Orders of a session that are remembered: saves come one at a time, and an older one is given up.
const REMEMBERED: usize = 4;

/// The passes of all open sessions.
#[derive(Debug, Clone, Default)]
pub struct Passes(Arc<Mutex<BTreeMap<WorkerId, Pass>>>);

/// A session's pass, and what it is good for.
struct Pass {
    secret: String,
    saves: VecDeque<SaveId>,
}

/// Never shows the secret.
impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass").field("saves", &self.saves).finish_non_exhaustive()
    }
}

/// A pass as long as its session lasts; dropping it ends it.
#[derive(Debug)]
pub struct Issued {
    passes: Passes,
    worker: WorkerId,
}

impl Passes {
    /// A pass for the session of `worker`, and what it is to be told.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn issue(&self, worker: WorkerId) -> io::Result<(Issued, String)> {
        let secret = token()?;
        self.open().insert(worker, Pass { secret: secret.clone(), saves: VecDeque::new() });
        Ok((Issued { passes: self.clone(), worker }, secret))
    }

    /// Notes that `worker` is ordered to do this.
    pub fn note(&self, worker: WorkerId, command: &Command) {
        let Command::Save { save, .. } = command else { return };
        if let Some(pass) = self.open().get_mut(&worker) {
            pass.saves.push_back(*save);
            if pass.saves.len() > REMEMBERED {
                pass.saves.pop_front();
            }
        }
    }

    /// Whether who shows `secret` was ordered to send a piece of `save`.
    #[must_use]
    pub fn allow(&self, secret: &[u8], save: SaveId) -> bool {
        let passes = self.open();
        let mut own = passes.values().filter(|pass| pass.secret.as_bytes().ct_eq(secret).into());
        own.any(|pass| pass.saves.contains(&save))
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Pass>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Issued {
    fn drop(&mut self) {
        self.passes.open().remove(&self.worker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use medley_common::identity::{Generation, Update};
    use medley_common::save::Piece;

    fn save(update: u64) -> SaveId {
        SaveId { update: Update(update), generation: Generation(1) }
    }

    fn order(update: u64) -> Command {
        Command::Save { save: save(update), parts: Vec::new(), piece: Piece { index: 0, count: 1 } }
    }

    #[test]
    fn a_save_is_open_to_who_was_ordered_to_send_it_and_as_long_as_its_session_lasts() {
        let passes = Passes::default();
        let (member, secret) = passes.issue(WorkerId(1)).unwrap();
        let (_stranger, other) = passes.issue(WorkerId(2)).unwrap();
        assert!(!passes.allow(secret.as_bytes(), save(10)), "nothing is ordered yet");
        passes.note(WorkerId(1), &order(10));
        assert!(passes.allow(secret.as_bytes(), save(10)));
        for wrong in [other.as_bytes(), b"", &secret.as_bytes()[1..]] {
            assert!(!passes.allow(wrong, save(10)));
        }
        assert!(!passes.allow(secret.as_bytes(), save(11)));
        (20..30).for_each(|update| passes.note(WorkerId(1), &order(update)));
        assert!(passes.allow(secret.as_bytes(), save(29)) && !passes.allow(secret.as_bytes(), save(10)));
        assert!(!format!("{passes:?}").contains(&secret));
        drop(member);
        assert!(!passes.allow(secret.as_bytes(), save(29)));
        passes.note(WorkerId(1), &order(30));
        assert!(!passes.allow(secret.as_bytes(), save(30)));
    }
}
