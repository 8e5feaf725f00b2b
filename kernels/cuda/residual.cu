// Gated residual, alone or with the layer norm that follows it:
//   sum = x + y * gate, rounded to the type of x
//   normed = LN(sum) * factor + shift
//
// One block per row. A row whose width is whole packs stays in registers between the three steps (sum,
// mean, variance), so device memory sees x and y once and each result once: 8 bytes per element in bf16
// with the norm, 6 without. Other rows are computed again for each step, from the L1 cache.
//
// x, sum [rows, d] in X; y, normed [rows, d] in Y (X = f32 with Y of 16 bits: a residual stream in f32).
// gate [G, d], factor and shift [R, d] f32, G, R = 1 or 2: rows from `first` on use the second one; a null
// gate is 1, a null factor is 1 with shift 0. `plus_one`: the factor is 1 + factor. `normed` may be null.
#include "common.cuh"

// Packs of a row that one thread holds: 640 (d = 5120) take 128 threads.
constexpr int kHeld = 5;

template <typename X, typename Y>
DEVICE void residual(const X* x, const Y* y, const float* gate, int rows_of_gate, X* sum, const float* factor,
                     const float* shift, int rows_of_parameters, int plus_one, Y* normed, int d, int64_t first,
                     float eps) {
  SHARED(float, scratch, 32);
  const int64_t row = blockIdx.x;
  x += row * d;
  y += row * d;
  sum += row * d;
  const bool later = row >= first;
  if (gate != nullptr && rows_of_gate == 2 && later) gate += d;
  if (normed != nullptr) normed += row * d;
  if (factor != nullptr && rows_of_parameters == 2 && later) {
    factor += d;
    shift += d;
  }
  const float one = plus_one ? 1.0f : 0.0f;

  constexpr int kPack = Pack<Y>::kSize;
  const bool held = d % kPack == 0 && d <= static_cast<int>(blockDim.x) * kHeld * kPack && aligned(x) && aligned(y) &&
                    aligned(sum) && aligned(gate) && aligned(normed) && aligned(factor) && aligned(shift);
  if (held) {
    float v[kHeld][kPack];
    float total = 0.0f;
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      const int i = (h * blockDim.x + threadIdx.x) * kPack;
      if (i >= d) break;
      float update[kPack];
      load_floats(x + i, v[h]);
      load_floats(y + i, update);
      if (gate != nullptr) {
        float g[kPack];
        load_floats(gate + i, g);
#pragma unroll
        for (int j = 0; j < kPack; ++j) update[j] *= g[j];
      }
#pragma unroll
      for (int j = 0; j < kPack; ++j) {
        // The norm sees what the next layer will read back.
        v[h][j] = to_float(from_float<X>(v[h][j] + update[j]));
        total += v[h][j];
      }
      store_floats(sum + i, v[h]);
    }
    if (normed == nullptr) return;
    const float mean = block_sum(total, scratch) / d;
    float squares = 0.0f;
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      const int i = (h * blockDim.x + threadIdx.x) * kPack;
      if (i >= d) break;
#pragma unroll
      for (int j = 0; j < kPack; ++j) squares += (v[h][j] - mean) * (v[h][j] - mean);
    }
    const float inverse = 1.0f / sqrtf(block_sum(squares, scratch) / d + eps);
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      const int i = (h * blockDim.x + threadIdx.x) * kPack;
      if (i >= d) break;
#pragma unroll
      for (int j = 0; j < kPack; ++j) v[h][j] = (v[h][j] - mean) * inverse;
      if (factor != nullptr) {
        float f[kPack], s[kPack];
        load_floats(factor + i, f);
        load_floats(shift + i, s);
#pragma unroll
        for (int j = 0; j < kPack; ++j) v[h][j] = v[h][j] * (one + f[j]) + s[j];
      }
      store_floats(normed + i, v[h]);
    }
    return;
  }

  auto value = [&](int i) {
    const float update = to_float(y[i]) * (gate != nullptr ? gate[i] : 1.0f);
    return to_float(from_float<X>(to_float(x[i]) + update));
  };
  float total = 0.0f;
  for (int i = threadIdx.x; i < d; i += blockDim.x) {
    const float v = value(i);
    sum[i] = from_float<X>(v);
    total += v;
  }
  if (normed == nullptr) return;
  const float mean = block_sum(total, scratch) / d;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < d; i += blockDim.x) {
    const float centred = value(i) - mean;
    squares += centred * centred;
  }
  const float inverse = 1.0f / sqrtf(block_sum(squares, scratch) / d + eps);
  for (int i = threadIdx.x; i < d; i += blockDim.x) {
    float v = (value(i) - mean) * inverse;
    if (factor != nullptr) v = v * (one + factor[i]) + shift[i];
    normed[i] = from_float<Y>(v);
  }
}

#define INSTANTIATE(X, Y, suffix)                                                                              \
  KERNEL residual_##suffix(const X* x, const Y* y, const float* gate, int rows_of_gate, X* sum,                \
                           const float* factor, const float* shift, int rows_of_parameters, int plus_one,      \
                           Y* normed, int d, int64_t first, float eps) {                                       \
    residual<X, Y>(x, y, gate, rows_of_gate, sum, factor, shift, rows_of_parameters, plus_one, normed, d,      \
                   first, eps);                                                                                \
  }                                                                                                            \
  REGISTER(residual_##suffix)
INSTANTIATE(float, float, f32)
INSTANTIATE(bf16, bf16, bf16)
INSTANTIATE(f16, f16, f16)
INSTANTIATE(float, bf16, f32_bf16)
INSTANTIATE(float, f16, f32_f16)
#undef INSTANTIATE
