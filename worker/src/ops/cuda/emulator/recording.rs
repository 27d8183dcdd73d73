//! What the emulator records in place of doing it: each thread for itself, as each test has its own emulator.

use std::cell::{Cell, RefCell};

use super::Emulator;
use crate::ops::cuda::driver::{Argument, Driver, Element, Grid, Kernel, Product};

thread_local! {
    static RECORDING: RefCell<Option<Vec<Recorded>>> = const { RefCell::new(None) };
    static REPLAYS: Cell<usize> = const { Cell::new(0) };
}

/// A launch or a product with all that it was given.
#[derive(Debug, Clone)]
pub(crate) enum Recorded {
    Launch { kernel: Kernel, element: Element, grid: Grid, arguments: Vec<Argument> },
    Product(Product),
}

pub(super) fn begin() {
    let before = RECORDING.replace(Some(Vec::new()));
    assert!(before.is_none(), "a recording in a recording");
}

pub(super) fn end() -> Vec<Recorded> {
    RECORDING.take().expect("there is a recording")
}

/// Whether what is asked for now is recorded: then it is.
pub(super) fn takes(recorded: impl FnOnce() -> Recorded) -> bool {
    RECORDING.with_borrow_mut(|recording| recording.as_mut().map(|known| known.push(recorded())).is_some())
}

/// How often this thread has done what it had recorded.
pub(crate) fn replays() -> usize {
    REPLAYS.get()
}

/// A stream that records refuses all else.
pub(super) fn assert_none(asked: &str) {
    assert!(RECORDING.with_borrow(Option::is_none), "{asked} in a recording");
}

/// Does what was recorded, with what was given then.
///
/// # Safety
/// As for [`Driver::replay`].
pub(super) unsafe fn run(emulator: Emulator, recorded: &[Recorded]) {
    REPLAYS.set(REPLAYS.get() + 1);
    for one in recorded {
        // SAFETY: as the caller says.
        unsafe {
            match one {
                Recorded::Launch { kernel, element, grid, arguments } => {
                    emulator.launch(*kernel, *element, *grid, arguments).unwrap();
                }
                Recorded::Product(product) => assert!(emulator.product(product).unwrap()),
            }
        }
    }
}
