use candle_core::{D, Tensor};

use super::*;
use crate::batch::Batch;
use crate::ops::SliceMut;
use crate::ops::cpu::oracle;
use crate::ops::cpu::oracle::{assert_close, noise};
use crate::ops::dropout::Site;

#[test]
fn cross_entropy_and_its_gradient_are_torchs() {
    let batch = oracle::packed(&[&[0, 1, 2], &[3, 4]]);
    let labels = 3;
    let logits: Vec<f32> = noise(5 * labels, 1).iter().map(|value| value * 5.0).collect();
    for smoothing in [0.0, 0.1] {
        let (mut dlogits, mut losses) = (vec![0.0; 5 * labels], vec![0.0; 5]);
        let (dlogits_ref, losses_ref) = (&mut dlogits, &mut losses);
        cross_entropy(CrossEntropy {
            gradient_scale: 1.0,
            pack: &batch,
            labels,
            smoothing,
            class_weights: &[],
            logits: &logits,
            dlogits: dlogits_ref,
            losses: losses_ref,
        });
        let variable = oracle::variable(&logits, &[5, labels]);
        let log_probabilities = candle_nn::ops::log_softmax(&variable, D::Minus1).unwrap();
        let label: Vec<u32> = batch.labels.iter().map(|label| label.unwrap()).collect();
        let label = Tensor::from_vec(label, (5, 1), &candle_core::Device::Cpu).unwrap();
        let likelihood = log_probabilities.gather(&label, 1).unwrap().squeeze(1).unwrap();
        let mean = log_probabilities.mean(1).unwrap();
        let expected = ((likelihood * (smoothing - 1.0)).unwrap() - (mean * smoothing).unwrap()).unwrap();
        assert_close("losses", &losses, &oracle::flat(&expected), 1e-6);
        let [gradient] = oracle::gradients(&expected, &oracle::tensor(&[1.0; 5], &[5]), [&variable]);
        assert_close("dlogits", &dlogits, &gradient, 1e-6);
    }
}

#[test]
fn huge_logits_give_numbers() {
    let batch = oracle::packed(&[&[0]]);
    let (mut dlogits, mut losses) = (vec![0.0; 3], vec![0.0; 1]);
    let logits = vec![3e38, -3e38, 0.0];
    let (dlogits_ref, losses_ref) = (&mut dlogits, &mut losses);
    cross_entropy(CrossEntropy {
        gradient_scale: 1.0,
        pack: &batch,
        labels: 3,
        smoothing: 0.0,
        class_weights: &[],
        logits: &logits,
        dlogits: dlogits_ref,
        losses: losses_ref,
    });
    assert!(dlogits.iter().chain(&losses).all(|value| value.is_finite()), "{dlogits:?} {losses:?}");
}

#[test]
fn tanh_and_its_gradient_drop_the_same_elements() {
    let batch = oracle::packed(&[&[0, 1, 2], &[3, 4]]);
    let (hidden, shape) = (20, [5, 20]);
    let dropout = oracle::dropout(Site::Pooled);
    let (input, dy) = (noise(5 * hidden, 1), noise(5 * hidden, 2));
    let (mut x, mut y, mut gradient) = (input.clone(), vec![0.0; 5 * hidden], dy.clone());
    let (pack, dropped) = (&batch, Some(dropout));
    tanh_dropout(TanhDropout { pack, hidden, dropout: dropped, x: &mut x, y: &mut y });
    tanh_dropout_backward(TanhDropoutBackward { pack, hidden, dropout: dropped, x: &x, gradient: &mut gradient });
    let factor = |row: &_| {
        let mask = dropout.row(*row);
        (0..hidden as u32).map(move |column| mask.factor(column))
    };
    let factors: Vec<f32> = batch.rows.iter().flat_map(factor).collect();
    let variable = oracle::variable(&input, &shape);
    let expected = (variable.tanh().unwrap() * oracle::tensor(&factors, &shape)).unwrap();
    assert_close("y", &y, &oracle::flat(&expected), 1e-6);
    let [dx] = oracle::gradients(&expected, &oracle::tensor(&dy, &shape), [&variable]);
    assert_close("dx", &gradient, &dx, 1e-6);
    assert!(y.contains(&0.0));
}

#[test]
fn dropout_is_a_product_with_its_mask() {
    let batch = oracle::packed(&[&[0, 1, 2], &[3, 4]]);
    let (hidden, dropout) = (20, oracle::dropout(Site::ClassifierInput));
    let (x, mut y) = (noise(5 * hidden, 1), vec![0.0; 5 * hidden]);
    super::dropout(HeadDropout { pack: &batch, hidden, dropout, x: &x, y: &mut y });
    let factors = batch.rows.iter().flat_map(|row| {
        let mask = dropout.row(*row);
        (0..hidden as u32).map(move |column| mask.factor(column))
    });
    assert!(y.iter().eq(&x.iter().zip(factors).map(|(x, factor)| x * factor).collect::<Vec<_>>()));
    let other = oracle::dropout(Site::Pooled).row(batch.rows[0]);
    assert!(y.contains(&0.0) && (0..20).any(|column| (other.factor(column) == 0.0) != (y[column as usize] == 0.0)));
}

#[test]
fn first_tokens_are_taken_and_given_back() {
    let batch = oracle::packed(&[&[0], &[4]]);
    let x: Vec<f32> = (0..batch.tokens.len() * 2).map(|i| i as f32).collect();
    let (mut y, mut dx) = (vec![0.0; 4], vec![1.0; x.len()]);
    first_tokens(FirstTokens { pack: &batch, hidden: 2, x: &x, y: &mut y });
    assert_eq!(y, [0.0, 1.0, 10.0, 11.0]);
    first_tokens_backward(FirstTokensBackward { pack: &batch, hidden: 2, dy: &y, dx: &mut dx });
    assert_eq!(dx, [1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 11.0, 12.0, 1.0, 1.0]);
}

/// In order, in double precision: 1 is not lost beside 1e8, as it would be in single precision.
#[test]
fn losses_are_summed_by_the_lanes_that_are_asked_for() {
    let mut batch = oracle::packed(&[&[0, 1, 2], &[], &[3], &[4]]);
    let losses = vec![1e8, 1.0, -1e8, 2.5, 3.5];
    let sum = |batch: &Batch, lanes| {
        let mut buffer = vec![f32::NAN; 6];
        let sums = SliceMut { buffer: &mut buffer, range: 0..5 };
        lane_losses(LaneLosses { pack: batch, lanes, losses: &losses, sums });
        buffer
    };
    assert_eq!(sum(&batch, 0..3)[..5], [1.0, 0.0, 2.5, 0.0, 0.0]);
    // Where a rank computes all its lanes as one, the batch still says whose each loss is.
    batch.loss_lanes = vec![1, 1, 1, 4, 4];
    let sums = sum(&batch, 0..5);
    assert_eq!(sums[..5], [0.0, 1.0, 0.0, 0.0, 6.0]);
    assert!(sums[5].is_nan(), "what lies beyond is another's");
}
