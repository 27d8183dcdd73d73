//! TFRecord: how event files frame their messages. Length (u64), its checksum, the message, its checksum; little-endian, the
//! checksums CRC-32C, rotated and shifted so that a checksum of what holds checksums stays one.

use std::io::{self, ErrorKind, Read};

use crc::{CRC_32_ISCSI, Crc};

static CRC_32C: Crc<u32> = Crc::<u32>::new(&CRC_32_ISCSI);

/// The longest message that is read: many times the longest that is written.
const LONGEST_BYTES: u64 = 16 << 20;

/// A message as it stands in a file.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    let length = (message.len() as u64).to_le_bytes();
    [&length[..], &masked(&length).to_le_bytes(), message, &masked(message).to_le_bytes()].concat()
}

/// The next message; `None` at the end, and where what follows is cut or damaged.
///
/// # Errors
/// It cannot be read.
pub(super) fn next(reader: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let Some(length) = checked(reader, 8)? else { return Ok(None) };
    let length = length.try_into().map_or(u64::MAX, u64::from_le_bytes);
    if length > LONGEST_BYTES {
        return Ok(None);
    }
    checked(reader, length)
}

/// So many bytes, if their checksum follows.
fn checked(reader: &mut impl Read, length: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    reader.by_ref().take(length).read_to_end(&mut bytes)?;
    let mut checksum = [0; 4];
    match reader.read_exact(&mut checksum) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
        Ok(()) => Ok((u32::from_le_bytes(checksum) == masked(&bytes)).then_some(bytes)),
    }
}

/// The masked checksum.
fn masked(bytes: &[u8]) -> u32 {
    const DELTA: u32 = 0xa282_ead8;
    CRC_32C.checksum(bytes).rotate_right(15).wrapping_add(DELTA)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, B.4; the masked ones and the frame are TensorFlow's (`tensorboard.compat.tensorflow_stub.pywrap_tensorflow`).
    #[test]
    fn checksums_and_frames_are_known_ones() {
        assert_eq!(CRC_32C.checksum(&[0; 32]), 0x8a91_36aa);
        assert_eq!(CRC_32C.checksum(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(CRC_32C.checksum(b"123456789"), 0xe306_9283);
        assert_eq!(masked(b"123456789"), 0xc78a_b0e5);
        let frame: String = framed(b"medley").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(frame, "06000000000000007369d5376d65646c65792377b509");
    }

    #[test]
    fn what_is_cut_or_changed_ends_the_file_and_never_panics() {
        let text = [framed(b"one"), framed(b""), framed(b"three")].concat();
        let read = |mut bytes: &[u8]| -> Vec<Vec<u8>> { std::iter::from_fn(|| next(&mut bytes).unwrap()).collect() };
        assert_eq!(read(&text), [&b"one"[..], b"", b"three"]);
        for cut in 0..text.len() {
            assert!(read(&text[..cut]).len() < 3);
            let mut changed = text.clone();
            changed[cut] ^= 0x40;
            let whole = read(&changed);
            assert!(
                whole.len() < 3 && [&b"one"[..], b""].starts_with(&whole.iter().map(Vec::as_slice).collect::<Vec<_>>())
            );
        }
        let endless = [&u64::MAX.to_le_bytes()[..], &masked(&u64::MAX.to_le_bytes()).to_le_bytes()].concat();
        assert!(read(&endless).is_empty());
    }
}
