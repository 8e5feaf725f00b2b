//! Guidance and the sampler's update in one pass: linear combinations of the model's velocity and up to four
//! tensors, where each may use the results before it:
//!
//! ```text
//! v   = uncond + scale * (cond - uncond), or cond alone
//! y_k = sum_i terms[i] x_i + sum_{j<k} results[j] y_j + velocity * v
//! ```
//!
//! Guidance is computed in the velocity's type, each operation rounded to it, as the reference does with
//! tensors of that type (the scale itself stays f32). So is `velocity * v` where that type has 16 bits: the
//! factor is a tensor without dimensions there, which does not widen it. Everything else is f32 with fused
//! multiply-adds in the order written. The card (`cuda/sampler.cu`) does the same operations in the same order, so both
//! give the same bits where the processor has fused multiply-adds.
//!
//! A step of UniPC composed of candle operations is about 25 launches and as many passes over the latents;
//! this is one of each.
#![allow(unsafe_op_in_unsafe_fn)] // kernels run under `#[target_feature]` as a whole

use crate::check;
use crate::data::{Slice, View};
use crate::device::{Call, Grid, Target, target};
use crate::isa::Isa;
use crate::pages::vec_with_room;
use crate::simd::{Element, Vector, dispatch, load_n, store_n};
use candle_core::{DType, Device, Result, Tensor, bail};
use half::{bf16, f16};
use rayon::prelude::*;

const OP: &str = "combine";

/// Tensors that a combination takes at most, the velocity not counted.
const TERMS: usize = 4;

/// Results of one pass at most.
const RESULTS: usize = 3;

/// What the model predicted for a step.
#[derive(Debug, Clone, Copy)]
pub struct Velocity<'a> {
    cond: &'a Tensor,
    uncond: Option<(&'a Tensor, f64)>,
}

impl<'a> Velocity<'a> {
    /// A prediction without guidance; f32, bf16 or f16.
    pub fn plain(cond: &'a Tensor) -> Self {
        Self { cond, uncond: None }
    }

    /// `uncond + scale * (cond - uncond)`; both of one shape and type.
    pub fn guided(cond: &'a Tensor, uncond: &'a Tensor, scale: f64) -> Self {
        Self {
            cond,
            uncond: Some((uncond, scale)),
        }
    }
}

/// Factors of one result.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Combination {
    /// Of the terms; those beyond the number of terms are not used.
    pub terms: [f32; TERMS],
    /// Of the results before this one; the others are not used.
    pub results: [f32; RESULTS - 1],
    /// Of the velocity.
    pub velocity: f32,
}

/// The combinations of `velocity` and `terms`, see the module; one f32 tensor per combination.
///
/// **Shapes**: all tensors of one shape. **Errors** where they differ, where a term is not f32, and for more
/// than four terms or not one to three combinations.
pub fn combine(
    velocity: Velocity<'_>,
    terms: &[&Tensor],
    combinations: &[Combination],
) -> Result<Vec<Tensor>> {
    let shape = velocity.cond.dims();
    check::float(OP, "cond", velocity.cond)?;
    if let Some((uncond, _)) = velocity.uncond {
        check::dims(OP, "uncond", uncond, shape)?;
        if uncond.dtype() != velocity.cond.dtype() {
            bail!(
                "{OP}: cond is {:?}, uncond {:?}; they must have one type",
                velocity.cond.dtype(),
                uncond.dtype()
            );
        }
    }
    for (index, term) in terms.iter().enumerate() {
        check::dims(OP, &format!("term {index}"), term, shape)?;
        if term.dtype() != DType::F32 {
            bail!("{OP}: term {index} must be f32, found {:?}", term.dtype());
        }
    }
    if terms.len() > TERMS || !(1..=RESULTS).contains(&combinations.len()) {
        bail!(
            "{OP}: {} terms and {} combinations; at most {TERMS} and 1 to {RESULTS} are possible",
            terms.len(),
            combinations.len()
        );
    }
    if let Some(target) = target(velocity.cond) {
        return on_device(&target, velocity, terms, combinations);
    }
    if !velocity.cond.device().is_cpu() {
        return combine_reference(velocity, terms, combinations);
    }
    on_cpu(velocity, terms, combinations)
}

/// Threads per block of the kernel.
const THREADS: u32 = 256;

/// The kernel `cuda/sampler.cu`.
fn on_device(
    target: &Target,
    velocity: Velocity<'_>,
    terms: &[&Tensor],
    combinations: &[Combination],
) -> Result<Vec<Tensor>> {
    let (cond, n) = (velocity.cond, velocity.cond.elem_count());
    let mut call = Call::new(target, "sampler", cond.dtype())?;
    call.input(&cond.contiguous()?)?;
    match velocity.uncond {
        Some((uncond, scale)) => call.input(&uncond.contiguous()?)?.f32(scale),
        None => call.null().f32(1.0),
    };
    for index in 0..TERMS {
        match terms.get(index) {
            Some(term) => call.input(&term.contiguous()?)?,
            None => call.null(),
        };
    }
    let mut results = Vec::with_capacity(combinations.len());
    for index in 0..RESULTS {
        if index < combinations.len() {
            results.push(call.output(cond.dims(), DType::F32)?);
        } else {
            call.null();
        }
    }
    for index in 0..RESULTS {
        let row = combinations.get(index).copied().unwrap_or_default();
        let before = &row.results[..index];
        for factor in row.terms.iter().chain(before).chain([&row.velocity]) {
            call.f32(f64::from(*factor));
        }
    }
    call.i64(n);
    call.launch(Grid::cover(n, THREADS), THREADS, 0)?;
    Ok(results)
}

/// Elements that one job handles: its parts of all tensors stay in the second-level cache.
const CHUNK: usize = 1 << 13;

fn on_cpu(
    velocity: Velocity<'_>,
    terms: &[&Tensor],
    combinations: &[Combination],
) -> Result<Vec<Tensor>> {
    let (shape, n) = (velocity.cond.shape(), velocity.cond.elem_count());
    let isa = Isa::current();
    let cond = velocity.cond.contiguous()?;
    let uncond = match velocity.uncond {
        Some((uncond, scale)) => Some((uncond.contiguous()?, scale as f32)),
        None => None,
    };
    let terms: Vec<Tensor> = terms
        .iter()
        .map(|term| term.contiguous())
        .collect::<Result<_>>()?;
    let cond = View::new(&cond)?;
    let uncond = match &uncond {
        Some((uncond, scale)) => Some((View::new(uncond)?, *scale)),
        None => None,
    };
    let terms: Vec<View<'_>> = terms.iter().map(View::new).collect::<Result<_>>()?;
    let cond = cond.slice();
    // What rounds to the velocity's type, where that has 16 bits.
    let narrow: Option<fn(f32) -> f32> = match cond {
        Slice::F32(_) => None,
        Slice::Bf16(_) => Some(|x| bf16::from_f32(x).to_f32()),
        Slice::F16(_) => Some(|x| f16::from_f32(x).to_f32()),
    };
    let uncond = uncond.as_ref().map(|(view, scale)| (view.slice(), *scale));
    let terms: Vec<&[f32]> = terms.iter().map(|view| f32::of(view.slice())).collect();

    let mut results: Vec<Vec<f32>> = combinations.iter().map(|_| vec_with_room(n)).collect();
    // One job: its part of every result.
    let mut parts: Vec<_> = results
        .iter_mut()
        .map(|result| result.spare_capacity_mut()[..n].chunks_mut(CHUNK))
        .collect();
    let mut jobs = Vec::with_capacity(n.div_ceil(CHUNK));
    loop {
        let job: Vec<_> = parts.iter_mut().filter_map(Iterator::next).collect();
        if job.is_empty() {
            break;
        }
        jobs.push(job);
    }
    jobs.into_par_iter()
        .enumerate()
        .for_each(|(index, mut job)| {
            let start = index * CHUNK;
            let len = job.first().map_or(0, |part| part.len());
            let mut buffer = vec![0f32; len];
            guide(cond, uncond, start, &mut buffer);
            let inputs = Inputs {
                velocity: &buffer,
                terms: &terms,
                start,
            };
            let out: Vec<*mut f32> = job.iter_mut().map(|p| p.as_mut_ptr().cast()).collect();
            for (index, row) in combinations.iter().enumerate() {
                let fused = Combination {
                    velocity: if narrow.is_some() { 0.0 } else { row.velocity },
                    ..*row
                };
                // SAFETY: every pointer of `out` is valid for `len` elements, those before `index` have been
                // written; the terms have at least `start + len`.
                unsafe { combine_chunk(isa, &inputs, &fused, &out[..index], out[index]) }
                if let Some(round) = narrow.filter(|_| row.velocity != 0.0) {
                    // SAFETY: as above; the call before has written all `len` elements.
                    let sums = unsafe { std::slice::from_raw_parts_mut(out[index], len) };
                    for (sum, v) in sums.iter_mut().zip(&buffer) {
                        *sum += round(row.velocity * v);
                    }
                }
            }
        });
    results
        .into_iter()
        .map(|mut result| {
            // SAFETY: the jobs have written all n elements.
            unsafe { result.set_len(n) };
            Tensor::from_vec(result, shape.clone(), &Device::Cpu)
        })
        .collect()
}

/// What one job reads.
struct Inputs<'a> {
    velocity: &'a [f32],
    terms: &'a [&'a [f32]],
    /// First element of the job in the terms.
    start: usize,
}

dispatch! {
    fn combine_chunk(inputs: &Inputs<'_>, row: &Combination, before: &[*mut f32], out: *mut f32) =
        combine_generic
}

#[inline(always)]
unsafe fn combine_generic<V: Vector>(
    inputs: &Inputs<'_>,
    row: &Combination,
    before: &[*mut f32],
    out: *mut f32,
) {
    let len = inputs.velocity.len();
    for i in (0..len).step_by(V::LANES) {
        let n = V::LANES.min(len - i);
        let mut sum = V::splat(0.0);
        for (term, factor) in inputs.terms.iter().zip(row.terms) {
            let x = load_n::<V>(term.as_ptr().add(inputs.start + i), n);
            sum = V::splat(factor).fma(x, sum);
        }
        for (result, factor) in before.iter().zip(row.results) {
            sum = V::splat(factor).fma(load_n::<V>(result.add(i), n), sum);
        }
        let v = load_n::<V>(inputs.velocity.as_ptr().add(i), n);
        store_n(V::splat(row.velocity).fma(v, sum), out.add(i), n);
    }
}

/// Writes the velocity of the elements from `start` on, in f32.
fn guide(cond: Slice<'_>, uncond: Option<(Slice<'_>, f32)>, start: usize, out: &mut [f32]) {
    match cond {
        Slice::F32(_) => guide_as::<f32>(cond, uncond, start, out, |x| x),
        Slice::Bf16(_) => {
            guide_as::<bf16>(cond, uncond, start, out, |x| bf16::from_f32(x).to_f32());
        }
        Slice::F16(_) => guide_as::<f16>(cond, uncond, start, out, |x| f16::from_f32(x).to_f32()),
    }
}

fn guide_as<T: Element>(
    cond: Slice<'_>,
    uncond: Option<(Slice<'_>, f32)>,
    start: usize,
    out: &mut [f32],
    round: impl Fn(f32) -> f32,
) {
    let range = start..start + out.len();
    T::widen(&T::of(cond)[range.clone()], out);
    let Some((uncond, scale)) = uncond else {
        return;
    };
    let mut u = vec![0f32; out.len()];
    T::widen(&T::of(uncond)[range], &mut u);
    for (v, u) in out.iter_mut().zip(u) {
        *v = round(u + round(round(*v - u) * scale));
    }
}

/// Reference of [`combine`].
pub fn combine_reference(
    velocity: Velocity<'_>,
    terms: &[&Tensor],
    combinations: &[Combination],
) -> Result<Vec<Tensor>> {
    let v = match velocity.uncond {
        None => velocity.cond.clone(),
        Some((uncond, scale)) => {
            let dtype = uncond.dtype();
            let difference = (velocity.cond - uncond)?;
            let scaled = (difference.to_dtype(DType::F32)? * scale)?.to_dtype(dtype)?;
            (uncond + scaled)?
        }
    };
    let v = v.to_dtype(DType::F32)?;
    let mut results: Vec<Tensor> = Vec::with_capacity(combinations.len());
    for row in combinations {
        let product = v.affine(f64::from(row.velocity), 0.0)?;
        let mut sum = product
            .to_dtype(velocity.cond.dtype())?
            .to_dtype(DType::F32)?;
        for (term, factor) in terms.iter().zip(row.terms) {
            sum = (sum + term.affine(f64::from(factor), 0.0)?)?;
        }
        for (result, factor) in results.iter().zip(row.results) {
            sum = (sum + result.affine(f64::from(factor), 0.0)?)?;
        }
        results.push(sum);
    }
    Ok(results)
}
