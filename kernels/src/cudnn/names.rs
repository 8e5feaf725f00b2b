//! Numbers of cuDNN's graph API (NVIDIA's public headers of cuDNN 9), under their own names without the
//! prefix: messages that show them can be searched for.
#![allow(non_camel_case_types, clippy::upper_case_acronyms)]
#![allow(dead_code)] // whole groups of attributes, of which a graph sets some

/// `cudnnBackendDescriptorType_t`, `CUDNN_BACKEND_x_DESCRIPTOR`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Kind {
    POINTWISE = 0,
    CONVOLUTION = 1,
    ENGINE = 2,
    ENGINECFG = 3,
    ENGINEHEUR = 4,
    EXECUTION_PLAN = 5,
    OPERATION_CONVOLUTION_FORWARD = 10,
    OPERATION_POINTWISE = 13,
    OPERATIONGRAPH = 15,
    VARIANT_PACK = 16,
    TENSOR = 17,
    OPERATION_SDPA_FWD = 41,
}

/// `cudnnBackendAttributeName_t`, `CUDNN_ATTR_x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Attribute {
    POINTWISE_MODE = 0,
    POINTWISE_MATH_PREC = 1,
    CONVOLUTION_COMP_TYPE = 100,
    CONVOLUTION_CONV_MODE = 101,
    CONVOLUTION_DILATIONS = 102,
    CONVOLUTION_FILTER_STRIDES = 103,
    CONVOLUTION_POST_PADDINGS = 104,
    CONVOLUTION_PRE_PADDINGS = 105,
    CONVOLUTION_SPATIAL_DIMS = 106,
    ENGINEHEUR_MODE = 200,
    ENGINEHEUR_OPERATION_GRAPH = 201,
    ENGINEHEUR_RESULTS = 202,
    ENGINECFG_ENGINE = 300,
    EXECUTION_PLAN_HANDLE = 400,
    EXECUTION_PLAN_ENGINE_CONFIG = 401,
    EXECUTION_PLAN_WORKSPACE_SIZE = 402,
    OPERATION_CONVOLUTION_FORWARD_ALPHA = 700,
    OPERATION_CONVOLUTION_FORWARD_BETA = 701,
    OPERATION_CONVOLUTION_FORWARD_CONV_DESC = 702,
    OPERATION_CONVOLUTION_FORWARD_W = 703,
    OPERATION_CONVOLUTION_FORWARD_X = 704,
    OPERATION_CONVOLUTION_FORWARD_Y = 705,
    OPERATION_POINTWISE_PW_DESCRIPTOR = 750,
    OPERATION_POINTWISE_XDESC = 751,
    OPERATION_POINTWISE_BDESC = 752,
    OPERATION_POINTWISE_YDESC = 753,
    OPERATION_POINTWISE_ALPHA1 = 754,
    OPERATION_POINTWISE_ALPHA2 = 755,
    OPERATIONGRAPH_HANDLE = 800,
    OPERATIONGRAPH_OPS = 801,
    TENSOR_BYTE_ALIGNMENT = 900,
    TENSOR_DATA_TYPE = 901,
    TENSOR_DIMENSIONS = 902,
    TENSOR_STRIDES = 903,
    TENSOR_UNIQUE_ID = 906,
    TENSOR_IS_VIRTUAL = 907,
    TENSOR_IS_BY_VALUE = 908,
    VARIANT_PACK_UNIQUE_IDS = 1000,
    VARIANT_PACK_DATA_POINTERS = 1001,
    VARIANT_PACK_WORKSPACE = 1003,
    ENGINE_GLOBAL_INDEX = 1301,
    ENGINE_NUMERICAL_NOTE = 1303,
    OPERATION_SDPA_FWD_QDESC = 2800,
    OPERATION_SDPA_FWD_KDESC = 2801,
    OPERATION_SDPA_FWD_VDESC = 2802,
    OPERATION_SDPA_FWD_ODESC = 2803,
    OPERATION_SDPA_FWD_SCALEDESC = 2805,
}

/// `cudnnBackendAttributeType_t`, `CUDNN_TYPE_x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Type {
    HANDLE = 0,
    DATA_TYPE = 1,
    BOOLEAN = 2,
    INT64 = 3,
    FLOAT = 4,
    DOUBLE = 5,
    VOID_PTR = 6,
    CONVOLUTION_MODE = 7,
    HEUR_MODE = 8,
    NUMERICAL_NOTE = 11,
    POINTWISE_MODE = 14,
    BACKEND_DESCRIPTOR = 15,
}

/// `cudnnDataType_t`, `CUDNN_DATA_x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(i32)]
pub(crate) enum DataType {
    FLOAT = 0,
    HALF = 2,
    BFLOAT16 = 9,
}

impl DataType {
    /// The type of a tensor's elements, where cuDNN has it.
    pub(crate) fn of(dtype: candle_core::DType) -> Option<Self> {
        match dtype {
            candle_core::DType::F32 => Some(Self::FLOAT),
            candle_core::DType::F16 => Some(Self::HALF),
            candle_core::DType::BF16 => Some(Self::BFLOAT16),
            _ => None,
        }
    }
}

/// `cudnnBackendHeurMode_t`, `CUDNN_HEUR_MODE_x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum HeurMode {
    FALLBACK = 2,
    A = 3,
}

/// `cudnnConvolutionMode_t`, `CUDNN_x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum ConvolutionMode {
    CROSS_CORRELATION = 1,
}

/// `cudnnPointwiseMode_t`, `CUDNN_POINTWISE_x`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum PointwiseMode {
    ADD = 0,
}

/// `cudnnBackendNumericalNote_t`, `CUDNN_NUMERICAL_NOTE_x`: what an engine does to numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub(crate) enum Note {
    DOWN_CONVERT_INPUTS = 1,
    REDUCED_PRECISION_REDUCTION = 2,
    FFT = 3,
    NONDETERMINISTIC = 4,
    WINOGRAD = 5,
    WINOGRAD_TILE_4x4 = 6,
    WINOGRAD_TILE_6x6 = 7,
    WINOGRAD_TILE_13x13 = 8,
}
