//! Rings of bytes in memory that two processes share, one each way.
//!
//! All unsafe code of the collective beside NCCL's is here. A ring has one writer and one reader, each in a process of its
//! own. A byte belongs to the writer until it has counted it as written, and to the reader from then until it has counted
//! it as read: nobody reads what somebody writes. Each side goes by a count of its own, and takes the other's for what a
//! stranger says: it is read once, and what it allows is within the ring, or it is refused.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use memmap2::MmapRaw;

/// Bytes of a ring: two frames, so that one is written while another is read. Tests have small ones, which are full all the
/// time.
pub(super) const RING_BYTES: usize = if cfg!(test) { 1 << 10 } else { 512 << 10 };
/// Bytes of the memory that two rings take.
pub(super) const MEMORY_BYTES: usize = RINGS + 2 * RING_BYTES;
/// Bytes at the start of that memory that are no part of the rings.
pub(super) const SPARE_BYTES: usize = COUNTERS[0];

/// Where the counters of each ring are.
const COUNTERS: [usize; 2] = [1024, 2048];
/// Where the first ring begins.
const RINGS: usize = 4096;
/// Bytes that are read before the writer is told.
const TOLD: u64 = RING_BYTES as u64 / 8;

/// What is in cache lines of its own, together with the one that processors fetch beside it.
#[repr(C, align(128))]
struct Lines<T>(T);

/// What the two sides of a ring tell each other.
#[repr(C)]
struct Counters {
    /// Bytes written since the beginning.
    written: Lines<AtomicU64>,
    /// Bytes read since the beginning.
    read: Lines<AtomicU64>,
    /// Not 0 while the reader sleeps until something is written.
    reader_sleeps: Lines<AtomicU32>,
    /// Not 0 while the writer sleeps until half of the ring is free.
    writer_sleeps: Lines<AtomicU32>,
}

const _: () = assert!(size_of::<Counters>() <= COUNTERS[1] - COUNTERS[0] && RING_BYTES.is_power_of_two());

/// A counter of the other side that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("its counter of bytes {doing} shared memory is {there}, where {least} to {most} was due")]
pub(super) struct WildCounter {
    doing: &'static str,
    there: u64,
    least: u64,
    most: u64,
}

impl From<WildCounter> for io::Error {
    fn from(wild: WildCounter) -> Self {
        Self::new(ErrorKind::InvalidData, wild)
    }
}

/// Memory for two rings.
#[derive(Debug)]
pub(super) struct Memory(MmapRaw);

impl Memory {
    /// That of a file of [`MEMORY_BYTES`], which must not become shorter.
    ///
    /// # Errors
    /// The file has another length, or the system does not map it.
    pub(super) fn map(file: &File) -> io::Result<Self> {
        let memory = MmapRaw::map_raw(file)?;
        if memory.len() == MEMORY_BYTES { Ok(Self(memory)) } else { Err(ErrorKind::InvalidData.into()) }
    }

    /// The ends of the two rings that its maker has, or those that the maker's peer has.
    pub(super) fn ends(self, is_maker: bool) -> (Reader, Writer) {
        let memory = Arc::new(self);
        let ring = |index| Ring { memory: Arc::clone(&memory), index };
        let (read, written) = if is_maker { (ring(0), ring(1)) } else { (ring(1), ring(0)) };
        (Reader { ring: read, read: 0, told: 0, written: 0 }, Writer { ring: written, written: 0, read: 0 })
    }
}

/// One of the two rings.
#[derive(Debug)]
struct Ring {
    memory: Arc<Memory>,
    index: usize,
}

impl Ring {
    fn counters(&self) -> &Counters {
        // SAFETY: the counters lie within the mapping, which `self` keeps, in a place aligned for them. They are atomics
        // alone, for which any bytes are a value, and nobody comes at these bytes in another way.
        unsafe { &*self.memory.0.as_ptr().add(COUNTERS[self.index]).cast::<Counters>() }
    }

    /// Where the byte is that is counted as the `count`th, and how many of `length` bytes follow it before the ring's end.
    fn place(&self, count: u64, length: usize) -> (*mut u8, usize) {
        let place = (count % RING_BYTES as u64) as usize;
        let start = RINGS + self.index * RING_BYTES;
        // SAFETY: a place within one of the rings, which lie within the mapping.
        (unsafe { self.memory.0.as_mut_ptr().add(start + place) }, length.min(RING_BYTES - place))
    }
}

/// Copies past the caches: what one processor has written to its own, another takes out of there several times slower than
/// out of memory. All of it is there before anything that is stored later.
///
/// # Safety
/// Both sides have `length` bytes, which are not the same and nobody else's.
#[cfg(target_arch = "x86_64")]
unsafe fn copy_past_caches(from: *const u8, into: *mut u8, length: usize) {
    use std::arch::x86_64::{_mm_loadu_si128, _mm_sfence, _mm_stream_si128};
    const LINE: usize = 64;
    let head = into.align_offset(LINE).min(length);
    let tail = head + (length - head) / LINE * LINE;
    // SAFETY: what comes before the first whole line of a cache, those lines, and what comes after: all are within
    // `length`, and the lines are aligned.
    unsafe {
        std::ptr::copy_nonoverlapping(from, into, head);
        for line in (head..tail).step_by(LINE) {
            for place in (line..line + LINE).step_by(16) {
                _mm_stream_si128(into.add(place).cast(), _mm_loadu_si128(from.add(place).cast()));
            }
        }
        std::ptr::copy_nonoverlapping(from.add(tail), into.add(tail), length - tail);
        _mm_sfence();
    }
}

/// Copies; other processors have no such stores.
///
/// # Safety
/// Both sides have `length` bytes, which are not the same and nobody else's.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy_past_caches(from: *const u8, into: *mut u8, length: usize) {
    // SAFETY: as it is promised.
    unsafe { std::ptr::copy_nonoverlapping(from, into, length) };
}

/// The end of a ring that reads.
#[derive(Debug)]
pub(super) struct Reader {
    ring: Ring,
    /// Bytes read since the beginning.
    read: u64,
    /// As many of them as the writer has been told.
    told: u64,
    /// Bytes written, as far as this side has looked.
    written: u64,
}

impl Reader {
    /// Bytes to be read.
    ///
    /// # Errors
    /// The writer's counter cannot be.
    pub(super) fn filled(&mut self) -> Result<usize, WildCounter> {
        let there = self.ring.counters().written.0.load(Ordering::Acquire);
        let (least, most) = (self.written, self.read.wrapping_add(RING_BYTES as u64));
        if there.wrapping_sub(least) > most.wrapping_sub(least) {
            return Err(WildCounter { doing: "written to", there, least, most });
        }
        self.written = there;
        Ok(there.wrapping_sub(self.read) as usize)
    }

    /// Reads what there is, up to the length of `into`; 0 where there is nothing. The writer is told by [`Self::tells`].
    /// What is of no use soon is kept out of the caches.
    ///
    /// # Errors
    /// The writer's counter cannot be.
    pub(super) fn read(&mut self, into: &mut [u8], is_of_use_soon: bool) -> Result<usize, WildCounter> {
        let mut filled = self.written.wrapping_sub(self.read) as usize;
        if filled < into.len() {
            filled = self.filled()?;
        }
        let count = filled.min(into.len());
        let mut done = 0;
        while done < count {
            let (from, length) = self.ring.place(self.read, count - done);
            // SAFETY: `length` bytes that lie within the ring and are this side's until they are counted as read, and as
            // many within `into`, which is nobody's but the caller's.
            unsafe {
                let into = into[done..][..length].as_mut_ptr();
                if is_of_use_soon {
                    std::ptr::copy_nonoverlapping(from, into, length);
                } else {
                    copy_past_caches(from, into, length);
                }
            }
            self.read = self.read.wrapping_add(length as u64);
            done += length;
        }
        Ok(count)
    }

    /// Tells the writer what was read, if that is much, or at once. Whether the writer sleeps and there is enough room now
    /// to wake it; that is told once.
    pub(super) fn tells(&mut self, at_once: bool) -> bool {
        let untold = self.read.wrapping_sub(self.told);
        if untold == 0 || untold < TOLD && !at_once {
            return false;
        }
        self.told = self.read;
        self.ring.counters().read.0.store(self.read, Ordering::Release);
        // Either this side sees that the writer sleeps, or the writer sees what was read before it does.
        fence(Ordering::SeqCst);
        let sleeps = &self.ring.counters().writer_sleeps.0;
        let is_half_free = self.written.wrapping_sub(self.read) as usize <= RING_BYTES / 2;
        is_half_free && sleeps.load(Ordering::Relaxed) != 0 && sleeps.swap(0, Ordering::Relaxed) != 0
    }

    /// Says that this side is about to sleep until something is written; `false` where there is something.
    ///
    /// # Errors
    /// The writer's counter cannot be.
    pub(super) fn sleeps(&mut self) -> Result<bool, WildCounter> {
        self.ring.counters().reader_sleeps.0.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Ok(self.filled()? == 0)
    }

    /// Says that this side does not sleep.
    pub(super) fn rises(&self) {
        self.ring.counters().reader_sleeps.0.store(0, Ordering::Relaxed);
    }
}

/// The end of a ring that writes.
#[derive(Debug)]
pub(super) struct Writer {
    ring: Ring,
    /// Bytes written since the beginning.
    written: u64,
    /// Bytes read, as far as this side has looked.
    read: u64,
}

impl Writer {
    /// Bytes that can be written.
    ///
    /// # Errors
    /// The reader's counter cannot be.
    pub(super) fn free(&mut self) -> Result<usize, WildCounter> {
        let there = self.ring.counters().read.0.load(Ordering::Acquire);
        let (least, most) = (self.read, self.written);
        if there.wrapping_sub(least) > most.wrapping_sub(least) {
            return Err(WildCounter { doing: "read from", there, least, most });
        }
        self.read = there;
        Ok(RING_BYTES - most.wrapping_sub(there) as usize)
    }

    /// Writes as much of `bytes` as there is room for; 0 where there is none.
    ///
    /// # Errors
    /// The reader's counter cannot be.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<usize, WildCounter> {
        let mut free = RING_BYTES - self.written.wrapping_sub(self.read) as usize;
        if free < bytes.len() {
            free = self.free()?;
        }
        let count = free.min(bytes.len());
        let mut done = 0;
        while done < count {
            let (into, length) = self.ring.place(self.written, count - done);
            // SAFETY: `length` bytes that lie within the ring and are this side's until they are counted as written, and
            // as many within `bytes`, which are no part of the ring.
            unsafe { copy_past_caches(bytes[done..][..length].as_ptr(), into, length) };
            self.written = self.written.wrapping_add(length as u64);
            done += length;
        }
        self.ring.counters().written.0.store(self.written, Ordering::Release);
        Ok(count)
    }

    /// Whether the reader sleeps although something is written; told once.
    pub(super) fn wakes(&self) -> bool {
        // Either this side sees that the reader sleeps, or the reader sees what was written before it does.
        fence(Ordering::SeqCst);
        let sleeps = &self.ring.counters().reader_sleeps.0;
        sleeps.load(Ordering::Relaxed) != 0 && sleeps.swap(0, Ordering::Relaxed) != 0
    }

    /// Whether so much of the ring is free that it is worth the while to go on.
    ///
    /// # Errors
    /// The reader's counter cannot be.
    pub(super) fn is_half_free(&mut self) -> Result<bool, WildCounter> {
        Ok(self.free()? >= RING_BYTES / 2)
    }

    /// Says that this side is about to sleep until half of the ring is free; `false` where it is.
    ///
    /// # Errors
    /// The reader's counter cannot be.
    pub(super) fn sleeps(&mut self) -> Result<bool, WildCounter> {
        self.ring.counters().writer_sleeps.0.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        Ok(!self.is_half_free()?)
    }

    /// Says that this side does not sleep.
    pub(super) fn rises(&self) {
        self.ring.counters().writer_sleeps.0.store(0, Ordering::Relaxed);
    }
}

/// What a side that is mad tells the other.
#[cfg(test)]
impl Writer {
    pub(super) fn lie(&self, written: u64) {
        self.ring.counters().written.0.store(written, Ordering::Release);
    }
}

#[cfg(test)]
#[path = "ring_test.rs"]
mod ring_test;
