// Norm over the channels of a pixel, with SiLU if asked:
//   y = x / max(||x||, 1e-12) * sqrt(C) * gamma
//
// A group of `lanes` lanes (a power of two, 1 to 32) per pixel: 2 pixels per warp for 96 channels in bf16. A
// pixel of whole packs, at most 32 elements per lane, stays in registers: one read, one write, 4 bytes per element
// in bf16. Others are read twice, the second time from the L1 cache.
//
// x, out [pixels, c]; gamma [c] f32.
#include "common.cuh"

template <typename T>
DEVICE void channel_norm(const T* x, const float* gamma, T* out, int64_t pixels, int c, int lanes, int silu) {
  const int lane = threadIdx.x % lanes;
  const int64_t pixel = static_cast<int64_t>(blockIdx.x) * (blockDim.x / lanes) + threadIdx.x / lanes;
  // Lanes beyond the last pixel stay: the sums below need the whole warp.
  const bool exists = pixel < pixels;
  x += exists ? pixel * c : 0;
  out += exists ? pixel * c : 0;
  auto finish = [&](float v, float factor, int i) {
    const float y = v * factor * gamma[i];
    return silu ? y / (1.0f + expf(-y)) : y;
  };

  constexpr int kPack = Pack<T>::kSize, kHeld = 32 / kPack;
  const bool held = c % kPack == 0 && c <= lanes * kHeld * kPack && aligned(x) && aligned(out);
  float v[kHeld][kPack];
  float squares = 0.0f;
  if (exists && held) {
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      const int i = (h * lanes + lane) * kPack;
      if (i >= c) break;
      load_floats(x + i, v[h]);
#pragma unroll
      for (int j = 0; j < kPack; ++j) squares += v[h][j] * v[h][j];
    }
  } else if (exists) {
    for (int i = lane; i < c; i += lanes) squares += to_float(x[i]) * to_float(x[i]);
  }
  for (int step = lanes / 2; step > 0; step /= 2) squares += __shfl_xor_sync(kFullWarp, squares, step);
  if (!exists) return;

  const float factor = sqrtf(static_cast<float>(c)) / fmaxf(sqrtf(squares), 1e-12f);
  if (held) {
#pragma unroll
    for (int h = 0; h < kHeld; ++h) {
      const int i = (h * lanes + lane) * kPack;
      if (i >= c) break;
#pragma unroll
      for (int j = 0; j < kPack; ++j) v[h][j] = finish(v[h][j], factor, i + j);
      store_floats(out + i, v[h]);
    }
  } else {
    for (int i = lane; i < c; i += lanes) out[i] = from_float<T>(finish(to_float(x[i]), factor, i));
  }
}

#define INSTANTIATE(T, suffix)                                                                              \
  KERNEL channel_norm_##suffix(const T* x, const float* gamma, T* out, int64_t pixels, int c, int lanes,    \
                               int silu) {                                                                  \
    channel_norm<T>(x, gamma, out, pixels, c, lanes, silu);                                                 \
  }                                                                                                         \
  REGISTER(channel_norm_##suffix)
FOR_FLOATS(INSTANTIATE)
#undef INSTANTIATE
