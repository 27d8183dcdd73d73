use medley_common::model::{Family, ModelConfig};

use super::*;
use crate::collective::{SparseRows, Summed};
use crate::ops::cpu::Cpu;

fn layout() -> Layout {
    Layout::new(&ModelConfig {
        family: Family::Bert,
        vocab_size: 50,
        hidden_size: 20,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 30,
        max_position_embeddings: 8,
        type_vocab_size: 2,
        layer_norm_eps: 1e-12,
        hidden_dropout: 0.0,
        attention_dropout: 0.0,
        classifier_dropout: 0.0,
        initializer_range: 0.02,
        num_labels: 3,
    })
}

fn spec(kind: OptimizerKind) -> OptimizerSpec {
    OptimizerSpec { kind, beta1: 0.9, beta2: 0.999, epsilon: 1e-3, weight_decay: 0.1, max_grad_norm: None }
}

fn value(i: usize, update: u64) -> f32 {
    ((i as f32) * 0.37 + update as f32).sin()
}

/// Words 3, 4 and 49 have gradients.
fn summed(layout: &Layout, update: u64) -> Summed {
    let dense = layout.segments().iter().filter(|(segment, _)| *segment != Segment::Words);
    let segments = dense.map(|(segment, range)| (*segment, range.clone().map(|i| value(i, update)).collect()));
    let rows = vec![3, 4, 49];
    let values = rows.iter().flat_map(|row| (row * 20..row * 20 + 20).map(|i| value(i as usize, update))).collect();
    Summed {
        segments: segments.rev().collect(),
        words: SparseRows { rows, values },
        spare: Vec::new(),
        ..Summed::default()
    }
}

/// One element by the formulas of `transformers.AdamW` 4.22 and `torch.optim.AdamW`, in double precision.
fn reference(spec: &OptimizerSpec, [p, m, v]: &mut [f64; 3], gradient: f64, update: i32, decay: f64) {
    let rate = 0.01;
    *m = spec.beta1 * *m + (1.0 - spec.beta1) * gradient;
    *v = spec.beta2 * *v + (1.0 - spec.beta2) * gradient * gradient;
    let (first, second) = (1.0 - spec.beta1.powi(update), 1.0 - spec.beta2.powi(update));
    match spec.kind {
        OptimizerKind::AdamwHf => {
            *p -= rate * second.sqrt() / first * *m / (v.sqrt() + spec.epsilon);
            *p -= rate * decay * *p;
        }
        _ => {
            *p *= 1.0 - rate * decay;
            *p -= rate / first * *m / ((*v / second).sqrt() + spec.epsilon);
        }
    }
}

#[test]
fn steps_are_those_of_transformers_and_of_torch() {
    let layout = layout();
    for kind in [OptimizerKind::AdamwHf, OptimizerKind::AdamwTorch] {
        let spec = spec(kind);
        let mut optimizer =
            Optimizer::new(&Cpu, &layout, (spec, &TuningSpec::default()), std::slice::from_ref(&(0..layout.len())))
                .unwrap();
        let mut parameters: Vec<f32> = (0..layout.len()).map(|i| value(i, 100)).collect();
        let mut expected: Vec<[f64; 3]> = parameters.iter().map(|p| [f64::from(*p), 0.0, 0.0]).collect();
        for update in 1..=5 {
            let (gradients, _) =
                Gradients::new(&Cpu, (&layout, &TuningSpec::default()), summed(&layout, update)).unwrap();
            let size = StepSize { update: Update(update), learning_rate: 0.01, gradient_scale: 0.5 };
            optimizer.step(&Cpu, &mut parameters, &gradients, size).unwrap();
            for slot in layout.slots() {
                let decay = if slot.decays() { spec.weight_decay } else { 0.0 };
                for i in slot.range.clone() {
                    let has_gradient = i >= 50 * 20 || [3, 4, 49].contains(&(i / 20));
                    let gradient = if has_gradient { f64::from(value(i, update)) * 0.5 } else { 0.0 };
                    reference(&spec, &mut expected[i], gradient, update as i32, decay);
                }
            }
        }
        let [first, second] = optimizer.memory()[..] else { panic!("two moments") };
        for (i, [p, m, v]) in expected.into_iter().enumerate() {
            assert!((f64::from(parameters[i]) - p).abs() < 2e-6, "{kind:?} p[{i}]: {} {p}", parameters[i]);
            assert!((f64::from(first[i]) - m).abs() < 1e-6 && (f64::from(second[i]) - v).abs() < 1e-6);
        }
        assert_ne!(parameters[0], value(0, 100), "a word without gradient decays all the same");
    }
}

#[test]
fn the_norm_takes_everything_once_in_whatever_order_it_comes() {
    let layout = layout();
    let gradients = |summed| Gradients::<Cpu>::new(&Cpu, (&layout, &TuningSpec::default()), summed).unwrap().0;
    let norm = gradients(summed(&layout, 1)).norm(&Cpu, &layout).unwrap();
    let mut turned = summed(&layout, 1);
    turned.segments.reverse();
    assert_eq!(gradients(turned).norm(&Cpu, &layout).unwrap(), norm);
    let present = (0..layout.len()).filter(|i| *i >= 50 * 20 || [3, 4, 49].contains(&(i / 20)));
    let squares: f64 = present.map(|i| f64::from(value(i, 1)).powi(2)).sum();
    assert!((norm - squares.sqrt()).abs() < 1e-9);
}

#[test]
fn sums_of_another_model_are_refused() {
    let layout = layout();
    let check = |change: &dyn Fn(&mut Summed)| {
        let mut summed = summed(&layout, 1);
        change(&mut summed);
        Gradients::<Cpu>::new(&Cpu, (&layout, &TuningSpec::default()), summed)
            .err()
            .map_or(String::new(), |error| error.to_string())
    };
    assert_eq!(check(&|_| ()), "");
    assert!(check(&|summed| summed.segments.truncate(3)).contains("3 dense segments; the model has 4"));
    assert!(check(&|summed| summed.segments[1].0 = summed.segments[0].0).contains("segments"));
    assert!(check(&|summed| summed.segments[0].1.truncate(1)).contains("elements"));
    assert!(check(&|summed| summed.words.rows[2] = 50).contains("word rows"));
    assert!(check(&|summed| summed.words.rows[1] = 3).contains("word rows"));
}
