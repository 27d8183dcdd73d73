//! Tokens, each with its role.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What a caller may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Take part in a run: read its data and weights, compute, save.
    Worker,
    /// See how a run is doing.
    Viewer,
    /// See, and change: what a viewer may, and orders to the run.
    Operator,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Worker, Self::Viewer, Self::Operator];

    /// Its name, as in the file of tokens.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        }
    }

    /// Whether who has this role may do what `needed` may.
    fn covers(self, needed: Self) -> bool {
        self == needed || (self, needed) == (Self::Operator, Self::Viewer)
    }
}

/// The tokens that are known, as digests. Who asks for what no token guards needs none.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    tokens: Vec<(Role, [u8; 32])>,
    /// Whether a role that no token has is closed to all, and not open to all.
    closed: bool,
}

impl Keyring {
    /// The tokens in a file: a role and a token a line; blank lines and those that begin with # are passed over. A
    /// role without a token is closed.
    ///
    /// # Errors
    /// The line, from 1, and what is wrong with it; never what it holds.
    pub fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut keyring = Self { tokens: Vec::new(), closed: true };
        for (line, words) in (1..).zip(text.lines()) {
            let mut words = words.split_whitespace();
            let (name, token) = match (words.next(), words.next(), words.next()) {
                (None, ..) => continue,
                (Some(name), ..) if name.starts_with('#') => continue,
                (Some(name), Some(token), None) => (name, token),
                _ => return Err((line, "expected a role and a token, with a space between them")),
            };
            let role = Role::ALL.into_iter().find(|role| role.name() == name);
            let role = role.ok_or((line, "expected worker, viewer or operator before the token"))?;
            if token.len() < 16 {
                return Err((line, "the token has fewer than 16 characters; `medley init-certs` makes good ones"));
            }
            keyring.add(role, token);
        }
        if keyring.tokens.is_empty() {
            return Err((1, "there is no token; expected a line such as: worker TOKEN"));
        }
        Ok(keyring)
    }

    /// Makes a token known.
    pub fn add(&mut self, role: Role, token: &str) {
        self.tokens.push((role, Sha256::digest(token.as_bytes()).into()));
    }

    /// Whether whoever shows `token` may do what `needed` may. Takes as long for a wrong token as for a right one.
    #[must_use]
    pub fn allows(&self, needed: Role, token: Option<&str>) -> bool {
        let is_guarded = self.closed || self.tokens.iter().any(|(role, _)| *role == needed);
        let shown: [u8; 32] = Sha256::digest(token.unwrap_or_default().as_bytes()).into();
        let mut known = subtle::Choice::from(0);
        for (role, digest) in &self.tokens {
            known |= digest.ct_eq(&shown) & subtle::Choice::from(u8::from(role.covers(needed)));
        }
        !is_guarded || (token.is_some() && known.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: &str = "# a run's\nworker 0123456789abcdef\n\nviewer vvvvvvvvvvvvvvvv\noperator oooooooooooooooo\n";

    #[test]
    fn each_token_opens_what_its_role_may() {
        let keyring = Keyring::parse(TOKENS).unwrap();
        let allowed = |token| Role::ALL.map(|role| keyring.allows(role, token));
        assert_eq!(allowed(Some("0123456789abcdef")), [true, false, false]);
        assert_eq!(allowed(Some("vvvvvvvvvvvvvvvv")), [false, true, false]);
        assert_eq!(allowed(Some("oooooooooooooooo")), [false, true, true]);
        assert_eq!(allowed(Some("0123456789abcdeF")), [false; 3]);
        assert_eq!(allowed(Some("")), [false; 3]);
        assert_eq!(allowed(None), [false; 3]);
    }

    #[test]
    fn a_role_that_a_file_does_not_name_is_closed() {
        let keyring = Keyring::parse("worker 0123456789abcdef").unwrap();
        assert!(!keyring.allows(Role::Operator, None) && !keyring.allows(Role::Viewer, Some("0123456789abcdef")));
    }

    #[test]
    fn on_one_machine_only_what_has_a_token_is_guarded() {
        let mut keyring = Keyring::default();
        assert!(Role::ALL.into_iter().all(|role| keyring.allows(role, None)));
        keyring.add(Role::Worker, "0123456789abcdef");
        assert!(!keyring.allows(Role::Worker, None) && keyring.allows(Role::Worker, Some("0123456789abcdef")));
        assert!(keyring.allows(Role::Viewer, None));
    }

    #[test]
    fn lines_that_make_no_sense_are_named_by_number_alone() {
        let problem = |text| Keyring::parse(text).unwrap_err();
        assert_eq!(problem("worker").0, 1);
        assert_eq!(problem("\nadmin 0123456789abcdef").0, 2);
        assert_eq!(problem("worker short").0, 1);
        assert_eq!(problem("# nothing\n").0, 1);
        assert!(!problem("s3cret 0123456789abcdef").1.contains("s3cret"));
    }
}
