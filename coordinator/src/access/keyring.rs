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

/// Who may do what a role may that no token has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Unguarded {
    /// On one machine without credentials: everybody may take part and look; orders come from the user that started
    /// the run.
    #[default]
    OwnOrders,
    /// Whoever has come this far: its certificate lets it do all.
    Open,
    /// Nobody.
    Closed,
}

/// The tokens that are known, as digests.
#[derive(Debug, Clone, Default)]
pub struct Keyring {
    tokens: Vec<(Role, [u8; 32])>,
    unguarded: Unguarded,
}

/// What a keyring says of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It has shown a token of the role.
    Known,
    /// It needs none.
    Free,
    /// It needs none where its process is of the user that started the run.
    OwnUser,
    /// It has no token, or a wrong one.
    Denied,
}

impl Keyring {
    /// The tokens in a file: a role and a token a line; blank lines and those that begin with # are passed over. A
    /// role without a token is closed.
    ///
    /// # Errors
    /// The line, from 1, and what is wrong with it; never what it holds.
    pub fn parse(text: &str) -> Result<Self, (usize, &'static str)> {
        let mut keyring = Self { tokens: Vec::new(), unguarded: Unguarded::Closed };
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

    /// A keyring for callers that a certificate lets do everything.
    #[must_use]
    pub fn open() -> Self {
        Self { tokens: Vec::new(), unguarded: Unguarded::Open }
    }

    /// Whether whoever shows `token` may do what `needed` may. Takes as long for a wrong token as for a right one.
    #[must_use]
    pub fn admit(&self, needed: Role, token: Option<&str>) -> Admission {
        let shown: [u8; 32] = Sha256::digest(token.unwrap_or_default().as_bytes()).into();
        let mut known = subtle::Choice::from(0);
        for (role, digest) in &self.tokens {
            known |= digest.ct_eq(&shown) & subtle::Choice::from(u8::from(role.covers(needed)));
        }
        let is_guarded = self.tokens.iter().any(|(role, _)| *role == needed);
        match (token.is_some() && known.into(), is_guarded, self.unguarded) {
            (true, ..) => Admission::Known,
            (false, true, _) | (false, false, Unguarded::Closed) => Admission::Denied,
            (false, false, Unguarded::OwnOrders) if needed == Role::Operator => Admission::OwnUser,
            (false, false, Unguarded::OwnOrders | Unguarded::Open) => Admission::Free,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: &str = "# a run's\nworker 0123456789abcdef\n\nviewer vvvvvvvvvvvvvvvv\noperator oooooooooooooooo\n";

    #[test]
    fn each_token_opens_what_its_role_may() {
        let keyring = Keyring::parse(TOKENS).unwrap();
        let allowed = |token| Role::ALL.map(|role| keyring.admit(role, token) == Admission::Known);
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
        assert_eq!(keyring.admit(Role::Operator, None), Admission::Denied);
        assert_eq!(keyring.admit(Role::Viewer, Some("0123456789abcdef")), Admission::Denied);
    }

    #[test]
    fn on_one_machine_all_may_look_and_the_own_user_gives_orders() {
        let mut keyring = Keyring::default();
        let free = |keyring: &Keyring, role| keyring.admit(role, None);
        assert_eq!(free(&keyring, Role::Worker), Admission::Free);
        keyring.add(Role::Worker, "0123456789abcdef");
        assert_eq!(free(&keyring, Role::Worker), Admission::Denied);
        assert_eq!(keyring.admit(Role::Worker, Some("0123456789abcdef")), Admission::Known);
        assert_eq!(free(&keyring, Role::Viewer), Admission::Free);
        assert_eq!(free(&keyring, Role::Operator), Admission::OwnUser);
        assert_eq!(free(&Keyring::open(), Role::Operator), Admission::Free);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_keyring_or_refused_without_being_shown(text in "\\PC{0,80}|((worker|viewer|x) [a-z]{0,20}\n){0,4}") {
            if let Err((line, problem)) = Keyring::parse(&text) {
                proptest::prop_assert!(line >= 1 && !problem.is_empty());
            }
        }
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
