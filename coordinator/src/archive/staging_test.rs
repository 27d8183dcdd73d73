use std::fs;

use super::*;
use crate::archive::Scan;
use crate::archive::fixture::{begun, names, patience, staged};

const FIVE: ArtifactKind = ArtifactKind::Weights;

#[test]
fn a_file_is_hashed_as_it_comes() {
    let (_folder, begun) = begun(None);
    let staging = begun.archive.stage(Update(1), &patience()).unwrap();
    let mut file = staging.file(FIVE, 3).unwrap();
    file.write(b"a").unwrap();
    file.write(b"bc").unwrap();
    let received = file.finish().unwrap();
    // FIPS 180-2, appendix B.1.
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(received.sha256().to_string(), abc);
    assert_eq!(fs::read(staging.folder().join(WEIGHTS_FILE)).unwrap(), b"abc");
}

#[test]
fn sizes_must_be_as_declared() {
    let (_folder, begun) = begun(None);
    let staging = begun.archive.stage(Update(1), &patience()).unwrap();
    let mut file = staging.file(FIVE, 3).unwrap();
    let error = file.write(b"abcd").unwrap_err();
    assert_eq!(error.to_string(), "model.safetensors: received 4 bytes of 3 declared");
    file.write(b"ab").unwrap();
    let error = file.finish().unwrap_err();
    assert_eq!(error.to_string(), "model.safetensors: received 2 bytes of 3 declared");
}

#[test]
fn more_than_the_disk_has_is_refused_at_once() {
    let (folder, begun) = begun(None);
    let staging = begun.archive.stage(Update(1), &patience()).unwrap();
    let error = staging.file(FIVE, u64::MAX).unwrap_err();
    assert!(error.may_pass());
    let start = format!("output_dir {}: the run needs 18446744073.7 GB", folder.path().display());
    assert!(error.to_string().starts_with(&start), "{error}");
}

#[test]
fn a_disk_that_fills_up_names_the_file() {
    let (_folder, begun) = begun(None);
    let staging = begun.archive.stage(Update(1), &patience()).unwrap();
    let mut file = staging.file(FIVE, 3).unwrap();
    file.file = File::options().write(true).open("/dev/full").unwrap();
    let error = file.write(b"abc").unwrap_err();
    assert!(error.may_pass());
    let path = staging.folder().join(WEIGHTS_FILE);
    assert_eq!(error.to_string(), format!("write {}: No space left on device (os error 28)", path.display()));
}

#[test]
fn an_upload_that_was_given_up_cannot_enter_the_next_one() {
    let (_folder, begun) = begun(None);
    let old = begun.archive.stage(Update(1), &patience()).unwrap();
    let mut late = old.file(FIVE, 3).unwrap();
    let mut new = begun.archive.stage(Update(1), &patience()).unwrap();
    assert!(matches!(old.file(ArtifactKind::Optimizer, 3), Err(ArchiveError::Io { .. })), "its folder is gone");
    late.write(b"old").unwrap();
    let late = late.finish().unwrap();
    assert!(matches!(new.accept(late), Err(ArchiveError::Misplaced { update: Update(1), name: WEIGHTS_FILE })));
    assert_eq!(names(new.folder()), [""; 0]);
    assert!(new.file(FIVE, 3).is_ok());
    assert!(new.file(FIVE, 3).is_err(), "one file a kind");
}

#[test]
fn a_staging_is_no_checkpoint() {
    let (folder, begun) = begun(None);
    let staging = staged(&begun.archive, Update(1));
    let scan = Scan::of(folder.path()).unwrap();
    assert_eq!((scan.newest, scan.passed_over), (None, Vec::new()));
    assert_eq!(staging.update(), Update(1));
}
