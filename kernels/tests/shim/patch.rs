use candle_core::DType;
use leoma_kernels::{patchify, reference, unpatchify, with_shim};

use crate::support::{FLOATS, distance, random, through_shim};

const SHAPES: [([usize; 4], [usize; 3]); 4] = [
    ([16, 3, 4, 6], [1, 2, 2]),
    ([1, 4, 6, 3], [2, 3, 1]),
    ([5, 1, 2, 2], [1, 2, 2]),
    ([36, 2, 10, 14], [1, 2, 2]),
];

#[test]
fn every_element_lands_where_the_permutation_puts_it() {
    for (shape, patch) in SHAPES {
        let grid = [1, 2, 3].map(|axis| shape[axis] / patch[axis - 1]);
        for (dtype, _) in FLOATS {
            let x = random(&shape, 0.0, 1);
            for x in [x.clone(), x.to_dtype(dtype).unwrap()] {
                let tokens = through_shim(|| patchify(&x, patch, dtype));
                let plain = reference::patchify(&x, patch, dtype).unwrap();
                assert_eq!(tokens.dtype(), dtype);
                assert!(distance(&tokens, &plain) <= 0.0);
                assert!(distance(&patchify(&x, patch, dtype).unwrap(), &plain) <= 0.0);
            }
            let tokens =
                shape.iter().product::<usize>() / shape[0] / patch.iter().product::<usize>();
            let x = random(
                &[tokens, shape[0] * patch.iter().product::<usize>()],
                0.0,
                2,
            );
            let x = x.to_dtype(dtype).unwrap();
            let latents = through_shim(|| unpatchify(&x, grid, patch));
            assert_eq!(latents.dims(), shape);
            let plain = reference::unpatchify(&x, grid, patch).unwrap();
            assert!(distance(&latents, &plain) <= 0.0);
        }
    }
}

#[test]
fn grids_that_do_not_divide_are_refused() {
    let x = random(&[4, 1, 5, 4], 0.0, 1);
    for run in [
        with_shim(0, || patchify(&x, [1, 2, 2], DType::F32)),
        patchify(&x, [1, 2, 2], DType::F32),
        patchify(&x, [0, 1, 1], DType::F32),
    ] {
        assert!(run.unwrap_err().to_string().contains("patchify"));
    }
    let tokens = random(&[6, 16], 0.0, 1);
    assert!(unpatchify(&tokens, [1, 2, 2], [1, 2, 2]).is_err());
    assert!(unpatchify(&tokens, [1, 2, 3], [1, 3, 1]).is_err());
}
