//! The stream that `torch.save` wrote before torch 1.6: five pickles, then the storages, each with its length.

use std::collections::BTreeMap;

use super::pickle::{Pickle, Value};
use super::state_dict::{Record, StorageReference, foreign, records, storage};
use super::stored::{Checkpoint, StoredTensor};

const MAGIC: i128 = 0x1950_a86a_20f9_469c_fc6c;
const PROTOCOL: i128 = 1001;

/// Reads the stream: magic number, protocol, system facts, state dict, storage keys, storages.
pub(super) fn open(bytes: &[u8]) -> Result<Checkpoint<'_>, String> {
    let mut rest = bytes;
    let magic = next(&mut rest)?;
    if magic.root() != &Value::Int(MAGIC) {
        return Err("is a pickle, but not one of torch.save".to_owned());
    }
    let protocol = next(&mut rest)?;
    if protocol.root() != &Value::Int(PROTOCOL) {
        return Err(format!("is of a stream protocol other than {PROTOCOL}"));
    }
    // Storages are little-endian whatever the system facts say.
    let facts = next(&mut rest)?;
    let state = next(&mut rest)?;
    let keys = next(&mut rest)?;
    let storages = storages(rest, &keys, &references(&state))?;

    let (records, others) = records(&state)?;
    let mut tensors = Vec::with_capacity(records.len());
    for Record { name, storage, place } in records {
        let part = storages.get(storage.key).and_then(|whole| storage.part(whole));
        let part = part.ok_or_else(|| format!("{name}: its storage is not in the file"))?;
        tensors.push(StoredTensor::new(name.to_owned(), storage.element, place, part)?);
    }
    let foreign = [&facts, &state, &keys].into_iter().flat_map(foreign).collect();
    Ok(Checkpoint { tensors, others, foreign })
}

fn next<'a>(rest: &mut &'a [u8]) -> Result<Pickle<'a>, String> {
    let pickle = Pickle::parse(rest)?;
    *rest = &rest[pickle.length..];
    Ok(pickle)
}

/// Every storage that the state refers to, by key.
fn references<'a>(state: &Pickle<'a>) -> BTreeMap<&'a str, StorageReference<'a>> {
    let persistent = state.values().iter().filter_map(|value| match value {
        Value::Persistent(id) => storage(state, *id),
        _ => None,
    });
    persistent.map(|reference| (reference.key, reference)).collect()
}

/// The storages in the order of their keys: a 64-bit number of elements, then the elements.
fn storages<'a>(
    mut rest: &'a [u8],
    keys: &Pickle<'a>,
    references: &BTreeMap<&'a str, StorageReference<'a>>,
) -> Result<BTreeMap<&'a str, &'a [u8]>, String> {
    let Value::List(ids) = keys.root() else { return Err("the list of storages is missing".to_owned()) };
    let mut storages = BTreeMap::new();
    for id in ids {
        let reference = match keys.get(*id) {
            Value::Text(key) => references.get(key),
            _ => None,
        };
        let reference = reference.ok_or("a storage is listed that no tensor uses")?;
        let content = rest.split_first_chunk::<8>().and_then(|(count, rest)| {
            let count =
                usize::try_from(u64::from_le_bytes(*count)).ok().filter(|count| *count == reference.elements)?;
            rest.split_at_checked(count.checked_mul(reference.element.bytes())?)
        });
        let (content, after) = content
            .ok_or_else(|| format!("storage {} is cut short, or has another length than its tensors", reference.key))?;
        storages.insert(reference.key, content);
        rest = after;
    }
    if rest.is_empty() { Ok(storages) } else { Err(format!("{} bytes follow the last storage", rest.len())) }
}
