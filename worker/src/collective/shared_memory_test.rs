//! What is taken for shared memory, and what is not.

use super::*;

#[test]
fn only_memory_of_its_kind_is_opened() {
    let refused = |descriptor: u32| open(std::process::id(), descriptor).map(|_| ()).unwrap_err().to_string();
    let memory = |flags, bytes: usize| {
        let file = rustix::fs::memfd_create("medley", MemfdFlags::CLOEXEC | flags).unwrap();
        rustix::fs::ftruncate(&file, bytes as u64).unwrap();
        File::from(file)
    };
    let sealed = |bytes| {
        let file = memory(MemfdFlags::ALLOW_SEALING, bytes);
        rustix::fs::fcntl_add_seals(&file, SEALS).unwrap();
        file
    };
    let on_disk = tempfile::tempfile().unwrap();
    on_disk.set_len(MEMORY_BYTES as u64).unwrap();
    let wrong = [
        sealed(MEMORY_BYTES - 1),
        sealed(MEMORY_BYTES + 1),
        sealed(0),
        memory(MemfdFlags::ALLOW_SEALING, MEMORY_BYTES),
        memory(MemfdFlags::empty(), MEMORY_BYTES),
        on_disk,
        File::open("/dev/null").unwrap(),
        File::open("/").unwrap(),
    ];
    for (index, file) in wrong.iter().enumerate() {
        let error = refused(file.as_raw_fd().unsigned_abs());
        assert!(error.starts_with(&format!("/proc/{}/fd/", std::process::id())), "{index}: {error}");
    }
    assert!(refused(u32::MAX).contains("No such file"));
    assert!(open(u32::MAX, 0).is_err() && open(0, 0).is_err());
    open(std::process::id(), sealed(MEMORY_BYTES).as_raw_fd().unsigned_abs()).unwrap();
}

/// It has no name, and is gone with the last process that has it.
#[test]
fn its_length_is_for_ever() {
    let offered = Offered::new().unwrap();
    let file = offered.file.try_clone().unwrap();
    for length in [0, MEMORY_BYTES as u64 - 1, MEMORY_BYTES as u64 + 1] {
        assert!(file.set_len(length).is_err(), "{length}");
    }
    assert!(rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE).is_err(), "{SEALS:?} are there already, and in use");
}
