//! `medley convert`: a model's pickled weights as `model.safetensors`, with its config and tokenizer beside them.
//!
//! The pickle is read by `medley-worker`, which reads those of training; here is what goes where, and that nothing is lost.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::archive::{CARD_FILE, MODEL_FILES};
use crate::cli::Convert;
use crate::launch::{LaunchError, find_binary};
use crate::weights_file::{PICKLE_FILE, SAFETENSORS_FILE, WeightsFile, WeightsFileError};

/// Why nothing was converted.
#[derive(Debug, thiserror::Error)]
pub enum ConversionError {
    /// The weights cannot be used.
    #[error(transparent)]
    Weights(#[from] WeightsFileError),
    /// A folder without a pickle.
    #[error("{} has no {PICKLE_FILE}; name a folder that has one, or the file itself", folder.display())]
    NoPickle {
        /// The folder.
        folder: PathBuf,
    },
    /// Files that would be replaced.
    #[error("{} there already; give --force to replace, or name another OUT", are(paths))]
    Present {
        /// The files.
        paths: Vec<PathBuf>,
    },
    /// There is no worker's program.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// The worker refused the pickle, or could not write.
    #[error("{said}")]
    Refused {
        /// Its words.
        said: String,
        /// Its exit code.
        code: u8,
    },
    /// The file system refused something.
    #[error("{action} {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

impl ConversionError {
    /// The exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Weights(_) | Self::NoPickle { .. } => 65,
            Self::Present { .. } | Self::Launch(_) | Self::Io { .. } => 78,
            Self::Refused { code, .. } => *code,
        }
    }
}

fn are(paths: &[PathBuf]) -> String {
    let names: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    format!("{} {}", names.join(", "), if names.len() == 1 { "is" } else { "are" })
}

/// What goes where.
struct Moves {
    pickle: PathBuf,
    weights: PathBuf,
    /// Files that are copied, and their places.
    texts: Vec<(PathBuf, PathBuf)>,
}

/// Converts what is asked for, and answers what to say of it. Blocks.
///
/// Everything is written beside its place and brought there at the end, the weights first; where that fails, nothing that
/// was there has changed.
///
/// # Errors
/// The pickle holds anything but tensors, a file is there already, or something cannot be read or written.
pub fn convert(asked: &Convert) -> Result<Vec<String>, ConversionError> {
    let moves = Moves::of(asked)?;
    let places = || moves.texts.iter().map(|(_, to)| to).chain([&moves.weights]);
    let present: Vec<PathBuf> = places().filter(|path| path.symlink_metadata().is_ok()).cloned().collect();
    if !present.is_empty() && !asked.force {
        return Err(ConversionError::Present { paths: present });
    }
    let binary = find_binary()?;
    let folder = parent(&moves.weights);
    let is_new = !folder.exists();
    fs::create_dir_all(folder).map_err(failed("make", folder))?;
    let made = make(asked, &moves, (&binary, folder));
    if made.is_err() && is_new {
        // It is empty; where it is not, it stays.
        fs::remove_dir(folder).ok();
    }
    made
}

/// Makes all files in a folder of their own beside their places, and moves them there.
fn make(asked: &Convert, moves: &Moves, (binary, folder): (&Path, &Path)) -> Result<Vec<String>, ConversionError> {
    let staging = tempfile::Builder::new().prefix(".medley-convert-").tempdir_in(folder);
    let staging = staging.map_err(failed("make a folder in", folder))?;
    let weights = staging.path().join(SAFETENSORS_FILE);
    let mut said = worker(binary, &moves.pickle, &weights)?;
    // As the pickle's owner shares it.
    let permissions = fs::metadata(&moves.pickle).map_err(failed("read", &moves.pickle))?.permissions();
    fs::set_permissions(&weights, permissions).map_err(failed("write", &weights))?;
    let mut staged = vec![(weights, &moves.weights)];
    for (from, to) in &moves.texts {
        let copy = staging.path().join(to.file_name().unwrap_or_default());
        fs::copy(from, &copy).map_err(failed("copy", from))?;
        staged.push((copy, to));
    }
    for (copy, _) in &staged {
        fs::File::open(copy).and_then(|file| file.sync_all()).map_err(failed("write", copy))?;
    }
    for (copy, to) in &staged {
        if asked.force {
            fs::rename(copy, to).map_err(failed("write", to))?;
        } else {
            // A link never replaces what has come there meanwhile.
            fs::hard_link(copy, to).map_err(failed("write", to))?;
        }
    }
    let names: Vec<String> =
        moves.texts.iter().filter_map(|(_, to)| Some(to.file_name()?.to_string_lossy().into())).collect();
    said.push(match names.is_empty() {
        true => format!("the weights are in {}", moves.weights.display()),
        false => format!("the weights are in {}, with {} beside them", moves.weights.display(), names.join(", ")),
    });
    Ok(said)
}

impl Moves {
    fn of(asked: &Convert) -> Result<Self, ConversionError> {
        let Convert { from, to, .. } = asked;
        let pickle = if from.is_dir() { from.join(PICKLE_FILE) } else { from.clone() };
        if from.is_dir() && !pickle.exists() {
            // A folder with its weights in several files, or none, has errors of its own.
            return match WeightsFile::find(from)? {
                WeightsFile::Safetensors(_) | WeightsFile::Pickle(_) => {
                    Err(ConversionError::NoPickle { folder: from.clone() })
                }
            };
        }
        WeightsFile::pickle(&pickle)?;
        if to.extension().is_some_and(|extension| extension == "safetensors") && !to.is_dir() {
            return Ok(Self { pickle, weights: to.clone(), texts: Vec::new() });
        }
        let (home, same) = (parent(&pickle), |left: &Path, right: &Path| {
            left.canonicalize().ok().is_some_and(|left| right.canonicalize().is_ok_and(|right| left == right))
        });
        // A card tells of a folder, and is not a file of the model.
        let is_text = |name: &&str| *name != CARD_FILE && home.join(name).is_file() && !same(home, to);
        let texts = MODEL_FILES.into_iter().filter(is_text);
        let texts = texts.map(|name| (home.join(name), to.join(name))).collect();
        Ok(Self { weights: to.join(SAFETENSORS_FILE), texts, pickle })
    }
}

/// Has a worker write the tensors; answers its lines.
fn worker(binary: &Path, pickle: &Path, weights: &Path) -> Result<Vec<String>, ConversionError> {
    let name = || binary.display().to_string();
    let ended = Command::new(binary).arg("convert").arg(pickle).arg(weights).stdin(Stdio::null()).output();
    let ended = ended.map_err(|source| LaunchError::Spawn { binary: name(), source })?;
    if ended.status.success() {
        return Ok(String::from_utf8_lossy(&ended.stdout).lines().map(ToOwned::to_owned).collect());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    let said = said.trim().strip_prefix("medley-worker: ").unwrap_or(said.trim());
    let said = if said.is_empty() { format!("{} ended by {}", name(), ended.status) } else { said.to_owned() };
    let code = ended.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(70);
    Err(ConversionError::Refused { said, code })
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ConversionError {
    let path = path.to_owned();
    move |error| ConversionError::Io { action, path, error }
}
