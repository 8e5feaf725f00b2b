//! cuBLASLt: the calls. What to ask for is decided in `product.rs`, by whom in `linear_device.rs`.
//!
//! A [`Session`] belongs to one stream. A [`Problem`] becomes a plan (descriptors and the algorithm that the
//! heuristics put first) at its first use and is then kept. Sums are in f32. Algorithms that split K may
//! add up their parts in f32 in a fixed order only, so a plan gives the same bits every time.

use std::collections::HashMap;
use std::ffi::{c_int, c_uint, c_void};
use std::ptr;

use candle_core::cuda_backend::cudarc::cublaslt::result::{self, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use sys::cublasLtMatmulDescAttributes_t as DescAttribute;
use sys::cublasLtMatmulPreferenceAttributes_t as Wish;

use crate::product::{Element, Epilogue, Matrix, Problem, Scales};

/// Plans kept; a server meets a few shapes per layer and resolution.
const PLANS: usize = 1024;
/// `CUBLAS_OP_T` of `cublasOperation_t`.
const TRANSPOSED: c_int = 1;
/// `CUBLASLT_MATMUL_DESC_A_SCALE_MODE` and `.._B_SCALE_MODE`, which bindings for toolkits before 12.8 do not
/// name.
const A_SCALE_MODE: c_uint = 31;
const B_SCALE_MODE: c_uint = 32;
/// `CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F`.
const OUTER_VECTORS: c_int = 3;

unsafe extern "C" {
    // As in `sys`, but the attribute may be one that the bindings do not name.
    #[allow(clashing_extern_declarations)]
    fn cublasLtMatmulDescSetAttribute(
        desc: sys::cublasLtMatmulDesc_t,
        attribute: c_uint,
        value: *const c_void,
        bytes: usize,
    ) -> sys::cublasStatus_t;
}

/// Addresses on the card of one product, see [`Problem`]; null where there is nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    pub(crate) weight: *const c_void,
    pub(crate) x: *const c_void,
    pub(crate) y: *mut c_void,
    /// In the type of y.
    pub(crate) bias: *const c_void,
    /// f32.
    pub(crate) weight_scale: *const c_void,
    pub(crate) x_scale: *const c_void,
}

/// Version of the library, 130100 for 13.1.
pub(crate) fn version() -> usize {
    // SAFETY: takes nothing.
    unsafe { sys::cublasLtGetVersion() }
}

/// A handle of the library on one stream.
#[derive(Debug)]
pub(crate) struct Session {
    plans: HashMap<Problem, Result<Plan, CublasError>>,
    workspace: (*mut c_void, usize),
    stream: sys::cudaStream_t,
    /// Last, so that it goes last.
    handle: Handle,
}

// SAFETY: nothing of the library belongs to a thread; a session is used through `&mut`.
unsafe impl Send for Session {}

impl Session {
    /// On the current context.
    ///
    /// # Safety
    /// `stream` must be a stream of the current context, `workspace` an address of `bytes` bytes there that
    /// nothing else uses; both must outlive the session.
    pub(crate) unsafe fn new(
        stream: *mut c_void,
        workspace: *mut c_void,
        bytes: usize,
    ) -> Result<Self, CublasError> {
        Ok(Self {
            plans: HashMap::new(),
            workspace: (workspace, bytes),
            stream: stream.cast(),
            handle: Handle(result::create_handle()?),
        })
    }

    /// Enqueues the product. Fails without having enqueued anything if the library has no algorithm.
    ///
    /// # Safety
    /// The session's context must be current. The addresses must be those of operands as the problem
    /// describes them, valid until the stream has come to this point.
    pub(crate) unsafe fn run(
        &mut self,
        problem: &Problem,
        at: &Addresses,
    ) -> Result<(), CublasError> {
        if self.plans.len() >= PLANS && !self.plans.contains_key(problem) {
            self.plans.clear();
        }
        let (handle, workspace) = (self.handle.0, self.workspace);
        let plan = self
            .plans
            .entry(*problem)
            .or_insert_with(|| Plan::new(handle, problem, at, workspace.1));
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => return Err(*error),
        };
        plan.desc.point(problem, at)?;
        let (one, zero) = (1.0f32, 0.0f32);
        // SAFETY: live descriptors that agree with the addresses, as the caller vouches; the factors are
        // read on the host before the call returns.
        unsafe {
            result::matmul(
                handle,
                plan.desc.0,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                at.weight,
                plan.weight.0,
                at.x,
                plan.x.0,
                at.y,
                plan.y.0,
                at.y,
                plan.y.0,
                &raw const plan.algorithm,
                workspace.0,
                workspace.1,
                self.stream,
            )
        }
    }
}

#[derive(Debug)]
struct Plan {
    desc: Desc,
    weight: Layout,
    x: Layout,
    y: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Plan {
    fn new(
        handle: sys::cublasLtHandle_t,
        problem: &Problem,
        at: &Addresses,
        workspace_bytes: usize,
    ) -> Result<Self, CublasError> {
        let [weight, x, y] = problem.matrices();
        let desc = Desc::new(problem)?;
        // The heuristics look at which addresses are set.
        desc.point(problem, at)?;
        let (weight, x, y) = (
            Layout::new(problem.operands, weight)?,
            Layout::new(problem.operands, x)?,
            Layout::new(problem.result, y)?,
        );
        let wishes = Wishes(result::create_matmul_pref()?);
        wishes.set(
            Wish::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
            &workspace_bytes,
        )?;
        let fixed_order = sys::cublasLtReductionScheme_t::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
        wishes.set(
            Wish::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
            &(fixed_order as u32),
        )?;
        let [of_weight, of_x, of_y] = problem.alignments;
        for (wish, bytes) in [
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, of_weight),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, of_x),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, of_y),
            (Wish::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, of_y),
        ] {
            wishes.set(wish, &bytes)?;
        }
        // SAFETY: live descriptors.
        let found = unsafe {
            result::get_matmul_algo_heuristic(handle, desc.0, weight.0, x.0, y.0, y.0, wishes.0)
        }?;
        Ok(Self {
            desc,
            weight,
            x,
            y,
            algorithm: found.algo,
        })
    }
}

#[derive(Debug)]
struct Handle(sys::cublasLtHandle_t);

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: made by `create_handle`, destroyed once. Nobody is left to tell of a failure.
        let _ = unsafe { result::destroy_handle(self.0) };
    }
}

#[derive(Debug)]
struct Layout(sys::cublasLtMatrixLayout_t);

impl Layout {
    fn new(element: Element, matrix: Matrix) -> Result<Self, CublasError> {
        let Matrix {
            rows,
            columns,
            leading,
        } = matrix;
        let element = data_type(element);
        result::create_matrix_layout(element, rows as u64, columns as u64, leading as i64).map(Self)
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // SAFETY: made by `create_matrix_layout`, destroyed once.
        let _ = unsafe { result::destroy_matrix_layout(self.0) };
    }
}

#[derive(Debug)]
struct Wishes(sys::cublasLtMatmulPreference_t);

impl Wishes {
    fn set<T>(&self, wish: Wish, value: &T) -> Result<(), CublasError> {
        // SAFETY: a live descriptor; reads one value of the type that the wish has.
        unsafe {
            result::set_matmul_pref_attribute(
                self.0,
                wish,
                ptr::from_ref(value).cast(),
                size_of::<T>(),
            )
        }
    }
}

impl Drop for Wishes {
    fn drop(&mut self) {
        // SAFETY: made by `create_matmul_pref`, destroyed once.
        let _ = unsafe { result::destroy_matmul_pref(self.0) };
    }
}

#[derive(Debug)]
struct Desc(sys::cublasLtMatmulDesc_t);

impl Desc {
    fn new(problem: &Problem) -> Result<Self, CublasError> {
        let compute = if problem.tf32 {
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32
        } else {
            sys::cublasComputeType_t::CUBLAS_COMPUTE_32F
        };
        let f32s = sys::cudaDataType::CUDA_R_32F;
        let desc = Self(result::create_matmul_desc(compute, f32s)?);
        desc.set(
            DescAttribute::CUBLASLT_MATMUL_DESC_TRANSA as c_uint,
            &TRANSPOSED,
        )?;
        let epilogue = match problem.epilogue {
            Epilogue::None => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
            Epilogue::Bias => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            Epilogue::Gelu => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU,
            Epilogue::GeluBias => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_GELU_BIAS,
        };
        desc.set(
            DescAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE as c_uint,
            &(epilogue as u32),
        )?;
        if problem.epilogue.has_bias() {
            desc.set(
                DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE as c_uint,
                &(data_type(problem.result) as u32),
            )?;
        }
        if problem.scales == Scales::OuterVectors {
            desc.set(A_SCALE_MODE, &OUTER_VECTORS)?;
            desc.set(B_SCALE_MODE, &OUTER_VECTORS)?;
        }
        Ok(desc)
    }

    /// The addresses that are part of the descriptor.
    fn point(&self, problem: &Problem, at: &Addresses) -> Result<(), CublasError> {
        if problem.epilogue.has_bias() {
            self.set(
                DescAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER as c_uint,
                &at.bias,
            )?;
        }
        if problem.scales != Scales::None {
            self.set(
                DescAttribute::CUBLASLT_MATMUL_DESC_A_SCALE_POINTER as c_uint,
                &at.weight_scale,
            )?;
            self.set(
                DescAttribute::CUBLASLT_MATMUL_DESC_B_SCALE_POINTER as c_uint,
                &at.x_scale,
            )?;
        }
        Ok(())
    }

    fn set<T>(&self, attribute: c_uint, value: &T) -> Result<(), CublasError> {
        // SAFETY: a live descriptor; reads one value of the type that the attribute has.
        unsafe {
            cublasLtMatmulDescSetAttribute(
                self.0,
                attribute,
                ptr::from_ref(value).cast(),
                size_of::<T>(),
            )
        }
        .result()
    }
}

impl Drop for Desc {
    fn drop(&mut self) {
        // SAFETY: made by `create_matmul_desc`, destroyed once.
        let _ = unsafe { result::destroy_matmul_desc(self.0) };
    }
}

fn data_type(element: Element) -> sys::cudaDataType {
    match element {
        Element::F32 => sys::cudaDataType::CUDA_R_32F,
        Element::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        Element::F16 => sys::cudaDataType::CUDA_R_16F,
        Element::E4m3 => sys::cudaDataType::CUDA_R_8F_E4M3,
    }
}
