use crate::ops::Slice;
use crate::ops::cpu::oracle;
use crate::ops::cpu::oracle::{assert_close, noise};

use super::*;

#[test]
fn values_and_gradients_are_those_of_the_plain_formula() {
    let batch = oracle::packed(&[&[0, 5], &[], &[3]]);
    let (tokens, width) = (batch.tokens.len(), 36);
    let u: Vec<f32> = noise(tokens * width, 1).iter().map(|value| value * 4.0).collect();
    let (bias, da) = (noise(width, 2), noise(tokens * width, 3));
    let (got, gradient, partials) = oracle::with_threads(|| {
        let slice = || Slice { buffer: &bias, range: 0..width };
        let (mut a, mut gradient) = (vec![0.0; tokens * width], da.clone());
        forward(BiasGelu { pack: &batch, u: &u, bias: slice(), a: &mut a });
        let mut partials = vec![f32::NAN; batch.blocks.len() * width];
        let (gradient_ref, partials_ref) = (&mut gradient, &mut partials);
        backward(BiasGeluBackward {
            pack: &batch,
            u: &u,
            bias: slice(),
            gradient: gradient_ref,
            partials: partials_ref,
        });
        (a, gradient, partials)
    });
    let (u, bias) = (oracle::variable(&u, &[tokens, width]), oracle::variable(&bias, &[width]));
    let a = u.broadcast_add(&bias).unwrap().gelu_erf().unwrap();
    assert_close("a", &got, &oracle::flat(&a), 1e-6);
    let [du, dbias] = oracle::gradients(&a, &oracle::tensor(&da, &[tokens, width]), [&u, &bias]);
    assert_close("du", &gradient, &du, 2e-6);
    assert_close("dbias", &oracle::sum_blocks(&partials, batch.blocks.len(), width), &dbias, 2e-6);
}
