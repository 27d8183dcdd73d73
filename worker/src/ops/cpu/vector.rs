//! Vectors of the processor, for the loops in which every instruction counts: those of matrix products.

/// Some neighbouring elements, which the processor handles at once.
///
/// Multiplications and additions are one step with one rounding, where the processor has that step: a sum of products then has
/// the same bits with vectors of any width.
///
/// # Safety
/// Of each function: the processor has the vector's instructions, and what a pointer names is `LANES` elements long.
pub(super) trait Vector: Copy {
    /// Elements of a vector.
    const LANES: usize;

    /// Reads a vector.
    unsafe fn load(from: *const f32) -> Self;

    /// Writes a vector.
    unsafe fn store(self, to: *mut f32);

    /// The same number in each place.
    unsafe fn splat(value: f32) -> Self;

    /// `self + other`.
    unsafe fn plus(self, other: Self) -> Self;

    /// `self other`.
    unsafe fn times(self, other: Self) -> Self;

    /// `self + a b`, rounded once where the processor can.
    unsafe fn plus_product(self, a: Self, b: Self) -> Self;
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256, __m512, _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_set1_ps,
        _mm256_storeu_ps, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mul_ps, _mm512_set1_ps,
        _mm512_storeu_ps,
    };

    use super::Vector;

    /// Implements [`Vector`] by a type's intrinsics, each of which needs no more than what the trait demands.
    macro_rules! vector {
        ($type:ty, $lanes:literal, $load:ident, $store:ident, $splat:ident, $add:ident, $mul:ident, $fma:ident) => {
            impl Vector for $type {
                const LANES: usize = $lanes;

                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: the trait's.
                    unsafe { $load(from) }
                }

                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: the trait's.
                    unsafe { $store(to, self) }
                }

                #[inline(always)]
                unsafe fn splat(value: f32) -> Self {
                    // SAFETY: the trait's.
                    unsafe { $splat(value) }
                }

                #[inline(always)]
                unsafe fn plus(self, other: Self) -> Self {
                    // SAFETY: the trait's.
                    unsafe { $add(self, other) }
                }

                #[inline(always)]
                unsafe fn times(self, other: Self) -> Self {
                    // SAFETY: the trait's.
                    unsafe { $mul(self, other) }
                }

                #[inline(always)]
                unsafe fn plus_product(self, a: Self, b: Self) -> Self {
                    // SAFETY: the trait's.
                    unsafe { $fma(a, b, self) }
                }
            }
        };
    }

    vector!(
        __m512,
        16,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_set1_ps,
        _mm512_add_ps,
        _mm512_mul_ps,
        _mm512_fmadd_ps
    );
    vector!(
        __m256,
        8,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_set1_ps,
        _mm256_add_ps,
        _mm256_mul_ps,
        _mm256_fmadd_ps
    );
}

/// What every processor has: four elements, of which the compiler makes what it can. Where the processor cannot multiply and
/// add in one step, it is not `FUSED`: to compute the same bits without would take a hundred times as long.
#[derive(Clone, Copy)]
pub(super) struct Plain<const FUSED: bool>([f32; 4]);

impl<const FUSED: bool> Plain<FUSED> {
    #[inline(always)]
    fn each(value: impl FnMut(usize) -> f32) -> Self {
        Self(std::array::from_fn(value))
    }
}

impl<const FUSED: bool> Vector for Plain<FUSED> {
    const LANES: usize = 4;

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the trait's.
        Self(unsafe { from.cast::<[f32; 4]>().read_unaligned() })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the trait's.
        unsafe { to.cast::<[f32; 4]>().write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 4])
    }

    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        Self::each(|i| self.0[i] + other.0[i])
    }

    #[inline(always)]
    unsafe fn times(self, other: Self) -> Self {
        Self::each(|i| self.0[i] * other.0[i])
    }

    #[inline(always)]
    unsafe fn plus_product(self, a: Self, b: Self) -> Self {
        Self::each(|i| if FUSED { a.0[i].mul_add(b.0[i], self.0[i]) } else { a.0[i] * b.0[i] + self.0[i] })
    }
}
