//! The file of weights in a model's folder: found, and known to be whole as far as that shows without reading it all.
//!
//! Whether its tensors are the model's, the workers find: the layout of the parameters is theirs.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use safetensors::tensor::Metadata;

/// The weights in the format that is preferred.
pub const SAFETENSORS_FILE: &str = "model.safetensors";
/// The weights as `torch.save` wrote them.
pub const PICKLE_FILE: &str = "pytorch_model.bin";

/// How the large-file storage of git opens the text that stands for a file.
const LFS_POINTER: &[u8] = b"version https://git-lfs";
/// How `torch.save` opens its files: a zip archive or, before torch 1.6, a pickle of protocol 2 or later.
const PICKLE_MAGICS: [&[u8]; 2] = [b"PK\x03\x04", b"\x80"];
/// Bytes of the header's length, at the start of a safetensors file.
const LENGTH_BYTES: u64 = 8;
/// The most bytes of a safetensors header, as the format's own library has it.
const HEADER_LIMIT_BYTES: u64 = 100_000_000;

/// A file of weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightsFile {
    /// `model.safetensors`.
    Safetensors(PathBuf),
    /// `pytorch_model.bin`, a pickle.
    Pickle(PathBuf),
}

/// Why a folder's weights cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WeightsFileError {
    /// There are no weights.
    #[error(
        "{} has neither model.safetensors nor pytorch_model.bin; copy one, or give --from_scratch to draw new weights",
        folder.display()
    )]
    Missing {
        /// The folder.
        folder: PathBuf,
    },
    /// The weights are cut into several files.
    #[error("{} cuts the weights into several files; save the model as one model.safetensors", index.display())]
    Sharded {
        /// The index of the parts.
        index: PathBuf,
    },
    /// The weights were never fetched.
    #[error("{} is a git-lfs pointer, not the weights; run `git lfs pull` in its repository", path.display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// The weights are not there.
    #[error("{} is empty; copy it again", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The file is cut short, or another kind of file.
    #[error("{} {problem}; copy it again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl WeightsFile {
    /// Finds the weights of a model's folder, and checks what their first bytes tell. Blocks.
    ///
    /// # Errors
    /// There are none, or none that can be used.
    pub fn find(folder: &Path) -> Result<Self, WeightsFileError> {
        let (safetensors, pickle) = (folder.join(SAFETENSORS_FILE), folder.join(PICKLE_FILE));
        if safetensors.exists() {
            check(&safetensors, safetensors_problem)?;
            return Ok(Self::Safetensors(safetensors));
        }
        if pickle.exists() {
            check(&pickle, pickle_problem)?;
            return Ok(Self::Pickle(pickle));
        }
        let indices = [SAFETENSORS_FILE, PICKLE_FILE].map(|file| folder.join(format!("{file}.index.json")));
        match indices.into_iter().find(|index| index.exists()) {
            Some(index) => Err(WeightsFileError::Sharded { index }),
            None => Err(WeightsFileError::Missing { folder: folder.into() }),
        }
    }

    /// A pickle, by its path; checks what its first bytes tell. Blocks.
    ///
    /// # Errors
    /// It is not there, or no file that `torch.save` wrote.
    pub fn pickle(path: &Path) -> Result<Self, WeightsFileError> {
        check(path, pickle_problem)?;
        Ok(Self::Pickle(path.to_owned()))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Self::Safetensors(path) | Self::Pickle(path) => path,
        }
    }
}

impl WeightsFile {
    /// Whether a tensor's name begins with `start`; `None` for a pickle, whose names only its workers read. Blocks.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn has_tensor(&self, start: &str) -> Result<Option<bool>, WeightsFileError> {
        let Self::Safetensors(path) = self else { return Ok(None) };
        let header = File::open(path).and_then(|mut file| safetensors_header(&mut file));
        let header = header.map_err(|source| WeightsFileError::Read { path: path.clone(), source })?;
        let names = |header: &Metadata| header.tensors().keys().any(|name| name.starts_with(start));
        Ok(Some(header.is_ok_and(|header| names(&header))))
    }

    /// The first dimension of the first of these tensors that there is; `None` where there is none, and for a pickle.
    /// Blocks.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn rows_of(&self, names: &[&str]) -> Result<Option<usize>, WeightsFileError> {
        let Self::Safetensors(path) = self else { return Ok(None) };
        let header = File::open(path).and_then(|mut file| safetensors_header(&mut file));
        let header = header.map_err(|source| WeightsFileError::Read { path: path.clone(), source })?;
        let Ok(header) = header else { return Ok(None) };
        let tensors = header.tensors();
        Ok(names.iter().find_map(|name| tensors.get(*name)?.shape.first().copied()))
    }
}

/// The header of a safetensors file that is as long as it says; the reason where it is none.
fn safetensors_header(file: &mut File) -> io::Result<Result<Metadata, serde_json::Error>> {
    let mut length = [0; LENGTH_BYTES as usize];
    file.read_exact(&mut length)?;
    let mut header = Vec::new();
    file.take(u64::from_le_bytes(length).min(HEADER_LIMIT_BYTES)).read_to_end(&mut header)?;
    Ok(serde_json::from_slice(&header))
}

/// Checks a file by `problem`, which is given the file, its first bytes and its length.
fn check(
    path: &Path,
    problem: impl Fn(&mut File, &[u8], u64) -> io::Result<Option<String>>,
) -> Result<(), WeightsFileError> {
    let failed = |source| WeightsFileError::Read { path: path.into(), source };
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.is_dir() {
        return Err(failed(io::ErrorKind::IsADirectory.into()));
    }
    let mut start = Vec::new();
    File::open(path).and_then(|file| file.take(64).read_to_end(&mut start)).map_err(failed)?;
    if start.is_empty() {
        return Err(WeightsFileError::Empty { path: path.into() });
    }
    if start.starts_with(LFS_POINTER) {
        return Err(WeightsFileError::LfsPointer { path: path.into() });
    }
    let mut file = File::open(path).map_err(failed)?;
    match problem(&mut file, &start, metadata.len()).map_err(failed)? {
        Some(problem) => Err(WeightsFileError::Damaged { path: path.into(), problem }),
        None => Ok(()),
    }
}

/// What is wrong with a safetensors file of `bytes` bytes, by its header.
fn safetensors_problem(file: &mut File, start: &[u8], bytes: u64) -> io::Result<Option<String>> {
    let Some(length) = start.first_chunk().map(|length| u64::from_le_bytes(*length)) else {
        return Ok(Some("is too short for a safetensors file".to_owned()));
    };
    if length > HEADER_LIMIT_BYTES {
        return Ok(Some("does not begin as a safetensors file".to_owned()));
    }
    if length > bytes.saturating_sub(LENGTH_BYTES) {
        return Ok(Some("ends within its header".to_owned()));
    }
    let header = match safetensors_header(file)? {
        Ok(header) => header,
        Err(error) => return Ok(Some(format!("has a header that is no safetensors header ({error})"))),
    };
    let expected = (LENGTH_BYTES + length).saturating_add(header.data_len() as u64);
    Ok((bytes != expected).then(|| format!("has {bytes} bytes, and {expected} by its header")))
}

/// What is wrong with a file of `torch.save`, by its first bytes.
fn pickle_problem(_: &mut File, start: &[u8], _: u64) -> io::Result<Option<String>> {
    let is_known = PICKLE_MAGICS.iter().any(|magic| start.starts_with(magic));
    Ok((!is_known).then(|| "is no file that torch.save wrote".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(name: &str, content: &[u8]) -> Option<String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(name), content).unwrap();
        let error = WeightsFile::find(folder.path()).err()?.to_string();
        Some(error.replace(&folder.path().display().to_string(), "m"))
    }

    fn safetensors() -> Vec<u8> {
        let header = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        [&(header.len() as u64).to_le_bytes()[..], header, &[0; 8]].concat()
    }

    #[test]
    fn damage_that_the_header_shows_is_named() {
        let whole = safetensors();
        assert_eq!(problem(SAFETENSORS_FILE, &whole), None);
        let told = |content: &[u8]| problem(SAFETENSORS_FILE, content).unwrap();
        let (bytes, cut) = (whole.len(), whole.len() - 1);
        let expected = format!("m/model.safetensors has {cut} bytes, and {bytes} by its header; copy it again");
        assert_eq!(told(&whole[..cut]), expected);
        assert!(told(&[&whole[..], b"x"].concat()).contains("by its header"));
        assert!(told(&whole[..20]).contains("ends within its header"));
        assert!(told(&whole[..5]).contains("is too short"));
        assert!(told(b"<html>not found</html>").contains("does not begin as a safetensors file"));
        let mut odd = whole;
        odd[9] = b'x';
        assert!(told(&odd).contains("no safetensors header"));
    }

    #[test]
    fn pickles_are_known_by_their_first_bytes() {
        assert_eq!(problem(PICKLE_FILE, b"PK\x03\x04rest"), None);
        assert_eq!(problem(PICKLE_FILE, b"\x80\x02rest"), None);
        let expected = "m/pytorch_model.bin is no file that torch.save wrote; copy it again";
        assert_eq!(problem(PICKLE_FILE, b"<html>").unwrap(), expected);
    }

    proptest::proptest! {
        /// Whatever a header holds, and wherever it says that the tensors lie.
        #[test]
        fn any_header_is_answered(
            content in "\\PC{0,60}|\\{\"a\":\\{\"dtype\":\"F32\",\"shape\":\\[[0-9]{1,20}\\],\"data_offsets\":\\[[0-9]{1,20},[0-9]{1,20}\\]\\}\\}",
            length in proptest::option::of(proptest::prelude::any::<u64>()),
            rest in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..40),
        ) {
            let length = length.unwrap_or(content.len() as u64).to_le_bytes();
            problem(SAFETENSORS_FILE, &[&length[..], content.as_bytes(), &rest].concat());
        }
    }
}
