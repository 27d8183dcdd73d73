//! Loops compiled for several widths of vectors.

/// Defines a function that is compiled once for each instruction set and picks the widest that the processor has.
///
/// The loops are left to the compiler to vectorise; multiplications and additions are never contracted, so the results
/// have the same bits on every processor. Whatever the function calls must be `#[inline(always)]`.
macro_rules! wide {
    ($(#[$meta:meta])* $visible:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $visible fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            fn portable($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    portable($($argument),*)
                }
                #[target_feature(enable = "avx2")]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    portable($($argument),*)
                }
                match $crate::ops::cpu::wide::width() {
                    // SAFETY: the processor has the instructions.
                    $crate::ops::cpu::wide::Width::Avx512 => return unsafe { avx512($($argument),*) },
                    // SAFETY: the processor has the instructions.
                    $crate::ops::cpu::wide::Width::Avx2 => return unsafe { avx2($($argument),*) },
                    $crate::ops::cpu::wide::Width::Portable => {}
                }
            }
            portable($($argument),*)
        }
    };
}

/// How wide vectors are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Width {
    /// What every processor of this kind has.
    Portable,
    /// 256 bits.
    Avx2,
    /// 512 bits.
    Avx512,
}

/// The widest vectors that the processor has.
pub(crate) fn width() -> Width {
    #[cfg(test)]
    if let Some(width) = tests::narrowed() {
        return width;
    }
    widest()
}

pub(crate) fn widest() -> Width {
    #[cfg(target_arch = "x86_64")]
    {
        // AVX-512 VL implies F, and F implies AVX2.
        if std::is_x86_feature_detected!("avx512vl")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512dq")
        {
            return Width::Avx512;
        }
        if std::is_x86_feature_detected!("avx2") {
            return Width::Avx2;
        }
    }
    Width::Portable
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Mutex, PoisonError};

    use super::{Width, widest};

    const WIDTHS: [Width; 3] = [Width::Portable, Width::Avx2, Width::Avx512];

    /// An index of `WIDTHS`; for all threads, because work is spread over them.
    static NARROWED: AtomicUsize = AtomicUsize::new(usize::MAX);

    /// Held by the one test that sets it.
    static NARROWING: Mutex<()> = Mutex::new(());

    pub(super) fn narrowed() -> Option<Width> {
        WIDTHS.get(NARROWED.load(Ordering::Relaxed)).copied()
    }

    /// What `compute` gives with each width that this processor has. Other tests may run meanwhile: to them it is the
    /// same, or this finds that it is not.
    pub(crate) fn at_each_width<T>(mut compute: impl FnMut() -> T) -> Vec<(Width, T)> {
        let _held = NARROWING.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        for (place, width) in WIDTHS.into_iter().enumerate().filter(|(_, width)| *width <= widest()) {
            NARROWED.store(place, Ordering::Relaxed);
            found.push((width, compute()));
        }
        NARROWED.store(usize::MAX, Ordering::Relaxed);
        found
    }
}
