// RMS norm over all heads of a token together, then rotation of adjacent pairs, for q and k at once:
//   n = x / sqrt(mean(x^2) + eps) * weight
//   y[2i] = n[2i] cos[i] - n[2i+1] sin[i],  y[2i+1] = n[2i] sin[i] + n[2i+1] cos[i]
//
// One block per token and tensor (blockIdx.y: 0 is q, 1 is k). A row of whole packs stays in registers
// between the two steps, so device memory sees one read and one write: 4 bytes per element in bf16. The
// tables, [rows, width / 2] f32, are read once per token and come from the L1 cache for all heads but the
// first.
//
// q, k: rows of d elements at a distance of `stride` elements (parts of a fused projection); outputs
// [rows, d]. d is a multiple of `width`, the width of a head, which is even. Without tables (null) there is
// no rotation. `early`: x / sqrt(..) is rounded to T before the weight and not after it.
#include "common.cuh"

constexpr int kHeld = 5;

template <typename T>
DEVICE float round_to(float x) {
  return to_float(from_float<T>(x));
}

template <typename T>
DEVICE float weighted(float normed, float weight, int early) {
  return early ? round_to<T>(normed) * weight : round_to<T>(normed * weight);
}

template <typename T>
DEVICE void rms_norm_rope(const T* q, int64_t q_stride, const float* q_weight, T* q_out, const T* k, int64_t k_stride,
                          const float* k_weight, T* k_out, const float* cosine, const float* sine, int d, int width,
                          float eps, int early) {
  SHARED(float, scratch, 32);
  const int64_t row = blockIdx.x;
  const bool second = blockIdx.y == 1;
  const T* x = second ? k + row * k_stride : q + row * q_stride;
  const float* weight = second ? k_weight : q_weight;
  T* out = (second ? k_out : q_out) + row * d;
  const bool rotate = cosine != nullptr;
  if (rotate) {
    cosine += row * (width / 2);
    sine += row * (width / 2);
  }

  constexpr int kPack = Pack<T>::kSize;
  const bool held = d % kPack == 0 && width % kPack == 0 && d <= static_cast<int>(blockDim.x) * kHeld * kPack &&
                    aligned(x) && aligned(weight) && aligned(out);
  if (held) {
    float v[kHeld][kPack];
    float squares = 0.0f;
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      const int i = (h * blockDim.x + threadIdx.x) * kPack;
      if (i >= d) break;
      load_floats(x + i, v[h]);
#pragma unroll
      for (int j = 0; j < kPack; ++j) squares += v[h][j] * v[h][j];
    }
    const float inverse = 1.0f / sqrtf(block_sum(squares, scratch) / d + eps);
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      const int i = (h * blockDim.x + threadIdx.x) * kPack;
      if (i >= d) break;
      float w[kPack];
      load_floats(weight + i, w);
#pragma unroll
      for (int j = 0; j < kPack; ++j) v[h][j] = weighted<T>(v[h][j] * inverse, w[j], early);
      if (rotate) {
        const int pair = i % width / 2;
#pragma unroll
        for (int j = 0; j < kPack; j += 2) {
          const float c = cosine[pair + j / 2], s = sine[pair + j / 2];
          const float a = v[h][j], b = v[h][j + 1];
          v[h][j] = a * c - b * s;
          v[h][j + 1] = a * s + b * c;
        }
      }
      store_floats(out + i, v[h]);
    }
    return;
  }

  float squares = 0.0f;
  for (int i = threadIdx.x; i < d; i += blockDim.x) squares += to_float(x[i]) * to_float(x[i]);
  const float inverse = 1.0f / sqrtf(block_sum(squares, scratch) / d + eps);
  if (!rotate) {
    for (int i = threadIdx.x; i < d; i += blockDim.x) {
      out[i] = from_float<T>(weighted<T>(to_float(x[i]) * inverse, weight[i], early));
    }
    return;
  }
  for (int i = 2 * threadIdx.x; i < d; i += 2 * blockDim.x) {
    const float a = weighted<T>(to_float(x[i]) * inverse, weight[i], early);
    const float b = weighted<T>(to_float(x[i + 1]) * inverse, weight[i + 1], early);
    const float c = cosine[i % width / 2], s = sine[i % width / 2];
    out[i] = from_float<T>(a * c - b * s);
    out[i + 1] = from_float<T>(a * s + b * c);
  }
}

#define INSTANTIATE(T, suffix)                                                                               \
  KERNEL rms_norm_rope_##suffix(const T* q, int64_t q_stride, const float* q_weight, T* q_out, const T* k,   \
                                int64_t k_stride, const float* k_weight, T* k_out, const float* cosine,      \
                                const float* sine, int d, int width, float eps, int early) {                 \
    rms_norm_rope<T>(q, q_stride, q_weight, q_out, k, k_stride, k_weight, k_out, cosine, sine, d, width,     \
                     eps, early);                                                                            \
  }                                                                                                          \
  REGISTER(rms_norm_rope_##suffix)
FOR_FLOATS(INSTANTIATE)
#undef INSTANTIATE
