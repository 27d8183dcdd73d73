use std::fs;

use super::*;
use crate::archive::Scan;
use crate::archive::fixture::{begun, names, patience, send, staged};

const KIND: ArtifactKind = ArtifactKind::Weights;
const WHOLE: Piece = Piece { index: 0, count: 1 };

fn digest(bytes: &[u8]) -> Digest {
    FileRecord::of_bytes(bytes).sha256
}

/// Whatever the number of senders, their order and how often each sends, the file has the same bytes.
#[test]
fn pieces_in_any_order_are_the_file() {
    let (_folder, begun) = begun(None);
    let content: Vec<u8> = (0..=255).collect();
    for (count, order) in [(1, vec![0]), (2, vec![1, 0]), (3, vec![2, 2, 0, 1]), (5, vec![3, 0, 4, 1, 1, 2])] {
        let staging = begun.archive.stage((Update(1), count), &patience()).unwrap();
        for index in order {
            assert!(staging.record(WEIGHTS_FILE).is_err(), "not whole");
            send(&staging, KIND, (Piece { index, count }, &content)).unwrap();
        }
        assert_eq!(fs::read(staging.folder().join(WEIGHTS_FILE)).unwrap(), content);
        assert_eq!(staging.record(WEIGHTS_FILE).unwrap(), FileRecord::of_bytes(&content));
        send(&staging, KIND, (Piece { index: 0, count }, &content)).unwrap();
    }
}

#[test]
fn a_file_is_hashed_when_it_is_whole() {
    let (_folder, begun) = begun(None);
    let staging = begun.archive.stage((Update(1), 1), &patience()).unwrap();
    send(&staging, KIND, (WHOLE, b"abc")).unwrap();
    // FIPS 180-2, appendix B.1.
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(staging.record(WEIGHTS_FILE).unwrap().sha256.to_string(), abc);
}

#[test]
fn sizes_must_be_as_declared() {
    let (_folder, begun) = begun(None);
    let staging = begun.archive.stage((Update(1), 1), &patience()).unwrap();
    let mut piece = staging.piece(KIND, WHOLE, 3).unwrap().unwrap();
    let error = piece.write(b"abcd").unwrap_err();
    assert_eq!(error.to_string(), "model.safetensors: received 4 bytes of 3 declared");
    piece.write(b"ab").unwrap();
    let error = piece.finish(digest(b"ab")).unwrap_err();
    assert_eq!(error.to_string(), "model.safetensors: received 2 bytes of 3 declared");
    let error = staging.piece(KIND, WHOLE, 4).unwrap_err();
    assert_eq!(error.to_string(), "model.safetensors: received 4 bytes of 3 declared", "another layout");
}

#[test]
fn a_piece_must_have_its_digest_and_its_place() {
    let (_folder, begun) = begun(None);
    let staging = begun.archive.stage((Update(1), 2), &patience()).unwrap();
    let mut piece = staging.piece(KIND, Piece { index: 1, count: 2 }, 4).unwrap().unwrap();
    piece.write(b"xy").unwrap();
    assert!(matches!(piece.finish(digest(b"xz")), Err(ArchiveError::Damaged { name: WEIGHTS_FILE, .. })));
    for piece in [Piece { index: 0, count: 3 }, Piece { index: 2, count: 2 }] {
        assert!(matches!(staging.piece(KIND, piece, 4), Err(ArchiveError::Misplaced { .. })), "{piece:?}");
    }
    // What came damaged can be sent again.
    for index in [1, 0] {
        send(&staging, KIND, (Piece { index, count: 2 }, b"abcd")).unwrap();
    }
    assert_eq!(staging.record(WEIGHTS_FILE).unwrap(), FileRecord::of_bytes(b"abcd"));
}

/// A sender that was given up may still be sending: once another one has begun, it writes no more.
#[test]
fn the_newest_attempt_alone_writes() {
    let (_folder, begun) = begun(None);
    let staging = begun.archive.stage((Update(1), 1), &patience()).unwrap();
    let mut old = staging.piece(KIND, WHOLE, 3).unwrap().unwrap();
    old.write(b"o").unwrap();
    let mut new = staging.piece(KIND, WHOLE, 3).unwrap().unwrap();
    assert!(matches!(old.write(b"ld"), Err(ArchiveError::Misplaced { .. })));
    new.write(b"new").unwrap();
    assert!(matches!(old.write(b"ld"), Err(ArchiveError::Misplaced { .. })));
    new.finish(digest(b"new")).unwrap();
    assert!(matches!(old.write(b"ld"), Err(ArchiveError::Misplaced { .. })), "nor over what has arrived");
    assert_eq!(fs::read(staging.folder().join(WEIGHTS_FILE)).unwrap(), b"new");
}

#[test]
fn more_than_the_disk_has_is_refused_at_once() {
    let (folder, begun) = begun(None);
    let staging = begun.archive.stage((Update(1), 1), &patience()).unwrap();
    let error = staging.piece(KIND, WHOLE, u64::MAX).unwrap_err();
    assert!(error.may_pass());
    let start = format!("output_dir {}: the run needs 18446744073.7 GB", folder.path().display());
    assert!(error.to_string().starts_with(&start), "{error}");
}

#[test]
fn a_disk_that_fills_up_names_the_file() {
    let (_folder, begun) = begun(None);
    let staging = begun.archive.stage((Update(1), 1), &patience()).unwrap();
    let path = staging.folder().join(WEIGHTS_FILE);
    let file = File::options().write(true).open("/dev/full").unwrap();
    let places = vec![Mutex::default()];
    let full = StagedFile { name: WEIGHTS_FILE, path: path.clone(), file, bytes: 3, places, sealed: Mutex::default() };
    lock(&staging.files).insert(WEIGHTS_FILE, Arc::new(full));
    let error = staging.piece(KIND, WHOLE, 3).unwrap().unwrap().write(b"abc").unwrap_err();
    assert!(error.may_pass());
    assert_eq!(error.to_string(), format!("write {}: No space left on device (os error 28)", path.display()));
}

#[test]
fn an_upload_that_was_given_up_cannot_enter_the_next_one() {
    let (_folder, begun) = begun(None);
    let old = begun.archive.stage((Update(1), 1), &patience()).unwrap();
    let mut late = old.piece(KIND, WHOLE, 3).unwrap().unwrap();
    let new = begun.archive.stage((Update(1), 1), &patience()).unwrap();
    assert!(matches!(old.piece(ArtifactKind::Optimizer, WHOLE, 3), Err(ArchiveError::Io { .. })), "its folder is gone");
    late.write(b"old").unwrap();
    assert!(late.finish(digest(b"old")).is_err());
    assert_eq!(names(new.folder()), [""; 0]);
    assert!(new.piece(KIND, WHOLE, 3).is_ok());
}

#[test]
fn a_staging_is_no_checkpoint() {
    let (folder, begun) = begun(None);
    let staging = staged(&begun.archive, Update(1));
    let scan = Scan::of(folder.path()).unwrap();
    assert_eq!((scan.newest, scan.passed_over), (None, Vec::new()));
    assert_eq!(staging.update(), Update(1));
}
