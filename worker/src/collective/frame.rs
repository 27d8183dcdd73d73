//! What travels between two ranks: a header of 48 bytes, then the elements as they are in memory.

use medley_common::identity::Generation;
use medley_common::lane::Node;

use crate::layout::Segment;

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 48;

const MAGIC: u32 = u32::from_le_bytes(*b"mdly");

/// Which way a frame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Part of a node of the sender's lanes, to the rank that adds it up.
    Part,
    /// Part of the sum, from the rank that added it up.
    Sum,
}

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    /// Whether elements follow; a node whose lanes are all empty is announced without any.
    pub present: bool,
    pub generation: Generation,
    /// Number of the launch, counted from 0 in the life of the group.
    pub sequence: u64,
    pub segment: Segment,
    /// The node; the root for a sum.
    pub node: Node,
    /// Dense: first element within the segment. Words: 0.
    pub offset: u64,
    /// Dense: elements. Words: rows, each a number and its elements.
    pub count: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4] = match self.kind {
            Kind::Part => 1,
            Kind::Sum => 2,
        };
        bytes[5] = u8::from(self.present);
        bytes[8..16].copy_from_slice(&self.generation.0.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[24..28].copy_from_slice(&code(self.segment).to_le_bytes());
        bytes[28..32].copy_from_slice(&self.node.level.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.node.index.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.count.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.offset.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, String> {
        let short = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let long = |at: usize| u64::from(short(at)) | u64::from(short(at + 4)) << 32;
        if short(0) != MAGIC || bytes[6] != 0 || bytes[7] != 0 {
            return Err("sent something that is no frame".to_owned());
        }
        let kind = match bytes[4] {
            1 => Kind::Part,
            2 => Kind::Sum,
            other => return Err(format!("sent a frame of unknown kind {other}")),
        };
        let present = match bytes[5] {
            0 => false,
            1 => true,
            other => return Err(format!("sent a frame with presence {other}")),
        };
        Ok(Self {
            kind,
            present,
            generation: Generation(long(8)),
            sequence: long(16),
            segment: segment(short(24)),
            node: Node { level: short(28), index: short(32) },
            count: short(36),
            offset: long(40),
        })
    }
}

fn code(segment: Segment) -> u32 {
    match segment {
        Segment::Words => 0,
        Segment::Embeddings => 1,
        Segment::Head => 2,
        Segment::Losses => u32::MAX,
        Segment::Layer(layer) => layer.saturating_add(3),
    }
}

fn segment(code: u32) -> Segment {
    match code {
        0 => Segment::Words,
        1 => Segment::Embeddings,
        2 => Segment::Head,
        u32::MAX => Segment::Losses,
        code => Segment::Layer(code - 3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_round_trip_and_garbage_is_refused() {
        let header = Header {
            kind: Kind::Sum,
            present: true,
            generation: Generation(u64::MAX - 1),
            sequence: 1 << 40,
            segment: Segment::Layer(23),
            node: Node { level: 3, index: 5 },
            offset: 1 << 33,
            count: 65_536,
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Ok(header));
        for segment in [Segment::Words, Segment::Embeddings, Segment::Head, Segment::Losses, Segment::Layer(0)] {
            let header = Header { segment, kind: Kind::Part, present: false, ..header };
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
        for (place, value) in [(0, 0), (4, 3), (5, 2), (6, 1)] {
            let mut bytes = bytes;
            bytes[place] = value;
            assert!(Header::decode(&bytes).is_err(), "byte {place}");
        }
    }
}
