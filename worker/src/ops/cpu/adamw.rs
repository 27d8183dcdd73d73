//! AdamW: one pass over parameters and moments, bound by memory.

use rayon::prelude::*;

use super::Cpu;
use crate::ops::adamw::{AdamW, AdamWRows, AdamWRun, Coefficients};

/// Elements that a thread takes at a time.
const ELEMENTS: usize = 16_384;

pub(super) fn step(op: AdamW<'_, Cpu>) {
    let AdamW { coefficients, parameters, first, second, runs } = op;
    for AdamWRun { range, decays, gradient } in runs {
        let coefficients = if decays { coefficients } else { coefficients.lasting() };
        let [parameters, first, second] =
            [&mut *parameters, &mut *first, &mut *second].map(|buffer| &mut buffer[range.clone()]);
        step_run(&coefficients, [parameters, first, second], gradient.values());
    }
}

fn step_run(coefficients: &Coefficients, [parameters, first, second]: [&mut [f32]; 3], gradient: &[f32]) {
    if parameters.len() <= ELEMENTS {
        return step_elements(coefficients, parameters, first, second, gradient);
    }
    let state = parameters.par_chunks_mut(ELEMENTS).zip(first.par_chunks_mut(ELEMENTS));
    state.zip(second.par_chunks_mut(ELEMENTS)).zip(gradient.par_chunks(ELEMENTS)).for_each(
        |(((parameters, first), second), gradient)| {
            step_elements(coefficients, parameters, first, second, gradient);
        },
    );
}

pub(super) fn step_rows(op: AdamWRows<'_, Cpu>) {
    let width = op.width;
    let rows = (ELEMENTS / width).max(1);
    let zeros = vec![0.0; width];
    let (parameters, first, second) = (op.parameters.into_values(), op.first.into_values(), op.second.into_values());
    let chunk = rows * width;
    let state = parameters.par_chunks_mut(chunk).zip(first.par_chunks_mut(chunk)).zip(second.par_chunks_mut(chunk));
    state.enumerate().for_each(|(task, ((parameters, first), second))| {
        let row = (task * rows) as u32;
        let mut place = op.rows.partition_point(|known| *known < row);
        let state = parameters.chunks_exact_mut(width).zip(first.chunks_exact_mut(width));
        for (row, ((parameters, first), second)) in (row..).zip(state.zip(second.chunks_exact_mut(width))) {
            let mut gradient = &*zeros;
            if op.rows.get(place) == Some(&row) {
                gradient = &op.gradient[place * width..][..width];
                place += 1;
            }
            step_elements(&op.coefficients, parameters, first, second, gradient);
        }
    });
}

wide! {
    fn step_elements(
        coefficients: &Coefficients,
        parameters: &mut [f32],
        first: &mut [f32],
        second: &mut [f32],
        gradient: &[f32],
    ) {
        let c = *coefficients;
        let count = parameters.len();
        let (first, second, gradient) = (&mut first[..count], &mut second[..count], &gradient[..count]);
        for i in 0..count {
            let g = gradient[i] * c.gradient_scale;
            let m = c.beta1 * first[i] + c.one_minus_beta1 * g;
            let v = c.beta2 * second[i] + c.one_minus_beta2 * g * g;
            let mut p = parameters[i];
            p -= c.decay_before * p;
            p -= c.step_size * m / (v.sqrt() * c.root_scale + c.epsilon);
            p -= c.decay_after * p;
            parameters[i] = p;
            first[i] = m;
            second[i] = v;
        }
    }
}
