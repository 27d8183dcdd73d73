//! What the emulator has on its side streams: in a mode that is as late as a GPU may be, nothing is done there until
//! somebody waits for it, and whatever was not waited for shows.

use std::alloc::{Layout, dealloc};
use std::cell::RefCell;
use std::collections::VecDeque;

use super::UNWRITTEN;

thread_local!(static SIDE: RefCell<Side> = RefCell::default());

/// That of all emulators of a thread: each test has its own.
#[derive(Default)]
struct Side {
    enqueued: u64,
    held: VecDeque<(u64, Box<dyn FnOnce()>)>,
    /// Memory that was freed while something was held back that may still mean it.
    freed: Vec<(*mut u8, Layout)>,
}

/// Holds `work` back until somebody waits for the point that it ends at, or a later one.
pub(super) fn hold(work: impl FnOnce() + 'static) -> u64 {
    SIDE.with_borrow_mut(|side| {
        side.enqueued += 1;
        side.held.push_back((side.enqueued, Box::new(work)));
        side.enqueued
    })
}

/// Does all up to a point, in its order.
pub(super) fn come_to(point: u64) {
    let next = |side: &mut Side| side.held.pop_front_if(|(end, _)| *end <= point);
    while let Some((_, work)) = SIDE.with_borrow_mut(next) {
        work();
    }
    SIDE.with_borrow_mut(|side| {
        if side.held.is_empty() {
            side.freed.drain(..).for_each(|(start, layout)| give_back(start, layout));
        }
    });
}

/// How much is held back.
pub(crate) fn held() -> usize {
    SIDE.with_borrow(|side| side.held.len())
}

/// Frees memory. What is held back finds nothing in it, and must not write to it.
///
/// # Safety
/// It was allocated with this layout, and nobody but what is held back means it.
pub(super) unsafe fn free(start: *mut u8, layout: Layout) {
    // SAFETY: as the caller says.
    unsafe { start.write_bytes(UNWRITTEN, layout.size()) };
    SIDE.with_borrow_mut(|side| match side.held.is_empty() {
        true => give_back(start, layout),
        false => side.freed.push((start, layout)),
    });
}

fn give_back(start: *mut u8, layout: Layout) {
    // SAFETY: it is as `free` was given it, and is given back once.
    unsafe {
        let bytes = std::slice::from_raw_parts(start, layout.size());
        assert!(bytes.iter().all(|byte| *byte == UNWRITTEN), "a kernel wrote to memory that had been freed");
        dealloc(start, layout);
    }
}
