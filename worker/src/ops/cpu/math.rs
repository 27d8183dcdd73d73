//! Functions of one number without branches or calls, so that loops over them become vector instructions.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LOG2_E};

/// Partial sums of a row: enough to fill the widest vectors.
const LANES: usize = 16;

/// `1 / sqrt(2 pi)`.
const FRAC_1_SQRT_TAU: f32 = 0.398_942_3;

/// `e^x`, by the polynomial of Cephes `expf` (Moshier) after a reduction by powers of 2; 0 below the smallest normal
/// number, relative error below 2e-7.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.0, 88.0);
    let power = (clamped * LOG2_E + ROUND) - ROUND;
    let rest = clamped - power * 0.693_359_4 + power * 2.121_944_4e-4;
    let sum = 1.987_569_1e-4;
    let sum = sum * rest + 1.398_199_9e-3;
    let sum = sum * rest + 8.333_452e-3;
    let sum = sum * rest + 4.166_579_6e-2;
    let sum = sum * rest + 1.666_666_6e-1;
    let sum = sum * rest + 0.5;
    let sum = sum * rest * rest + rest + 1.0;
    let scaled = sum * f32::from_bits((((power as i32) + 127) << 23) as u32);
    if x < -87.0 { 0.0 } else { scaled }
}

/// The error function, by the rational approximation of Eigen (`generic_fast_erf`); absolute error below 4e-7.
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-3.832_507, 3.832_507);
    let square = x * x;
    let above = 2.290_506_5e-4;
    let above = above * square + 3.408_291e-3;
    let above = above * square + 5.095_569_4e-2;
    let above = above * square + 1.852_083_2e-1;
    let above = above * square + FRAC_2_SQRT_PI;
    let below = -1.179_160_3e-7;
    let below = below * square + 2.354_796_6e-5;
    let below = below * square + 1.017_962_6e-3;
    let below = below * square + 1.407_047e-2;
    let below = below * square + 1.109_850_5e-1;
    let below = below * square + 4.974_692_5e-1;
    let below = below * square + 1.0;
    x * above / below
}

/// `x Φ(x)`.
#[inline(always)]
pub(super) fn gelu(x: f32) -> f32 {
    0.5 * x * (1.0 + erf(x * FRAC_1_SQRT_2))
}

/// `Φ(x) + x φ(x)`.
#[inline(always)]
pub(super) fn gelu_slope(x: f32) -> f32 {
    0.5 * (1.0 + erf(x * FRAC_1_SQRT_2)) + x * FRAC_1_SQRT_TAU * exp(-0.5 * x * x)
}

/// `Σ term(i)` for `i` in `0..count`, in an order that depends on `count` alone.
#[inline(always)]
pub(super) fn sum(count: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut partial = [0.0; LANES];
    let whole = count - count % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, partial) in partial.iter_mut().enumerate() {
            *partial += term(start + lane);
        }
    }
    for i in whole..count {
        partial[i - whole] += term(i);
    }
    partial.iter().sum()
}

/// The largest value; negative infinity for none.
#[inline(always)]
pub(super) fn max(values: &[f32]) -> f32 {
    let mut partial = [f32::NEG_INFINITY; LANES];
    let whole = values.len() - values.len() % LANES;
    for chunk in values[..whole].chunks_exact(LANES) {
        for (partial, value) in partial.iter_mut().zip(chunk) {
            *partial = if *value > *partial { *value } else { *partial };
        }
    }
    values[whole..].iter().chain(&partial).fold(f32::NEG_INFINITY, |most, value| most.max(*value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid(from: f32, to: f32) -> impl Iterator<Item = f32> {
        (0..=200_000).map(move |step| from + (to - from) * step as f32 / 200_000.0)
    }

    #[test]
    fn exp_is_accurate() {
        let error = |x: f32| (f64::from(exp(x)) / f64::from(x).exp() - 1.0).abs();
        let worst = grid(-86.9, 87.9).map(error).fold(0.0, f64::max);
        assert!(worst < 2e-7, "{worst}");
        assert_eq!((exp(0.0), exp(-100.0), exp(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn erf_and_gelu_are_accurate() {
        use candle_core::cpu::erf::erf_f64;
        let worst = grid(-6.0, 6.0).map(|x| (f64::from(erf(x)) - erf_f64(f64::from(x))).abs()).fold(0.0, f64::max);
        assert!(worst < 4e-7, "{worst}");
        let cumulative = |x: f64| 0.5 * (1.0 + erf_f64(x * std::f64::consts::FRAC_1_SQRT_2));
        let density = |x: f64| (-0.5 * x * x).exp() / std::f64::consts::TAU.sqrt();
        for x in grid(-9.0, 9.0) {
            let wide = f64::from(x);
            let error = (f64::from(gelu(x)) - wide * cumulative(wide)).abs();
            assert!(error < 4e-7 * wide.abs().max(1.0), "gelu({x})");
            let slope = cumulative(wide) + wide * density(wide);
            assert!((f64::from(gelu_slope(x)) - slope).abs() < 1e-6, "gelu'({x})");
        }
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn sums_and_maxima_take_every_element() {
        for count in [0, 1, 15, 16, 17, 20, 384] {
            let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
            assert_eq!(sum(count, |i| values[i]), (count * count.saturating_sub(1) / 2) as f32);
            let most = if count == 0 { f32::NEG_INFINITY } else { count as f32 - 1.0 };
            assert_eq!(max(&values), most);
        }
    }
}
