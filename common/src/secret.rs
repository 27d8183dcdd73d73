//! What the members of a group share and nobody else may see.

use std::fmt;

/// 32 secret bytes. What prints it, a log or a panic, shows that there are some, not which.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret(pub [u8; 32]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_not_shown() {
        assert_eq!(format!("{:?}", Some(Secret([171; 32]))), "Some(Secret(..))");
    }
}
