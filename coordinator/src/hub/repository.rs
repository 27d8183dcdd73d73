//! The name of a model on the hub.

use std::fmt;

use super::error::HubError;

/// The revision that a name without one means.
const MAIN: &str = "main";

/// A repository and a revision of it; every part is safe as a path and in an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    id: String,
    revision: String,
}

impl Repository {
    /// Reads `name`, `org/name`, or either followed by `@revision` (a branch, tag, commit or `refs/pr/1`).
    ///
    /// # Errors
    /// Characters or shapes that the hub does not allow.
    pub fn parse(name: &str) -> Result<Self, HubError> {
        let refuse = |reason| {
            let name = name.chars().take(96).flat_map(char::escape_debug).collect();
            Err(HubError::Name { name, reason })
        };
        let (id, revision) = name.split_once('@').unwrap_or((name, MAIN));
        if id.starts_with(['/', '.', '~']) || id.ends_with('/') || id.split('/').count() > 2 {
            return refuse("expected org/name");
        }
        if id.len() > 96 || !id.split('/').all(is_name) {
            return refuse("expected letters, digits, '-', '_' and '.', none of the latter doubled or at an end");
        }
        if revision.len() > 200 || !revision.split('/').all(is_revision_part) {
            return refuse("the part after @ is no revision");
        }
        Ok(Self { id: id.into(), revision: revision.into() })
    }

    /// `org/name` or `name`.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Branch, tag, commit, or a path of the kind `refs/pr/1`.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// Its folder in the cache: `models--org--name`.
    #[must_use]
    pub fn cache_name(&self) -> String {
        format!("models--{}", self.id.replace('/', "--"))
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.revision.as_str() {
            MAIN => f.write_str(&self.id),
            revision => write!(f, "{}@{revision}", self.id),
        }
    }
}

/// Whether `text` is a commit of git: 40 hexadecimal digits.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// The rule of `huggingface_hub`'s `validate_repo_id`.
fn is_name(part: &str) -> bool {
    !part.is_empty()
        && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !part.starts_with(['-', '.'])
        && !part.ends_with(['-', '.'])
        && !part.contains("--")
        && !part.contains("..")
}

fn is_revision_part(part: &str) -> bool {
    !part.is_empty()
        && part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && !part.starts_with('.')
        && !part.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_are_read() {
        let large = Repository::parse("michiyasunaga/BioLinkBERT-large").unwrap();
        assert_eq!(large.cache_name(), "models--michiyasunaga--BioLinkBERT-large");
        assert_eq!((large.revision(), large.to_string().as_str()), ("main", "michiyasunaga/BioLinkBERT-large"));
        let pull = Repository::parse("bert-base-uncased@refs/pr/12").unwrap();
        assert_eq!((pull.id(), pull.revision()), ("bert-base-uncased", "refs/pr/12"));
        assert_eq!(pull.to_string(), "bert-base-uncased@refs/pr/12");
    }

    #[test]
    fn other_names_are_refused() {
        let long = "x".repeat(97);
        for name in [
            "",
            "/",
            "./model",
            "../x",
            "/abs/model",
            "~/model",
            "a/b/c",
            "a/",
            "/a",
            "a//b",
            "a/..",
            "..",
            "a..b",
            "a--b/c",
            "-a",
            "a.",
            "a b",
            "a\\b",
            "a/b@",
            "a/b@../x",
            "a/b@x/../y",
            "a/b@x//y",
            "a/b@.git",
            "a/b@x@y",
            "a/b@x?y",
            "a%2f..",
            "ä",
            "a/b\n",
            &long,
        ] {
            let error = Repository::parse(name).unwrap_err();
            assert!(matches!(error, HubError::Name { .. }), "{name:?}");
            assert!(!error.to_string().contains('\n'));
        }
    }
}
