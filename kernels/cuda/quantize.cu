// Rows rounded to the 8-bit float e4m3 for 8-bit products, the end of such a product, and weights made wide
// again.
//
//   quantize:   scale = max|x| / 448 of the row (or one that is given), code = e4m3(x * (448 / max|x|))
//   finish:     y = act(sum * (row scale * column scale) + bias)
//   dequantize: W = value(code) * scale
//
// Conversions are done on the bits, so that they run alike on cards without e4m3 instructions, and to the
// bit as on the CPU (kernels/src/e4m3.rs, fp8.rs).
#include "common.cuh"

namespace e4m3 {

constexpr float kMax = 448.0f;
// Smallest max|x| that a scale is made from.
constexpr float kMinAmax = 1e-30f;

// Nearest code, ties to even; beyond 448 saturates, NaN stays NaN.
DEVICE uint8_t encode(float value) {
  const uint32_t bits = __float_as_uint(value), magnitude = bits & 0x7fffffff;
  uint32_t code;
  if (magnitude > 0x7f800000) {
    code = 0x7f;
  } else if (magnitude >= 0x43e00000) {  // 448
    code = 0x7e;
  } else if (magnitude < 0x3c800000) {   // 2^-6: from 2^14 on floats step by 2^-9, as the codes do
    code = __float_as_uint(__fadd_rn(__uint_as_float(magnitude), 16384.0f)) - 0x46800000;
  } else {
    code = ((magnitude + 0x7ffff + (magnitude >> 20 & 1)) >> 20) - (120 << 3);
  }
  return static_cast<uint8_t>((bits >> 24 & 0x80) | code);
}

DEVICE float decode(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80) << 24, magnitude = code & 0x7f;
  if (magnitude == 0x7f) return __uint_as_float(sign | 0x7fc00000);
  if (magnitude < 8) {
    return __uint_as_float(sign | __float_as_uint(static_cast<float>(magnitude) * 0.001953125f));  // 2^-9
  }
  return __uint_as_float(sign | (magnitude + (120 << 3)) << 20);
}

// The largest of the block's values, in every thread. Magnitudes order as their bits do, NaN last.
DEVICE uint32_t block_largest(uint32_t x, uint32_t* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = max(x, __shfl_xor_sync(kFullWarp, x, step));
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  x = lane < warps ? scratch[lane] : 0;
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = max(x, __shfl_xor_sync(kFullWarp, x, step));
  return x;
}

// One block per row of k elements; rows of x are `stride` apart. `fixed`: the scale, or 0 for the row's own.
template <typename T>
DEVICE void quantize(const T* x, uint8_t* codes, float* scales, int k, int64_t stride, float fixed) {
  SHARED(uint32_t, scratch, 32);
  const int64_t row = blockIdx.x;
  x += row * stride;
  codes += row * k;
  constexpr int kPack = Pack<T>::kSize;
  const bool packed = k % kPack == 0 && aligned(x);
  float inverse, scale = fixed;
  if (fixed > 0.0f) {
    inverse = __fdiv_rn(1.0f, fixed);
  } else {
    uint32_t largest = 0;
    if (packed) {
      for (int i = threadIdx.x * kPack; i < k; i += blockDim.x * kPack) {
        const Pack<T> p = load_pack(x + i);
#pragma unroll
        for (int j = 0; j < kPack; ++j) largest = max(largest, __float_as_uint(to_float(p.v[j])) & 0x7fffffff);
      }
    } else {
      for (int i = threadIdx.x; i < k; i += blockDim.x) {
        largest = max(largest, __float_as_uint(to_float(x[i])) & 0x7fffffff);
      }
    }
    float amax = __uint_as_float(block_largest(largest, scratch));
    if (amax < kMinAmax) amax = kMinAmax;
    inverse = __fdiv_rn(kMax, amax);
    scale = __fdiv_rn(amax, kMax);
  }
  if (threadIdx.x == 0) scales[row] = scale;
  if (packed && k % 16 == 0) {
    struct alignas(kPack) Codes {
      uint8_t v[kPack];
    };
    for (int i = threadIdx.x * kPack; i < k; i += blockDim.x * kPack) {
      const Pack<T> p = load_pack(x + i);
      Codes c;
#pragma unroll
      for (int j = 0; j < kPack; ++j) c.v[j] = encode(__fmul_rn(to_float(p.v[j]), inverse));
      *reinterpret_cast<Codes*>(codes + i) = c;
    }
  } else {
    for (int i = threadIdx.x; i < k; i += blockDim.x) codes[i] = encode(__fmul_rn(to_float(x[i]), inverse));
  }
}

// What follows the sums: 0 nothing, 1 GELU in its tanh form, 2 SiLU.
DEVICE float activate(float x, int act) {
  if (act == 0) return x;
  const float u = act == 1 ? 1.5957691216057308f * (x + 0.044715f * x * x * x) : x;  // 2 sqrt(2 / pi)
  return x / (1.0f + expf(-u));
}

// sums, out [rows, n], one block per row; row_scales [rows], column_scales [1] or [n], bias [n] or null.
template <typename T>
DEVICE void finish(const float* sums, const float* row_scales, const float* column_scales, const float* bias, T* out,
                   int n, int columns, int act) {
  const int64_t row = blockIdx.x;
  const float row_scale = row_scales[row];
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    const float scale = __fmul_rn(row_scale, column_scales[columns == 1 ? 0 : i]);
    const float value = __fmul_rn(sums[row * n + i], scale);
    out[row * n + i] = from_float<T>(activate(bias != nullptr ? __fadd_rn(value, bias[i]) : value, act));
  }
}

// codes, out [rows, k], one block per row; scales [1] or one per row.
template <typename T>
DEVICE void dequantize(const uint8_t* codes, const float* scales, T* out, int k, int rows_of_scales) {
  const int64_t row = blockIdx.x;
  const float scale = scales[rows_of_scales == 1 ? 0 : row];
  for (int i = threadIdx.x; i < k; i += blockDim.x) {
    out[row * k + i] = from_float<T>(__fmul_rn(decode(codes[row * k + i]), scale));
  }
}

}  // namespace e4m3

#define INSTANTIATE(T, suffix)                                                                                  \
  KERNEL quantize_rows_##suffix(const T* x, uint8_t* codes, float* scales, int k, int64_t stride, float fixed) { \
    e4m3::quantize<T>(x, codes, scales, k, stride, fixed);                                                      \
  }                                                                                                             \
  REGISTER(quantize_rows_##suffix)                                                                              \
  KERNEL quantize_finish_##suffix(const float* sums, const float* row_scales, const float* column_scales,       \
                                  const float* bias, T* out, int n, int columns, int act) {                     \
    e4m3::finish<T>(sums, row_scales, column_scales, bias, out, n, columns, act);                               \
  }                                                                                                             \
  REGISTER(quantize_finish_##suffix)                                                                            \
  KERNEL quantize_widen_##suffix(const uint8_t* codes, const float* scales, T* out, int k, int rows_of_scales) { \
    e4m3::dequantize<T>(codes, scales, out, k, rows_of_scales);                                                 \
  }                                                                                                             \
  REGISTER(quantize_widen_##suffix)
FOR_FLOATS(INSTANTIATE)
#undef INSTANTIATE
