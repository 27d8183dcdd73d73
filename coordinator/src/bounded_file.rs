//! Files that are small by nature (settings, vocabularies): read whole, but never beyond a limit.
//!
//! Rows and weights do not come this way: they are streamed.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// The most bytes a settings file may have.
pub const SETTINGS_LIMIT_BYTES: u64 = 16 << 20;

/// Why a small file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It is larger than such a file can sensibly be.
    #[error("{} has more than {limit_bytes} bytes; expected a small file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit it passes.
        limit_bytes: u64,
    },
    /// It is not text.
    #[error("{} is not UTF-8 text", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
    /// It is not JSON.
    #[error("{} is not JSON: {reason}", path.display())]
    NotJson {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// It is JSON, but not an object.
    #[error("{} holds no JSON object", path.display())]
    NotObject {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a text file of at most `limit_bytes`; a leading byte order mark is dropped.
///
/// # Errors
/// The file cannot be read, is larger or is not UTF-8.
pub fn read_text(path: &Path, limit_bytes: u64) -> Result<String, FileError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(limit_bytes.saturating_add(1)).read_to_end(&mut bytes))
        .map_err(|source| FileError::Read { path: path.into(), source })?;
    if bytes.len() as u64 > limit_bytes {
        return Err(FileError::TooLarge { path: path.into(), limit_bytes });
    }
    let text = String::from_utf8(bytes).map_err(|_| FileError::NotText { path: path.into() })?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// Reads a settings file: one JSON object of at most [`SETTINGS_LIMIT_BYTES`].
///
/// # Errors
/// The file cannot be read, is too large or holds anything but a JSON object.
pub fn read_object(path: &Path) -> Result<Map<String, Value>, FileError> {
    let text = read_text(path, SETTINGS_LIMIT_BYTES)?;
    match serde_json::from_str(&text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(FileError::NotObject { path: path.into() }),
        Err(error) => Err(FileError::NotJson { path: path.into(), reason: error.to_string() }),
    }
}

/// As [`read_object`]; `None` where there is no such file.
///
/// # Errors
/// As [`read_object`], a missing file excepted.
pub fn read_object_if_present(path: &Path) -> Result<Option<Map<String, Value>>, FileError> {
    match read_object(path) {
        Ok(object) => Ok(Some(object)),
        Err(FileError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_and_kinds_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        assert!(read_object_if_present(&path).unwrap().is_none());
        std::fs::write(&path, "\u{feff}{\"a\": 1}").unwrap();
        assert_eq!(read_object(&path).unwrap()["a"], 1);
        assert!(matches!(read_text(&path, 5), Err(FileError::TooLarge { limit_bytes: 5, .. })));
        std::fs::write(&path, "[]").unwrap();
        assert!(matches!(read_object(&path), Err(FileError::NotObject { .. })));
        std::fs::write(&path, "{\"a\": 1e999}").unwrap();
        assert!(matches!(read_object(&path), Err(FileError::NotJson { .. })));
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        assert!(matches!(read_object(&path), Err(FileError::NotText { .. })));
        assert!(matches!(read_object(folder.path()), Err(FileError::Read { .. })));
    }
}
