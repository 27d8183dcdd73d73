//! SGD: one pass over parameters and momentum, bound by memory.

use rayon::prelude::*;

use super::Cpu;
use super::step_rows::{ELEMENTS, Rows};
use crate::ops::SliceMut;
use crate::ops::sgd::{Coefficients, Sgd, SgdRows};
use crate::ops::step::StepRun;

pub(super) fn step(op: Sgd<'_, Cpu>) {
    let Sgd { coefficients, parameters, momentum, runs } = op;
    let (parameters, mut momentum) = (parameters.into_values(), momentum.map(SliceMut::into_values));
    for StepRun { range, decays, gradient } in runs {
        let coefficients = if decays { coefficients } else { coefficients.lasting() };
        let momentum = momentum.as_mut().map(|momentum| &mut momentum[range.clone()]);
        step_run(&coefficients, &mut parameters[range.clone()], momentum, gradient.values());
    }
}

fn step_run(coefficients: &Coefficients, parameters: &mut [f32], momentum: Option<&mut [f32]>, gradient: &[f32]) {
    let parameters = parameters.par_chunks_mut(ELEMENTS).zip(gradient.par_chunks(ELEMENTS));
    match momentum {
        Some(momentum) => {
            parameters.zip(momentum.par_chunks_mut(ELEMENTS)).for_each(|((parameters, gradient), momentum)| {
                step_elements(coefficients, parameters, momentum, gradient);
            })
        }
        None => parameters.for_each(|(parameters, gradient)| step_plainly(coefficients, parameters, gradient)),
    }
}

pub(super) fn step_rows(op: SgdRows<'_, Cpu>) {
    let SgdRows { coefficients, parameters, momentum, gradient } = op;
    let gradients = Rows::new(&gradient);
    let (width, chunk) = (gradient.width, gradients.per_task() * gradient.width);
    let parameters = parameters.into_values().par_chunks_mut(chunk).enumerate();
    match momentum.map(SliceMut::into_values) {
        Some(momentum) => parameters.zip(momentum.par_chunks_mut(chunk)).for_each(|((task, parameters), momentum)| {
            let state = parameters.chunks_exact_mut(width).zip(momentum.chunks_exact_mut(width));
            for ((parameters, momentum), gradient) in state.zip(gradients.of_task(task)) {
                step_elements(&coefficients, parameters, momentum, gradient);
            }
        }),
        None => parameters.for_each(|(task, parameters)| {
            for (parameters, gradient) in parameters.chunks_exact_mut(width).zip(gradients.of_task(task)) {
                step_plainly(&coefficients, parameters, gradient);
            }
        }),
    }
}

wide! {
    fn step_elements(coefficients: &Coefficients, parameters: &mut [f32], momentum: &mut [f32], gradient: &[f32]) {
        let c = *coefficients;
        let count = parameters.len();
        let (momentum, gradient) = (&mut momentum[..count], &gradient[..count]);
        for i in 0..count {
            let p = parameters[i];
            let g = gradient[i] * c.gradient_scale + c.decay * p;
            let b = c.momentum * momentum[i] + c.taken * g;
            parameters[i] = p - c.step_size * (c.direct * g + c.through * b);
            momentum[i] = b;
        }
    }
}

wide! {
    fn step_plainly(coefficients: &Coefficients, parameters: &mut [f32], gradient: &[f32]) {
        let c = *coefficients;
        let count = parameters.len();
        let gradient = &gradient[..count];
        for i in 0..count {
            let p = parameters[i];
            let g = gradient[i] * c.gradient_scale + c.decay * p;
            parameters[i] = p - c.step_size * (c.direct * g);
        }
    }
}
