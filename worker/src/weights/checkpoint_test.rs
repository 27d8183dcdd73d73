//! Checkpoints of `torch.save`, composed by hand: what the fixtures do not hold.

use std::io::{Cursor, Write};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::archive;
use super::stored::{Checkpoint, Element};
use super::stream;

/// Writes pickles of protocol 2 the way Python does, without memoising.
#[derive(Default)]
struct PickleWriter(Vec<u8>);

impl PickleWriter {
    fn new() -> Self {
        Self(vec![0x80, 2])
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    fn int(self, value: i32) -> Self {
        self.raw(b"J").raw(&value.to_le_bytes())
    }

    fn ints(self, values: &[i32]) -> Self {
        values.iter().fold(self.raw(b"("), |writer, value| writer.int(*value)).raw(b"t")
    }

    /// A persistent id that means a storage; `view` is the sixth part.
    fn storage(self, class: &str, key: &str, elements: i32, view: &[u8]) -> Self {
        let global = format!("ctorch\n{class}\n");
        self.raw(b"(").text("storage").raw(global.as_bytes()).text(key).text("cpu").int(elements).raw(view).raw(b"tQ")
    }

    /// `_rebuild_tensor_v2` of a float storage.
    fn tensor(self, key: &str, elements: i32, place: (i32, &[i32], &[i32])) -> Self {
        self.raw(b"ctorch._utils\n_rebuild_tensor_v2\n(")
            .storage("FloatStorage", key, elements, b"")
            .int(place.0)
            .ints(place.1)
            .ints(place.2)
            .raw(b"\x89}tR")
    }

    fn stop(self) -> Vec<u8> {
        self.raw(b".").0
    }
}

fn zip(entries: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in entries {
        writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        writer.write_all(content).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn floats(range: std::ops::Range<u8>) -> Vec<u8> {
    range.flat_map(|value| f32::from(value).to_le_bytes()).collect()
}

fn values(checkpoint: &Checkpoint<'_>, name: &str) -> Vec<f32> {
    let tensor = checkpoint.tensors.iter().find(|tensor| tensor.name == name).unwrap();
    let mut out = vec![-1.0; tensor.shape.iter().product()];
    tensor.copy_to(&mut out);
    out
}

/// One storage of 12 elements, seen as it is, transposed, sliced, and as a parameter and a tensor subclass; an
/// `OrderedDict` with a `_metadata` attribute, as `state_dict()` returns it.
fn views() -> Vec<u8> {
    let writer = PickleWriter::new().raw(b"ccollections\nOrderedDict\n)R(");
    let writer = writer.text("whole").tensor("0", 12, (0, &[3, 4], &[4, 1]));
    let writer = writer.text("transposed").tensor("0", 12, (0, &[4, 3], &[1, 4]));
    let writer = writer.text("sliced").tensor("0", 12, (5, &[2, 2], &[4, 1]));
    let writer = writer.text("parameter").raw(b"ctorch._utils\n_rebuild_parameter\n(");
    let writer = writer.tensor("0", 12, (9, &[3], &[1])).raw(b"\x88}tR");
    let writer = writer.text("subclass").raw(b"ctorch._tensor\n_rebuild_from_type_v2\n(");
    let writer = writer.raw(b"ctorch._utils\n_rebuild_tensor_v2\ncmine\nKind\n(").storage("FloatStorage", "0", 12, b"");
    let writer = writer.int(10).ints(&[2]).ints(&[1]).raw(b"\x89}t}tR");
    let writer = writer.text("epoch").int(3);
    writer.raw(b"u}").text("_metadata").raw(b"}sb").stop()
}

#[test]
fn views_of_one_storage_are_read_right() {
    let bytes = zip(&[("a/data.pkl", &views()), ("a/data/0", &floats(0..12))], CompressionMethod::Stored);
    let checkpoint = archive::open(&bytes).unwrap();
    assert_eq!(values(&checkpoint, "whole")[..5], [0.0, 1.0, 2.0, 3.0, 4.0]);
    assert_eq!(values(&checkpoint, "transposed")[..5], [0.0, 4.0, 8.0, 1.0, 5.0]);
    assert_eq!(values(&checkpoint, "sliced"), [5.0, 6.0, 9.0, 10.0]);
    assert_eq!(values(&checkpoint, "parameter"), [9.0, 10.0, 11.0]);
    assert_eq!(values(&checkpoint, "subclass"), [10.0, 11.0]);
    assert_eq!(checkpoint.others, ["epoch"]);
}

#[test]
fn a_tensor_or_storage_that_reaches_too_far_is_refused() {
    let open = |pickle: Vec<u8>, storage: &[u8]| {
        let bytes = zip(&[("a/data.pkl", &pickle), ("a/data/0", storage)], CompressionMethod::Stored);
        archive::open(&bytes).map(|_| ()).unwrap_err()
    };
    let one = |elements, place| PickleWriter::new().raw(b"}").text("t").tensor("0", elements, place).raw(b"s").stop();
    assert!(open(one(12, (1, &[3, 4], &[4, 1])), &floats(0..12)).contains("t: its elements reach beyond"));
    assert!(open(one(12, (0, &[12], &[1])), &floats(0..11)).contains("44 bytes"));
    assert!(open(one(12, (-1, &[2], &[1])), &floats(0..12)).contains("not understood"));
    assert!(open(one(12, (0, &[2], &[-1])), &floats(0..12)).contains("not understood"));
    let short = PickleWriter::new().raw(b"}").text("t").raw(b"ctorch._utils\n_rebuild_tensor_v2\n(K\x01tRs").stop();
    assert!(open(short, b"").contains("not understood"));
    let circle = b"\x80\x02}q\x00X\x01\x00\x00\x00th\x00s.".to_vec();
    let bytes = zip(&[("a/data.pkl", &circle)], CompressionMethod::Stored);
    assert_eq!(archive::open(&bytes).unwrap().others, ["t"]);
}

#[test]
fn what_torch_does_not_write_is_refused() {
    let open = |entries: &[(&str, &[u8])], method| archive::open(&zip(entries, method)).map(|_| ()).unwrap_err();
    let deflated = open(&[("a/data.pkl", &views()), ("a/data/0", &floats(0..12))], CompressionMethod::Deflated);
    assert!(deflated.contains("compressed"), "{deflated}");
    let stored = CompressionMethod::Stored;
    assert!(open(&[("a/data.pkl", &views())], stored).contains("data/0"));
    assert!(open(&[("a/other.txt", b"")], stored).contains("without data.pkl"));
    let big = open(&[("a/data.pkl", &views()), ("a/byteorder", b"big"), ("a/data/0", &floats(0..12))], stored);
    assert!(big.contains("big-endian"), "{big}");
    let list = PickleWriter::new().raw(b"]").stop();
    assert!(open(&[("a/data.pkl", &list)], stored).contains("no state dict"));
}

#[test]
fn a_flipped_bit_fails_the_checksum() {
    let mut bytes = zip(&[("a/data.pkl", &views()), ("a/data/0", &floats(0..12))], CompressionMethod::Stored);
    let place = bytes.windows(4).position(|window| window == 11f32.to_le_bytes()).unwrap();
    bytes[place] ^= 1;
    assert!(archive::open(&bytes).map(|_| ()).unwrap_err().to_lowercase().contains("checksum"));
}

/// The stream format with two views of one storage, an integer buffer, and storages in another order than tensors.
#[test]
fn streams_may_hold_parts_of_storages() {
    let magic = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec();
    let protocol = b"\x80\x02M\xe9\x03.".to_vec();
    let system = b"\x80\x02}.".to_vec();
    let part = |writer: PickleWriter, name: &str, first: i32| {
        let view = PickleWriter::default().raw(b"(").text("view").int(first).int(6).raw(b"t").0;
        let writer = writer.text(name).raw(b"ctorch._utils\n_rebuild_tensor\n(");
        writer.storage("FloatStorage", "7", 12, &view).int(1).ints(&[2, 2]).ints(&[1, 2]).raw(b"tR")
    };
    let writer = PickleWriter::new().raw(b"}(");
    let writer = part(part(writer, "low", 0), "high", 6);
    let writer = writer.text("ids").raw(b"ctorch._utils\n_rebuild_tensor_v2\n(").storage("LongStorage", "3", 2, b"N");
    let state = writer.int(0).ints(&[1, 2]).ints(&[2, 1]).raw(b"\x89}tRu").stop();
    let keys = PickleWriter::new().raw(b"](").text("3").text("7").raw(b"e").stop();
    let ids = [2u64, 1, 2].map(u64::to_le_bytes).concat();
    let bytes = [magic, protocol, system, state, keys, ids, 12u64.to_le_bytes().to_vec(), floats(0..12)].concat();

    let checkpoint = stream::open(&bytes).unwrap();
    assert_eq!(values(&checkpoint, "low"), [1.0, 3.0, 2.0, 4.0]);
    assert_eq!(values(&checkpoint, "high"), [7.0, 9.0, 8.0, 10.0]);
    assert_eq!(checkpoint.tensors[2].element, Element::I64);
    assert!(stream::open(&bytes[..bytes.len() - 1]).is_err());
    assert!(stream::open(&[&bytes[..], b"x"].concat()).is_err());
}
