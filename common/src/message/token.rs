//! What the members of a group need to know before they can connect, and nobody else.

use std::fmt;

/// Made by rank 0 of a group for all its other members, once a generation. Only they know what it is: whoever passes it
/// on takes it for bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Vec<u8>);

/// Bytes that are no token: none, or too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes; expected 1 to {}", Token::MOST_BYTES)]
pub struct TokenSizeError {
    /// How many there are.
    pub bytes: usize,
}

impl Token {
    /// The most that a token may hold: NCCL's ids have 128 bytes.
    pub const MOST_BYTES: usize = 1024;

    /// A token of these bytes.
    ///
    /// # Errors
    /// There are none, or too many.
    pub fn new(bytes: Vec<u8>) -> Result<Self, TokenSizeError> {
        if (1..=Self::MOST_BYTES).contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(TokenSizeError { bytes: bytes.len() })
        }
    }

    /// What its maker has put in.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What its maker has put in.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

/// Never shows the bytes: whoever has them can join the group.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_a_size_and_is_not_shown() {
        for bytes in [0, Token::MOST_BYTES + 1] {
            assert_eq!(Token::new(vec![7; bytes]), Err(TokenSizeError { bytes }));
        }
        assert_eq!(TokenSizeError { bytes: 1025 }.to_string(), "1025 bytes; expected 1 to 1024");
        let token = Token::new(vec![222; Token::MOST_BYTES]).unwrap();
        assert_eq!(format!("{token:?}"), "Token(1024 bytes)");
        assert_eq!(token.bytes(), &[222; Token::MOST_BYTES]);
    }
}
