// Runs kernels on the host: the part of CUDA C++ that the sources use, on fibers.
//
// A launch runs block after block; each thread of a block is a fiber that runs until it meets a barrier
// or a warp operation. A barrier that not all threads reach ends the program with a message, where a
// card would hang. Dynamic shared memory starts as NaN in every block, and asynchronous copies arrive as
// late as the code allows, so that reading too early gives NaN and not the right answer by luck. The
// order in which threads run can be reversed or shuffled: results must not depend on it.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#define DEVICE [[maybe_unused]] static inline
#define METHOD [[maybe_unused]] inline
#define KERNEL static void
#define REGISTER(name) static const ::shim::Registrar registrar_##name(#name, name);
#define SHARED(type, name, count) static thread_local type name[count]
#define DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(::shim::dynamic_shared())
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(n) alignas(n)

struct Dim3 {
  unsigned x, y, z;
};
extern __thread Dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace shim {

using Trampoline = void (*)(const void* function, void** args);

// Called by the registrars, before main.
void add_kernel(const char* name, const void* function, Trampoline trampoline, unsigned args);

template <typename... A, size_t... I>
void call_with(const void* function, void** args, std::index_sequence<I...>) {
  reinterpret_cast<void (*)(A...)>(const_cast<void*>(function))(*static_cast<A*>(args[I])...);
}

struct Registrar {
  template <typename... A>
  Registrar(const char* name, void (*kernel)(A...)) {
    add_kernel(
        name, reinterpret_cast<const void*>(kernel),
        [](const void* function, void** args) {
          call_with<A...>(function, args, std::index_sequence_for<A...>{});
        },
        sizeof...(A));
  }
};

void sync_block();
void sync_warp();
// Gives the contributions of all 32 lanes, `size` (at most 64) bytes each at a distance of 64; lanes
// that do not exist or have ended are zero. Valid until the second next call.
const unsigned char* warp_gather(const void* mine, size_t size);
void* dynamic_shared();
// A copy of 16 bytes that happens when it is waited for (or 16 zeros when `from` is null).
void copy_later(void* to, const void* from, size_t bytes);
void commit_copies();
void wait_copies(unsigned pending_groups);

float half_to_float(uint16_t bits);
uint16_t float_to_half(float x);
uint16_t float_to_bf16(float x);

template <typename T>
T from_lane(T mine, unsigned lane) {
  T out;
  std::memcpy(&out, warp_gather(&mine, sizeof(T)) + 64 * (lane % 32), sizeof(T));
  return out;
}
unsigned lane();

}  // namespace shim

// --- CUDA C++ by its own names -------------------------------------------------------------------

inline void __syncthreads() { shim::sync_block(); }
inline void __syncwarp(unsigned = 0xffffffffu) { shim::sync_warp(); }
template <typename T>
T __shfl_xor_sync(unsigned, T x, int mask, int = 32) {
  return shim::from_lane(x, shim::lane() ^ static_cast<unsigned>(mask));
}
template <typename T>
T __shfl_down_sync(unsigned, T x, unsigned by, int = 32) {
  const unsigned from = shim::lane() + by;
  return shim::from_lane(x, from < 32 ? from : shim::lane());
}
template <typename T>
T __shfl_sync(unsigned, T x, int lane, int = 32) {
  return shim::from_lane(x, static_cast<unsigned>(lane));
}

inline float __uint_as_float(uint32_t x) {
  float y;
  std::memcpy(&y, &x, 4);
  return y;
}
inline uint32_t __float_as_uint(float x) {
  uint32_t y;
  std::memcpy(&y, &x, 4);
  return y;
}
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }
inline float __expf(float x) { return std::exp(x); }
inline void __sincosf(float x, float* sine, float* cosine) noexcept {
  *sine = std::sin(x);
  *cosine = std::cos(x);
}
inline float __fdividef(float x, float y) { return x / y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fsub_rn(float x, float y) { return x - y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline uint32_t __umulhi(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>((static_cast<uint64_t>(a) * b) >> 32);
}
template <typename T>
T __ldg(const T* p) {
  return *p;
}
template <typename A, typename B>
std::common_type_t<A, B> min(A a, B b) {
  return a < b ? a : b;
}
template <typename A, typename B>
std::common_type_t<A, B> max(A a, B b) {
  return a > b ? a : b;
}
