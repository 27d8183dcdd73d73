//! How two ranks make sure of each other: both prove that they know the group's secret, without showing it.

use medley_common::message::Form;
use medley_common::secret::Secret;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

/// Bytes of the caller's greeting.
pub(super) const HELLO_BYTES: usize = 64;

/// Bytes of the answer.
pub(super) const REPLY_BYTES: usize = 32;

const MAGIC: &[u8; 8] = b"medley\0\x01";
const FIELDS: usize = 32;

/// Who calls whom, in which group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Greeting {
    pub generation: u64,
    pub world: u32,
    pub from: u32,
    pub to: u32,
    pub chunk_elements: u32,
}

impl Greeting {
    /// Between `from` and `to` in the group of `form`.
    pub(super) fn new(form: &Form, from: usize, to: usize, chunk_elements: usize) -> Self {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Self {
            generation: form.generation.0,
            world: number(form.peers.len()),
            from: number(from),
            to: number(to),
            chunk_elements: number(chunk_elements),
        }
    }

    /// What the caller says first.
    pub(super) fn hello(&self, secret: &Secret) -> [u8; HELLO_BYTES] {
        let mut bytes = [0; HELLO_BYTES];
        bytes[..FIELDS].copy_from_slice(&self.fields());
        bytes[FIELDS..].copy_from_slice(&proof(b"hello", secret, &self.fields()));
        bytes
    }

    /// What the callee answers.
    pub(super) fn reply(&self, secret: &Secret) -> [u8; REPLY_BYTES] {
        proof(b"reply", secret, &self.fields())
    }

    /// Whether `bytes` is the answer of one who knows the secret.
    pub(super) fn is_reply(&self, bytes: &[u8; REPLY_BYTES], secret: &Secret) -> bool {
        self.reply(secret).ct_eq(bytes).into()
    }

    /// The caller's rank, if the greeting is one for this rank in this group, from one who knows the secret.
    pub(super) fn caller(bytes: &[u8; HELLO_BYTES], form: &Form, chunk_elements: usize) -> Result<usize, &'static str> {
        if bytes[..8] != MAGIC[..] {
            return Err("it does not speak this protocol");
        }
        let from = u32::from_le_bytes([bytes[20], bytes[21], bytes[22], bytes[23]]) as usize;
        let rank = form.rank.0 as usize;
        let expected = Self::new(form, from, rank, chunk_elements);
        // The generation first, for it is what goes wrong when groups change; the secret stays out of the comparison.
        if bytes[8..16] != form.generation.0.to_le_bytes() {
            return Err("it is of another generation");
        }
        if bytes[..FIELDS] != expected.fields() || from <= rank || from >= form.peers.len() {
            return Err("it calls another rank, or another kind of group");
        }
        let proof = proof(b"hello", &form.secret, &expected.fields());
        if bool::from(proof.ct_eq(&bytes[FIELDS..])) { Ok(from) } else { Err("it does not know the secret") }
    }

    fn fields(&self) -> [u8; FIELDS] {
        let mut bytes = [0; FIELDS];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..16].copy_from_slice(&self.generation.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.world.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.from.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.to.to_le_bytes());
        bytes[28..].copy_from_slice(&self.chunk_elements.to_le_bytes());
        bytes
    }
}

/// All inputs have fixed lengths, so the plain hash is a sound code of authentication.
fn proof(role: &[u8; 5], secret: &Secret, fields: &[u8; FIELDS]) -> [u8; 32] {
    Sha256::new().chain_update(role).chain_update(secret.0).chain_update(fields).finalize().into()
}

#[cfg(test)]
mod tests {
    use medley_common::identity::{Generation, Rank, Update};

    use super::*;

    fn form(rank: u32) -> Form {
        Form {
            generation: Generation(7),
            rank: Rank(rank),
            peers: vec![String::new(); 3],
            secret: Secret([9; 32]),
            lanes: vec![vec![0..1], vec![1..2], vec![2..3]],
            update: Update(0),
            line: Generation(0),
            source: None,
        }
    }

    #[test]
    fn only_the_right_caller_is_let_in() {
        let greeting = Greeting::new(&form(2), 2, 1, 100);
        let caller = |form: &Form, bytes: [u8; HELLO_BYTES]| Greeting::caller(&bytes, form, 100);
        let hello = greeting.hello(&Secret([9; 32]));
        assert_eq!(caller(&form(1), hello), Ok(2));
        assert!(caller(&form(0), hello).is_err(), "calls rank 1");
        assert!(
            caller(&form(2), Greeting::new(&form(1), 1, 2, 100).hello(&Secret([9; 32]))).is_err(),
            "lower ranks listen"
        );
        assert!(caller(&form(1), Greeting::new(&form(2), 2, 1, 99).hello(&Secret([9; 32]))).is_err());
        assert_eq!(caller(&form(1), greeting.hello(&Secret([8; 32]))), Err("it does not know the secret"));
        let old = Greeting { generation: 6, ..greeting };
        assert_eq!(caller(&form(1), old.hello(&Secret([9; 32]))), Err("it is of another generation"));
        for place in 0..HELLO_BYTES {
            let mut hello = hello;
            hello[place] ^= 1;
            assert!(caller(&form(1), hello).is_err(), "byte {place}");
        }
        assert!(greeting.is_reply(&greeting.reply(&Secret([9; 32])), &Secret([9; 32])));
        assert!(!greeting.is_reply(&greeting.reply(&Secret([8; 32])), &Secret([9; 32])));
    }
}
