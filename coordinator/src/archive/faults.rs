//! Faults for tests: the file system refuses, or the process dies, at any single change of the file system.
//!
//! Each test's thread has its own plan. A death is a fault that never ends: nothing is changed any more, and what the
//! test reads afterwards is what the next process finds. (That a write may stop in its middle is tested where the
//! operations of a commit are performed one by one.)

use std::cell::Cell;
use std::io;

#[derive(Debug, Clone, Copy, Default)]
struct Plan {
    /// Changes made.
    made: u64,
    /// The first change that fails, from 0, how many fail, and with what; `None` where none does.
    fault: Option<(u64, u64, i32)>,
}

thread_local! {
    static PLAN: Cell<Plan> = const { Cell::new(Plan { made: 0, fault: None }) };
}

/// `ENOSPC`: the disk is full.
pub(crate) const FULL: i32 = 28;
/// `EIO`: the disk is ill.
pub(crate) const ILL: i32 = 5;

/// From the change `first` on, counted from here, `times` changes fail.
pub(crate) fn fail(first: u64, times: u64, errno: i32) {
    PLAN.set(Plan { made: 0, fault: Some((first, times, errno)) });
}

/// From the change `first` on, counted from here, nothing is changed any more.
pub(crate) fn die(first: u64) {
    // No error that anybody would wait for.
    fail(first, u64::MAX, 1);
}

/// Ends all faults; answers whether one has struck.
pub(crate) fn heal() -> bool {
    let plan = PLAN.replace(Plan::default());
    plan.fault.is_some_and(|(first, ..)| plan.made > first)
}

/// One change is about to be made.
pub(super) fn strike() -> io::Result<()> {
    let plan = PLAN.get();
    PLAN.set(Plan { made: plan.made + 1, ..plan });
    match plan.fault {
        Some((first, times, errno)) if plan.made >= first && plan.made - first < times => {
            Err(io::Error::from_raw_os_error(errno))
        }
        _ => Ok(()),
    }
}
