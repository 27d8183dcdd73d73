//! How two ranks make sure of each other: both prove that they know the group's secret, without showing it.
//!
//! Whoever calls may offer to share memory. That has a nonce in it, of which the caller tells the hash: so the callee knows
//! whether what it has opened is what was meant, and proves by the nonce that it has.

use medley_common::message::Form;
use medley_common::secret::Secret;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq;

use super::shared_memory::NONCE_BYTES;

/// Bytes of the caller's greeting.
pub(super) const HELLO_BYTES: usize = FIELDS + OFFER + PROOF;

/// Bytes of the answer.
pub(super) const REPLY_BYTES: usize = NONCE_BYTES + PROOF;

const MAGIC: &[u8; 8] = b"medley\0\x02";
const FIELDS: usize = 32;
const OFFER: usize = 40;
const PROOF: usize = 32;

/// Memory that the caller would share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    /// The caller's process.
    process: u32,
    /// Where it has the memory open.
    descriptor: u32,
    /// SHA-256 of the nonce there.
    hash: [u8; 32],
}

impl Offer {
    pub(super) fn new(process: u32, descriptor: u32, nonce: &[u8; NONCE_BYTES]) -> Self {
        Self { process, descriptor, hash: Sha256::digest(nonce).into() }
    }

    /// Where the memory is open: the process and its descriptor.
    pub(super) fn place(&self) -> (u32, u32) {
        (self.process, self.descriptor)
    }

    /// Whether it is the memory with this nonce that is offered.
    pub(super) fn is_of(&self, nonce: &[u8; NONCE_BYTES]) -> bool {
        Self::new(self.process, self.descriptor, nonce) == *self
    }

    /// Process 0 stands for no offer.
    fn encode(offer: Option<&Self>) -> [u8; OFFER] {
        let mut bytes = [0; OFFER];
        if let Some(Self { process, descriptor, hash }) = offer {
            bytes[..4].copy_from_slice(&process.to_le_bytes());
            bytes[4..8].copy_from_slice(&descriptor.to_le_bytes());
            bytes[8..].copy_from_slice(hash);
        }
        bytes
    }

    fn decode(bytes: &[u8; OFFER]) -> Option<Self> {
        let [p0, p1, p2, p3, d0, d1, d2, d3, hash @ ..] = *bytes;
        let (process, descriptor) = (u32::from_le_bytes([p0, p1, p2, p3]), u32::from_le_bytes([d0, d1, d2, d3]));
        (process != 0).then_some(Self { process, descriptor, hash })
    }
}

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
    pub(super) fn hello(&self, secret: &Secret, offer: Option<&Offer>) -> [u8; HELLO_BYTES] {
        let (fields, offer) = (self.fields(), Offer::encode(offer));
        let mut bytes = [0; HELLO_BYTES];
        bytes[..FIELDS].copy_from_slice(&fields);
        bytes[FIELDS..][..OFFER].copy_from_slice(&offer);
        bytes[FIELDS + OFFER..].copy_from_slice(&proof(b"hello", secret, &fields, &offer));
        bytes
    }

    /// What the callee answers: the nonce of the memory that it shares from here on, if it does.
    pub(super) fn reply(&self, secret: &Secret, nonce: Option<&[u8; NONCE_BYTES]>) -> [u8; REPLY_BYTES] {
        let nonce = nonce.copied().unwrap_or_default();
        let mut bytes = [0; REPLY_BYTES];
        bytes[..NONCE_BYTES].copy_from_slice(&nonce);
        bytes[NONCE_BYTES..].copy_from_slice(&proof(b"reply", secret, &self.fields(), &nonce));
        bytes
    }

    /// Whether `bytes` is the answer of one who knows the secret, and has this nonce or none.
    pub(super) fn is_reply(
        &self,
        bytes: &[u8; REPLY_BYTES],
        secret: &Secret,
        nonce: Option<&[u8; NONCE_BYTES]>,
    ) -> bool {
        self.reply(secret, nonce).ct_eq(bytes).into()
    }

    /// The caller's rank and what it offers, if the greeting is one for this rank in this group, from one who knows the
    /// secret.
    pub(super) fn caller(
        bytes: &[u8; HELLO_BYTES],
        form: &Form,
        chunk_elements: usize,
    ) -> Result<(usize, Option<Offer>), &'static str> {
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
        let mut offer = [0; OFFER];
        offer.copy_from_slice(&bytes[FIELDS..][..OFFER]);
        let proof = proof(b"hello", &form.secret, &expected.fields(), &offer);
        if bool::from(proof.ct_eq(&bytes[FIELDS + OFFER..])) {
            Ok((from, Offer::decode(&offer)))
        } else {
            Err("it does not know the secret")
        }
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

/// The inputs of a role have fixed lengths, so the plain hash is a sound code of authentication.
fn proof<const N: usize>(role: &[u8; 5], secret: &Secret, fields: &[u8; FIELDS], more: &[u8; N]) -> [u8; PROOF] {
    let hash = Sha256::new().chain_update(role).chain_update(secret.0).chain_update(fields).chain_update(more);
    hash.finalize().into()
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
        let hello = greeting.hello(&Secret([9; 32]), None);
        assert_eq!(caller(&form(1), hello), Ok((2, None)));
        assert!(caller(&form(0), hello).is_err(), "calls rank 1");
        assert!(
            caller(&form(2), Greeting::new(&form(1), 1, 2, 100).hello(&Secret([9; 32]), None)).is_err(),
            "lower ranks listen"
        );
        assert!(caller(&form(1), Greeting::new(&form(2), 2, 1, 99).hello(&Secret([9; 32]), None)).is_err());
        assert_eq!(caller(&form(1), greeting.hello(&Secret([8; 32]), None)), Err("it does not know the secret"));
        let old = Greeting { generation: 6, ..greeting };
        assert_eq!(caller(&form(1), old.hello(&Secret([9; 32]), None)), Err("it is of another generation"));
        let offer = Offer::new(77, 9, &[5; NONCE_BYTES]);
        let offering = greeting.hello(&Secret([9; 32]), Some(&offer));
        assert_eq!(caller(&form(1), offering), Ok((2, Some(offer))));
        for (place, hello) in (0..HELLO_BYTES).flat_map(|place| [(place, hello), (place, offering)]) {
            let mut hello = hello;
            hello[place] ^= 1;
            assert!(caller(&form(1), hello).is_err(), "byte {place}");
        }
    }

    #[test]
    fn only_the_right_answer_is_taken() {
        let greeting = Greeting::new(&form(2), 2, 1, 100);
        let (secret, nonce, other) = (Secret([9; 32]), [5; NONCE_BYTES], [6; NONCE_BYTES]);
        for nonce in [None, Some(&nonce)] {
            let reply = greeting.reply(&secret, nonce);
            assert!(greeting.is_reply(&reply, &secret, nonce));
            assert!(!greeting.is_reply(&reply, &secret, Some(&other)), "it has opened something else");
            assert!(!greeting.is_reply(&greeting.reply(&Secret([8; 32]), nonce), &secret, nonce));
        }
        assert!(!greeting.is_reply(&greeting.reply(&secret, None), &secret, Some(&nonce)));
        let offer = Offer::new(77, 9, &nonce);
        assert!(offer.is_of(&nonce) && !offer.is_of(&other));
    }
}
