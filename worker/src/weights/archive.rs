//! The zip archive that `torch.save` writes since torch 1.6: a pickle and one stored, uncompressed entry a storage.

use std::collections::BTreeMap;
use std::io::{self, Cursor};

use zip::{CompressionMethod, ZipArchive};

use super::pickle::Pickle;
use super::state_dict::{Record, foreign, records};
use super::stored::{Checkpoint, StoredTensor};

/// Reads the archive; every entry that is used is checked against its CRC-32.
pub(super) fn open(bytes: &[u8]) -> Result<Checkpoint<'_>, String> {
    let mut archive = Archive::new(bytes)?;
    let pickle = Pickle::parse(archive.entry("data.pkl")?)?;
    if archive.has("byteorder") && archive.entry("byteorder")? != b"little" {
        return Err("was saved on a big-endian machine".to_owned());
    }
    let (records, others) = records(&pickle)?;
    let mut storages: BTreeMap<&str, &[u8]> = BTreeMap::new();
    let mut tensors = Vec::with_capacity(records.len());
    for Record { name, storage, place } in records {
        let whole = match storages.get(storage.key) {
            Some(whole) => *whole,
            None => archive.entry(&format!("data/{}", storage.key))?,
        };
        storages.insert(storage.key, whole);
        let part = storage.part(whole).ok_or_else(|| {
            format!("{name}: its storage has {} bytes, fewer than {} elements take", whole.len(), storage.elements)
        })?;
        tensors.push(StoredTensor::new(name.to_owned(), storage.element, place, part)?);
    }
    Ok(Checkpoint { tensors, others, foreign: foreign(&pickle) })
}

struct Archive<'a> {
    bytes: &'a [u8],
    zip: ZipArchive<Cursor<&'a [u8]>>,
    /// The folder that all entries lie in, with its slash.
    folder: String,
}

impl<'a> Archive<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, String> {
        let zip = ZipArchive::new(Cursor::new(bytes)).map_err(|error| format!("damaged zip archive: {error}"))?;
        let folder = zip
            .file_names_raw()
            .filter_map(|name| std::str::from_utf8(name).ok())
            .filter_map(|name| name.strip_suffix("data.pkl"))
            .find(|folder| folder.is_empty() || folder.ends_with('/'))
            .ok_or("is a zip archive without data.pkl, not one of torch.save")?
            .to_owned();
        Ok(Self { bytes, zip, folder })
    }

    fn has(&self, name: &str) -> bool {
        self.zip.index_for_name_raw(format!("{}{name}", self.folder).as_bytes()).is_some()
    }

    /// The content of an entry. Entries are never compressed, so nothing can grow.
    fn entry(&mut self, name: &str) -> Result<&'a [u8], String> {
        let damaged = |problem: String| format!("entry {name}: {problem}");
        let mut entry =
            self.zip.by_name(&format!("{}{name}", self.folder)).map_err(|error| damaged(error.to_string()))?;
        if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
            return Err(damaged("is compressed or encrypted, which torch.save never does".to_owned()));
        }
        // Reading to the end is what compares the CRC-32.
        let size = io::copy(&mut entry, &mut io::sink()).map_err(|error| damaged(error.to_string()))?;
        let start = entry.data_start();
        let content = start.and_then(|start| {
            let start = usize::try_from(start).ok()?;
            self.bytes.get(start..start.checked_add(usize::try_from(size).ok()?)?)
        });
        content.filter(|_| size == entry.size()).ok_or_else(|| damaged("reaches beyond the file".to_owned()))
    }
}
