//! What trackers know of a run before it begins.

use std::io;
use std::path::PathBuf;

use medley_common::identity::Digest;

use super::Trouble;
use crate::archive::JsonObject;

/// Digits of a run's digest that its folder is called by: enough to tell the runs of one folder apart.
const DIGITS: usize = 8;
/// The longest part of a folder's name that a run's name gives.
const LONGEST_NAME: usize = 80;

/// A run, as trackers know it.
#[derive(Debug, Clone, PartialEq)]
pub struct Subject {
    /// Which run it is: the same where it goes on.
    pub run: Digest,
    /// What it is called (`--run_name`).
    pub name: Option<String>,
    /// Where trackers that write files do so (`--logging_dir`), each run in a folder of its own.
    pub logging_dir: PathBuf,
    /// Where the run itself writes.
    pub output_dir: PathBuf,
    /// All that decides its weights, and where its rows come from.
    pub settings: JsonObject,
}

impl Subject {
    /// What people know it by: its name, or where it writes, as in Hugging Face.
    #[must_use]
    pub fn title(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.output_dir.display().to_string())
    }

    /// Its folder in `logging_dir`, made where there is none; under whatever name the run had, it is found again by its digest.
    /// Blocks.
    ///
    /// # Errors
    /// It cannot be made or read.
    pub fn folder(&self) -> Result<PathBuf, Trouble> {
        let mark = self.run.to_string()[..DIGITS].to_owned();
        std::fs::create_dir_all(&self.logging_dir).map_err(Trouble::io("make the folder", &self.logging_dir))?;
        let names = || -> io::Result<Vec<String>> {
            let entries = std::fs::read_dir(&self.logging_dir)?;
            entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
        };
        let mut names = names().map_err(Trouble::io("read", &self.logging_dir))?;
        names.retain(|name| name.strip_suffix(&mark).is_some_and(|rest| rest.is_empty() || rest.ends_with('-')));
        names.sort();
        let named = self.name.as_deref().map(as_file_name).filter(|name| !name.is_empty());
        let name = names.into_iter().next().unwrap_or_else(|| match named {
            Some(name) => format!("{name}-{mark}"),
            None => mark,
        });
        let folder = self.logging_dir.join(name);
        std::fs::create_dir_all(&folder).map_err(Trouble::io("make the folder", &folder))?;
        Ok(folder)
    }
}

/// A name that any file system takes.
fn as_file_name(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = name.chars().map(plain).take(LONGEST_NAME).collect();
    // A hidden folder would not be found, and what begins with a hyphen is taken for a flag.
    name.trim_start_matches(['.', '-']).to_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) fn subject(logging_dir: PathBuf) -> Subject {
        let settings = JsonObject::from([
            ("learning_rate".to_owned(), 3e-5.into()),
            ("reproducible".to_owned(), true.into()),
            ("precision".to_owned(), "float32".into()),
            ("max_grad_norm".to_owned(), serde_json::Value::Null),
        ]);
        Subject { run: Digest([0xab; 32]), name: None, logging_dir, output_dir: "out".into(), settings }
    }

    #[test]
    fn a_run_finds_its_folder_again_under_whatever_name() {
        let folder = tempfile::tempdir().unwrap();
        let unnamed = subject(folder.path().join("a/b"));
        let named = Subject { name: Some("../my run/é".to_owned()), ..unnamed.clone() };
        let other = Subject { run: Digest([0xcd; 32]), ..unnamed.clone() };
        let first = named.folder().unwrap();
        assert_eq!(first.file_name().unwrap(), "_my_run__-abababab");
        assert_eq!(unnamed.folder().unwrap(), first);
        assert_eq!(other.folder().unwrap().file_name().unwrap(), "cdcdcdcd");
        assert_eq!((unnamed.title(), named.title()), ("out".to_owned(), "../my run/é".to_owned()));
        std::fs::write(folder.path().join("file"), "").unwrap();
        let refused = subject(folder.path().join("file/x")).folder().unwrap_err();
        assert!(!refused.may_pass && refused.reason.contains("file/x"), "{refused}");
    }
}
