// What every kernel uses: element types with exact conversions, 16-byte packs, warp and block sums.
//
// Each source compiles twice: with nvcc for the card, and as plain C++ with shim.h in front, where a
// block runs as fibers on the host. So nothing here needs a header of the toolkit.
//
// A source defines templates and instantiates them per element type:
//   template <typename T> DEVICE void scale(const T* x, T* y, int64_t n, float by) { ... }
//   #define INSTANTIATE(T, suffix)
//     KERNEL scale_##suffix(const T* x, T* y, int64_t n, float by) { scale<T>(x, y, n, by); }
//     REGISTER(scale_##suffix)
//   FOR_FLOATS(INSTANTIATE)
//   #undef INSTANTIATE
#pragma once

#ifdef LEOMA_SHIM
#include "shim.h"
#else
#include <cstdint>
#define DEVICE static __device__ __forceinline__
#define METHOD __device__ __forceinline__
#define KERNEL extern "C" __global__ void
#define REGISTER(name)
#define SHARED(type, name, count) __shared__ type name[count]
#define DYNAMIC_SHARED(type, name)                           \
  extern __shared__ __align__(16) unsigned char name##_raw[]; \
  type* name = reinterpret_cast<type*>(name##_raw)
#endif

constexpr unsigned kFullWarp = 0xffffffffu;

// --- element types -------------------------------------------------------------------------------

struct bf16 {
  uint16_t bits;
};
struct f16 {
  uint16_t bits;
};

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(bf16 x) { return __uint_as_float(static_cast<uint32_t>(x.bits) << 16); }
DEVICE float to_float(f16 x) {
#ifdef LEOMA_SHIM
  return shim::half_to_float(x.bits);
#else
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
  return y;
#endif
}

// Rounds to nearest, ties to even.
template <typename T>
DEVICE T from_float(float x);
template <>
METHOD float from_float<float>(float x) {
  return x;
}
template <>
METHOD bf16 from_float<bf16>(float x) {
#ifdef LEOMA_SHIM
  return bf16{shim::float_to_bf16(x)};
#else
  bf16 y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#endif
}
template <>
METHOD f16 from_float<f16>(float x) {
#ifdef LEOMA_SHIM
  return f16{shim::float_to_half(x)};
#else
  f16 y;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#endif
}

// Instantiates for the three element types; the suffix is what `device::suffix` gives in Rust.
#define FOR_FLOATS(instantiate) \
  instantiate(float, f32) instantiate(bf16, bf16) instantiate(f16, f16)

// --- 16-byte access ------------------------------------------------------------------------------

// As many elements as one 16-byte access moves.
template <typename T>
struct alignas(16) Pack {
  static constexpr int kSize = 16 / sizeof(T);
  T v[kSize];
};

template <typename T>
DEVICE Pack<T> load_pack(const T* p) {
  return *reinterpret_cast<const Pack<T>*>(p);
}
template <typename T>
DEVICE void store_pack(T* p, const Pack<T>& pack) {
  *reinterpret_cast<Pack<T>*>(p) = pack;
}
template <typename T>
DEVICE bool aligned(const T* p) {
  return reinterpret_cast<uint64_t>(p) % 16 == 0;
}

// N elements as floats: whole 16-byte packs, so N is a multiple of Pack<T>::kSize and p aligned.
template <int N, typename T>
DEVICE void load_floats(const T* p, float (&v)[N]) {
  static_assert(N % Pack<T>::kSize == 0, "part of a pack");
#pragma unroll
  for (int i = 0; i < N; i += Pack<T>::kSize) {
    const Pack<T> pack = load_pack(p + i);
#pragma unroll
    for (int j = 0; j < Pack<T>::kSize; ++j) v[i + j] = to_float(pack.v[j]);
  }
}
template <int N, typename T>
DEVICE void store_floats(T* p, const float (&v)[N]) {
  static_assert(N % Pack<T>::kSize == 0, "part of a pack");
#pragma unroll
  for (int i = 0; i < N; i += Pack<T>::kSize) {
    Pack<T> pack;
#pragma unroll
    for (int j = 0; j < Pack<T>::kSize; ++j) pack.v[j] = from_float<T>(v[i + j]);
    store_pack(p + i, pack);
  }
}

// --- sums ----------------------------------------------------------------------------------------

// The sum over the warp, in every lane.
DEVICE float warp_sum(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(kFullWarp, x, step);
  return x;
}

DEVICE float warp_max(float x) {
#pragma unroll
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(kFullWarp, x, step));
  return x;
}

// The sum over a block of blockDim.x threads (a multiple of 32, at most 1024), in every thread.
// `scratch` holds 32 floats; two sums in a row may share it.
DEVICE float block_sum(float x, float* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  x = warp_sum(x);
  __syncthreads();  // the last sum has been read by all
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return warp_sum(lane < warps ? scratch[lane] : 0.0f);
}

DEVICE float block_max(float x, float* scratch) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  x = warp_max(x);
  __syncthreads();
  if (lane == 0) scratch[warp] = x;
  __syncthreads();
  return warp_max(lane < warps ? scratch[lane] : -INFINITY);
}
