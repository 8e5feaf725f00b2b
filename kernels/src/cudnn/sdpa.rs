//! Fused attention: `softmax(q k^T * scale) v` as one operation of a cuDNN graph.
//!
//! q [B, Lq, N, D], k and v [B, Lk, N, D] in bf16 or f16 with any strides whose last is 1 (views of a
//! fused projection need no copy); result [B, Lq, N, D], contiguous. cuDNN names the axes B, H, S, D, so
//! strides are exchanged and nothing is moved. No mask, no statistics, f32 inside.
//!
//! One plan is kept per shape and strides; the scale is an operand by value.

use std::ffi::c_void;

use candle_core::{D, DType, Tensor};

use super::backend::{Descriptor, Handle, Limits, Plan, TensorSpec};
use super::names::{Attribute, DataType, Kind, Note};
use super::session::{self, Sessions, said};
use super::{Result, Version, library_of};
use crate::device::{Target, foreign};

/// The single attention node came with this version; before, the graph was composed of parts.
const NEEDED: Version = Version::new(9, 13, 1);
/// Widest head that every generation of cards takes.
const WIDEST: usize = 128;
/// Attention of the released models needs a few megabytes or none; an engine that wants more would hold
/// the score matrix.
const WORKSPACE_BYTES: usize = 256 << 20;
/// cuDNN's kernels load 16 bytes at once.
const ALIGNMENT_BYTES: usize = 16;

const Q: i64 = 1;
const K: i64 = 2;
const V: i64 = 3;
const O: i64 = 4;
const SCALE: i64 = 5;

/// What a plan is built for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Problem {
    dtype: DataType,
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    width: usize,
    /// Of q, k, v in elements: batch, token, head.
    strides: [[usize; 3]; 3],
}

/// A number handed over by its address on the host.
#[repr(C, align(16))]
struct Scalar(f32);

static SESSIONS: Sessions<Problem> = Sessions::new();

/// The version of the cuDNN that serves `target` with fused attention over heads of `width`, or why there
/// is none. Does not build anything.
pub(crate) fn available(
    target: &Target,
    dtype: DType,
    width: usize,
) -> std::result::Result<Version, String> {
    if !matches!(dtype, DType::BF16 | DType::F16) {
        return Err(format!(
            "cuDNN's attention takes bf16 and f16, not {dtype:?}"
        ));
    }
    if !width.is_multiple_of(8) || width > WIDEST {
        return Err(format!(
            "cuDNN's attention takes head dimensions of 8, 16, .. {WIDEST}, not {width}"
        ));
    }
    let library = library_of(target).map_err(|error| error.to_string())?;
    library
        .require(NEEDED, "fused attention")
        .map_err(|error| error.to_string())?;
    Ok(library.version())
}

/// Attention of `q` [B, Lq, N, D] over `k`, `v` [B, Lk, N, D], of one dtype and not empty; or why cuDNN
/// cannot.
pub(crate) fn attention(
    target: &Target,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    scale: f64,
) -> std::result::Result<Tensor, String> {
    available(target, q.dtype(), q.dim(D::Minus1).map_err(said)?)?;
    SESSIONS.with(target, |session| {
        const WHAT: &str = "cuDNN attention";
        let mut operands = Vec::with_capacity(3);
        let mut addresses = Vec::with_capacity(5);
        for (uid, x) in [Q, K, V].into_iter().zip([q, k, v]) {
            let (x, address) = readable(target, WHAT, x).map_err(said)?;
            operands.push(x);
            addresses.push((uid, address));
        }
        let problem = Problem::of(&operands)?;
        let mut scale = Scalar(scale as f32);
        addresses.push((SCALE, (&raw mut scale).cast()));
        let out = (O, q.dims(), q.dtype());
        // SAFETY: live tensors with the plan's shapes and strides, whose memory goes back to the pool in the
        // stream's order; `scale` outlives the call.
        unsafe { session.run(target, WHAT, problem, addresses, out) }
    })
}

/// Fails if an engine has refused attention of this kind before, or refuses a small problem now.
pub(crate) fn probe(
    target: &Target,
    dtype: DType,
    width: usize,
) -> std::result::Result<(), String> {
    let Some(dtype) = DataType::of(dtype) else {
        return Err(format!("cuDNN has no type for {dtype:?}"));
    };
    SESSIONS.with(target, |session| {
        let like = |problem: &Problem| problem.dtype == dtype && problem.width == width;
        if let Some(reason) = session.refusal(like) {
            return Err(reason);
        }
        let tokens = 128;
        session.prepare(Problem {
            dtype,
            batch: 1,
            heads: 1,
            queries: tokens,
            keys: tokens,
            width,
            strides: [[tokens * width, width, width]; 3],
        })
    })
}

/// `x` itself if cuDNN can read it in place, else a copy; and its address.
fn readable(target: &Target, what: &str, x: &Tensor) -> candle_core::Result<(Tensor, *mut c_void)> {
    let lanes = ALIGNMENT_BYTES / x.dtype().size_in_bytes();
    let (stride, dims) = (x.stride(), x.dims());
    let steps = (0..3)
        .all(|axis| dims[axis] == 1 || (stride[axis] > 0 && stride[axis].is_multiple_of(lanes)));
    let address = foreign::address(target, what, x)?;
    if stride[3] == 1 && steps && (address as usize).is_multiple_of(ALIGNMENT_BYTES) {
        return Ok((x.clone(), address));
    }
    let x = x.force_contiguous()?;
    let address = foreign::address(target, what, &x)?;
    Ok((x, address))
}

impl Problem {
    /// Of q, k, v.
    fn of(tensors: &[Tensor]) -> std::result::Result<Self, String> {
        let [q, k, v] = tensors else {
            return Err("q, k and v are needed".into());
        };
        let Some(dtype) = DataType::of(q.dtype()) else {
            return Err(format!("cuDNN has no type for {:?}", q.dtype()));
        };
        let strides = [q, k, v].map(|x| {
            let (dims, stride) = (x.dims(), x.stride());
            // An axis of one element has no step; one value for all, so that equal problems are equal.
            let head = if dims[2] == 1 { dims[3] } else { stride[2] };
            let token = if dims[1] == 1 {
                dims[2] * head
            } else {
                stride[1]
            };
            let batch = if dims[0] == 1 {
                dims[1] * token
            } else {
                stride[0]
            };
            [batch, token, head]
        });
        Ok(Self {
            dtype,
            batch: q.dims()[0],
            heads: q.dims()[2],
            queries: q.dims()[1],
            keys: k.dims()[1],
            width: q.dims()[3],
            strides,
        })
    }
}

impl session::Problem for Problem {
    /// A server meets a handful of shapes.
    const PLANS: usize = 64;

    fn plan(&self, handle: &Handle) -> Result<Plan> {
        let library = handle.library();
        let [q, k, v] = self.strides;
        let row = self.heads * self.width;
        let out = [self.queries * row, row, self.width];
        let mut sdpa = Descriptor::new(library, Kind::OPERATION_SDPA_FWD)?;
        let mut parts = Vec::new();
        for (attribute, uid, tokens, strides) in [
            (Attribute::OPERATION_SDPA_FWD_QDESC, Q, self.queries, q),
            (Attribute::OPERATION_SDPA_FWD_KDESC, K, self.keys, k),
            (Attribute::OPERATION_SDPA_FWD_VDESC, V, self.keys, v),
            (Attribute::OPERATION_SDPA_FWD_ODESC, O, self.queries, out),
        ] {
            let [batch, token, head] = strides.map(|stride| stride as i64);
            let tensor = TensorSpec {
                uid,
                dtype: self.dtype,
                // B, H, S, D
                dims: &[self.batch, self.heads, tokens, self.width].map(|n| n as i64),
                strides: &[batch, head, token, 1],
                alignment_bytes: ALIGNMENT_BYTES as i64,
                by_value: false,
            }
            .describe(library)?;
            sdpa.descriptors(attribute, &[&tensor])?;
            parts.push(tensor);
        }
        let scale = TensorSpec {
            uid: SCALE,
            dtype: DataType::FLOAT,
            dims: &[1; 4],
            strides: &[1; 4],
            alignment_bytes: ALIGNMENT_BYTES as i64,
            by_value: true,
        }
        .describe(library)?;
        sdpa.descriptors(Attribute::OPERATION_SDPA_FWD_SCALEDESC, &[&scale])?;
        parts.push(scale);
        sdpa.finalize()?;
        let limits = Limits {
            refuse: &[Note::NONDETERMINISTIC],
            workspace_bytes: WORKSPACE_BYTES,
        };
        Plan::build(handle, vec![sdpa], parts, &limits)
    }
}

/// Drops what is kept for `library`.
#[cfg(all(test, feature = "shim", unix))]
pub(crate) fn forget(library: &std::sync::Arc<super::Library>) {
    SESSIONS.forget(library);
}
