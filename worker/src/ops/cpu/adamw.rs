//! AdamW: one pass over parameters and moments, bound by memory.

use rayon::prelude::*;

use super::Cpu;
use super::step_rows::{ELEMENTS, Rows};
use crate::ops::SliceMut;
use crate::ops::adamw::{AdamW, AdamWRows, Coefficients};
use crate::ops::step::StepRun;

pub(super) fn step(op: AdamW<'_, Cpu>) {
    let AdamW { coefficients, parameters, first, second, runs } = op;
    let [parameters, first, second] = [parameters, first, second].map(SliceMut::into_values);
    for StepRun { range, decays, gradient } in runs {
        let coefficients = if decays { coefficients } else { coefficients.lasting() };
        let state = [&mut *parameters, &mut *first, &mut *second];
        step_run(&coefficients, state.map(|buffer| &mut buffer[range.clone()]), gradient.values());
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
    let AdamWRows { coefficients, parameters, first, second, gradient } = op;
    let gradients = Rows::new(&gradient);
    let (width, chunk) = (gradient.width, gradients.per_task() * gradient.width);
    let (parameters, first, second) = (parameters.into_values(), first.into_values(), second.into_values());
    let state = parameters.par_chunks_mut(chunk).zip(first.par_chunks_mut(chunk)).zip(second.par_chunks_mut(chunk));
    state.enumerate().for_each(|(task, ((parameters, first), second))| {
        let state = parameters.chunks_exact_mut(width).zip(first.chunks_exact_mut(width));
        let state = state.zip(second.chunks_exact_mut(width));
        for (((parameters, first), second), gradient) in state.zip(gradients.of_task(task)) {
            step_elements(&coefficients, parameters, first, second, gradient);
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
