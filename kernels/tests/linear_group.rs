//! Layers that share their input: the same results as one by one, in the layouts promised.
#![allow(clippy::unwrap_used)]

mod common;

use common::{close, random};
use leoma_kernels::{Linear, LinearGroup};

fn layers(widths: &[usize]) -> Vec<Linear> {
    let layer = |(i, &n): (usize, &usize)| {
        let weight = random(&[n, 24], i as u64);
        Linear::new(weight, (i != 1).then(|| random(&[n], 9))).unwrap()
    };
    widths.iter().enumerate().map(layer).collect()
}

#[test]
fn a_group_gives_what_its_layers_give() {
    let widths = [16, 8, 32];
    let (x, one_by_one) = (random(&[2, 5, 24], 7), layers(&widths));
    let group = LinearGroup::new(one_by_one.clone()).unwrap();
    assert_eq!(group.in_features(), 24);
    assert_eq!(group.out_features(), widths);
    let flat = group.forward(&x).unwrap();
    let heads = group.forward_heads(&x, 4).unwrap();
    assert_eq!((flat.len(), heads.len()), (3, 3));
    for (i, layer) in one_by_one.iter().enumerate() {
        let want = layer.forward(&x).unwrap();
        close(&flat[i], &want, 0.0, "flat");
        let want = want.reshape((2, 5, widths[i] / 4, 4)).unwrap();
        close(&heads[i], &want, 0.0, "heads");
    }
}

#[test]
#[cfg(feature = "shim")]
fn in_the_shim_results_have_the_strides_of_a_card() {
    let (x, one_by_one) = (random(&[5, 24], 7), layers(&[16, 8, 32]));
    let group = LinearGroup::new(one_by_one.clone()).unwrap();
    let (flat, heads) = leoma_kernels::with_shim(0, || {
        (
            group.forward(&x).unwrap(),
            group.forward_heads(&x, 4).unwrap(),
        )
    });
    for (i, layer) in one_by_one.iter().enumerate() {
        let want = layer.forward(&x).unwrap();
        assert_eq!(flat[i].stride(), [56, 1]);
        assert_eq!(heads[i].stride(), [56, 4, 1]);
        close(&flat[i], &want, 0.0, "flat");
        close(&heads[i].flatten_from(1).unwrap(), &want, 0.0, "heads");
    }
}

#[test]
fn what_cannot_be_a_group_is_an_error_that_says_why() {
    let error = LinearGroup::new(Vec::new()).unwrap_err().to_string();
    assert!(error.contains("at least one layer"), "{error}");
    let other = Linear::new(random(&[4, 25], 1), None).unwrap();
    let mut uneven = layers(&[16]);
    uneven.push(other);
    let error = LinearGroup::new(uneven).unwrap_err().to_string();
    assert!(error.contains("24 and 25"), "{error}");
    let group = LinearGroup::new(layers(&[16, 6])).unwrap();
    let error = group.forward_heads(&random(&[1, 24], 1), 4).unwrap_err();
    assert!(error.to_string().contains("[16, 6]"), "{error}");
}
