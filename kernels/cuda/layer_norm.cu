// Layer norm over the last dimension, then `y * factor + shift`:
//   y = (x - mean) / sqrt(var + eps), var without Bessel's correction.
//
// One block per row. The row is read three times (mean, variance, result); after the first it comes from
// the L1 cache, so device memory sees one read and one write: 4 bytes per element in bf16.
//
// x, out [rows, d], out in the type of x or, for a residual stream in f32, in 16 bits; factor, shift [R, d] f32, R = 1 or 2: rows from `first` on use the second one.
// `plus_one`: the factor is 1 + factor (adaptive layer norm has `scale`, not the factor).
#include "common.cuh"

template <typename T, typename O>
DEVICE void layer_norm(const T* x, const float* factor, const float* shift, O* out, int d, int rows_of_parameters,
                       int64_t first, float eps, int plus_one) {
  SHARED(float, scratch, 32);
  const int64_t row = blockIdx.x;
  x += row * d;
  out += row * d;
  if (factor != nullptr && rows_of_parameters == 2 && row >= first) {
    factor += d;
    shift += d;
  }
  constexpr int kPack = Pack<O>::kSize;
  const bool packed = d % kPack == 0 && aligned(x) && aligned(out);
  const int step = packed ? kPack : 1;

  float sum = 0.0f;
  for (int i = threadIdx.x * step; i < d; i += blockDim.x * step) {
    if (packed) {
      float v[kPack];
      load_floats(x + i, v);
#pragma unroll
      for (int j = 0; j < kPack; ++j) sum += v[j];
    } else {
      sum += to_float(x[i]);
    }
  }
  const float mean = block_sum(sum, scratch) / d;

  float squares = 0.0f;
  for (int i = threadIdx.x * step; i < d; i += blockDim.x * step) {
    if (packed) {
      float v[kPack];
      load_floats(x + i, v);
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        const float centred = v[j] - mean;
        squares += centred * centred;
      }
    } else {
      const float centred = to_float(x[i]) - mean;
      squares += centred * centred;
    }
  }
  const float inverse = 1.0f / sqrtf(block_sum(squares, scratch) / d + eps);

  const float one = plus_one ? 1.0f : 0.0f;
  for (int i = threadIdx.x * step; i < d; i += blockDim.x * step) {
    if (packed) {
      float v[kPack];
      load_floats(x + i, v);
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        v[j] = (v[j] - mean) * inverse;
        if (factor != nullptr) v[j] = v[j] * (one + factor[i + j]) + shift[i + j];
      }
      store_floats(out + i, v);
    } else {
      float y = (to_float(x[i]) - mean) * inverse;
      if (factor != nullptr) y = y * (one + factor[i]) + shift[i];
      out[i] = from_float<O>(y);
    }
  }
}

#define INSTANTIATE(T, O, suffix)                                                                           \
  KERNEL layer_norm_##suffix(const T* x, const float* factor, const float* shift, O* out, int d,            \
                             int rows_of_parameters, int64_t first, float eps, int plus_one) {              \
    layer_norm<T, O>(x, factor, shift, out, d, rows_of_parameters, first, eps, plus_one);                   \
  }                                                                                                         \
  REGISTER(layer_norm_##suffix)
INSTANTIATE(float, float, f32)
INSTANTIATE(bf16, bf16, bf16)
INSTANTIATE(f16, f16, f16)
INSTANTIATE(float, bf16, f32_bf16)
INSTANTIATE(float, f16, f32_f16)
#undef INSTANTIATE
