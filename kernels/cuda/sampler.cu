// Guidance and the sampler's update in one pass: up to three linear combinations of the velocity and up to
// four tensors, each of which may use the results before it:
//   v   = u + scale * (c - u), each operation rounded to T, or c where there is no u
//   y_k = sum_i a[k][i] x_i + sum_{j<k} b[k][j] y_j + g[k] v
// with fused multiply-adds in exactly this order, so that the host's twin gives the same bits; g[k] v is
// rounded to T where that has 16 bits, as the reference does.
//
// Each element is read and written once: for UniPC on a velocity pair 4 + 2 tensors in, 3 out.
//
// cond, uncond (or null) [n] T; x0..x3 (or null) [n] f32; y0..y2 (or null) [n] f32. A null tensor ends
// its list.
#include "common.cuh"

struct Row {
  float x[4], y[2], velocity;
};

// One combination; `y` are the results before it.
template <typename T>
DEVICE float combine_row(const Row& row, const float* x, int xs, const float* y, int ys, float velocity) {
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < xs) sum = __fmaf_rn(row.x[i], x[i], sum);
#pragma unroll
  for (int j = 0; j < 2; ++j)
    if (j < ys) sum = __fmaf_rn(row.y[j], y[j], sum);
  if (sizeof(T) == 4 || row.velocity == 0.0f) return __fmaf_rn(row.velocity, velocity, sum);
  return __fadd_rn(sum, to_float(from_float<T>(__fmul_rn(row.velocity, velocity))));
}

template <typename T>
DEVICE float guided(const T* cond, const T* uncond, float scale, int64_t i) {
  const float c = to_float(cond[i]);
  if (uncond == nullptr) return c;
  const float u = to_float(uncond[i]);
  const float difference = to_float(from_float<T>(__fsub_rn(c, u)));
  const float scaled = to_float(from_float<T>(__fmul_rn(difference, scale)));
  return to_float(from_float<T>(__fadd_rn(u, scaled)));
}

#define INSTANTIATE(T, suffix)                                                                                       \
  KERNEL sampler_##suffix(const T* cond, const T* uncond, float scale, const float* x0, const float* x1,             \
                          const float* x2, const float* x3, float* y0, float* y1, float* y2, float a00, float a01,   \
                          float a02, float a03, float g0, float a10, float a11, float a12, float a13, float b10,     \
                          float g1, float a20, float a21, float a22, float a23, float b20, float b21, float g2,      \
                          int64_t n) {                                                                               \
    const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;                                   \
    if (i >= n) return;                                                                                              \
    const int xs = (x0 != nullptr) + (x1 != nullptr) + (x2 != nullptr) + (x3 != nullptr);                            \
    const float v = guided<T>(cond, uncond, scale, i);                                                               \
    const float x[4] = {xs > 0 ? x0[i] : 0.0f, xs > 1 ? x1[i] : 0.0f, xs > 2 ? x2[i] : 0.0f, xs > 3 ? x3[i] : 0.0f}; \
    float y[2];                                                                                                      \
    y[0] = combine_row<T>({{a00, a01, a02, a03}, {0.0f, 0.0f}, g0}, x, xs, y, 0, v);                                    \
    y0[i] = y[0];                                                                                                    \
    if (y1 == nullptr) return;                                                                                       \
    y[1] = combine_row<T>({{a10, a11, a12, a13}, {b10, 0.0f}, g1}, x, xs, y, 1, v);                                     \
    y1[i] = y[1];                                                                                                    \
    if (y2 == nullptr) return;                                                                                       \
    y2[i] = combine_row<T>({{a20, a21, a22, a23}, {b20, b21}, g2}, x, xs, y, 2, v);                                     \
  }                                                                                                                  \
  REGISTER(sampler_##suffix)
FOR_FLOATS(INSTANTIATE)
#undef INSTANTIATE
