//! Memory that two processes of one machine come to have in common.
//!
//! It is a file without a name, which its maker's peer opens through `/proc`; so nothing is left behind when either
//! dies, and no file system has to have room for it. Its length is sealed: a page of it cannot go, which would be a
//! signal to whoever touches it.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FallocateFlags, FileType, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::process::geteuid;

use super::ring::{MEMORY_BYTES, Memory, Reader, SPARE_BYTES, Writer};

/// Bytes that only who has this memory can know.
pub(super) const NONCE_BYTES: usize = 32;

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW);
const _: () = assert!(NONCE_BYTES <= SPARE_BYTES);

/// Memory that this process offers to share.
#[derive(Debug)]
pub(super) struct Offered {
    file: File,
    memory: Memory,
    nonce: [u8; NONCE_BYTES],
}

impl Offered {
    /// Memory with a nonce drawn for it.
    ///
    /// # Errors
    /// The system has none, or no file descriptor.
    pub(super) fn new() -> io::Result<Self> {
        let file = rustix::fs::memfd_create("medley", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, MEMORY_BYTES as u64)?;
        // What the system has no room for is an error here, and no signal later; in a container, where memory is counted,
        // its limit may still end the process.
        rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, MEMORY_BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&file, SEALS)?;
        let mut nonce = [0; NONCE_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut nonce)?;
        let file = File::from(file);
        file.write_all_at(&nonce, 0)?;
        let memory = Memory::map(&file)?;
        Ok(Self { file, memory, nonce })
    }

    /// Where this process has it open.
    pub(super) fn descriptor(&self) -> u32 {
        self.file.as_raw_fd().unsigned_abs()
    }

    pub(super) fn nonce(&self) -> &[u8; NONCE_BYTES] {
        &self.nonce
    }

    /// This side of it; the file itself is of no use any more.
    pub(super) fn accepted(self) -> (Reader, Writer) {
        self.memory.ends(true)
    }
}

/// Opens what another process of this machine offers at a descriptor of its own: the nonce there, and this side of it.
///
/// # Errors
/// There is no such process or file here, it is another user's, or it is not memory as [`Offered::new`] makes it.
pub(super) fn open(process: u32, descriptor: u32) -> io::Result<([u8; NONCE_BYTES], (Reader, Writer))> {
    let path = format!("/proc/{process}/fd/{descriptor}");
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{path}: {error}"));
    // Elsewhere the same number may be another program's: what is there is looked at before it is opened.
    let place =
        rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|error| named(error.into()))?;
    check(&place).map_err(named)?;
    let again = format!("/proc/self/fd/{}", place.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = rustix::fs::open(again, flags, Mode::empty()).map_err(|error| named(error.into()))?;
    if !rustix::fs::fcntl_get_seals(&file).map_err(|error| named(error.into()))?.contains(SEALS) {
        return Err(named(foreign()));
    }
    let file = File::from(file);
    let mut nonce = [0; NONCE_BYTES];
    file.read_exact_at(&mut nonce, 0).map_err(named)?;
    Ok((nonce, Memory::map(&file).map_err(named)?.ends(false)))
}

/// Whether a file may be this user's memory, of this length.
fn check(file: &OwnedFd) -> io::Result<()> {
    let stat = rustix::fs::fstat(file)?;
    let is_as_long = usize::try_from(stat.st_size) == Ok(MEMORY_BYTES);
    let is_memory = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && is_as_long;
    if is_memory && stat.st_uid == geteuid().as_raw() { Ok(()) } else { Err(foreign()) }
}

fn foreign() -> io::Error {
    io::Error::new(ErrorKind::InvalidData, "not memory that a worker of this user shares")
}

#[cfg(test)]
#[path = "shared_memory_test.rs"]
mod shared_memory_test;
