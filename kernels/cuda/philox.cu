// Standard normal values as torch draws them on a card: `torch.randn` with a CUDA generator at offset 0.
//
// torch launches T = 256 * blocks threads. Thread p runs Philox4x32-10 (Salmon et al. 2011) with the seed
// as key and counter (call, 0, p, 0); the four normals of a call go to the elements p + T * (4 call + i)
// (ATen/native/cuda/DistributionTemplates.h). Words become normals as in curand_normal.h: one fused
// multiply-add each for u and v, the accurate logarithm and root, the fast sine and cosine.
#include "common.cuh"

DEVICE void box_muller(uint32_t x, uint32_t y, float* out) {
  constexpr float kScale = 2.3283064e-10f, kTurn = 2.3283064e-10f * 6.2831855f;
  const float u = __fmaf_rn(static_cast<float>(x), kScale, kScale / 2.0f);
  const float v = __fmaf_rn(static_cast<float>(y), kTurn, kTurn / 2.0f);
  const float radius = __fsqrt_rn(__fmul_rn(-2.0f, logf(u)));
  float sine, cosine;
  __sincosf(v, &sine, &cosine);
  out[0] = __fmul_rn(sine, radius);
  out[1] = __fmul_rn(cosine, radius);
}

// out [n]; one thread per thread of torch's launch, `threads` of them.
KERNEL philox_normal(float* out, int64_t n, uint32_t threads, uint32_t seed_low, uint32_t seed_high) {
  const uint32_t p = blockIdx.x * blockDim.x + threadIdx.x;
  if (p >= threads) return;
  int64_t element = p;
  for (uint64_t call = 0; element < n; ++call) {
    uint32_t c0 = static_cast<uint32_t>(call), c1 = static_cast<uint32_t>(call >> 32), c2 = p, c3 = 0;
    uint32_t k0 = seed_low, k1 = seed_high;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
      const uint32_t a = 0xD2511F53u * c0, a_high = __umulhi(0xD2511F53u, c0);
      const uint32_t b = 0xCD9E8D57u * c2, b_high = __umulhi(0xCD9E8D57u, c2);
      c0 = b_high ^ c1 ^ k0;
      c2 = a_high ^ c3 ^ k1;
      c1 = b;
      c3 = a;
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    float normals[4];
    box_muller(c0, c1, normals);
    box_muller(c2, c3, normals + 2);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      // torch multiplies by the standard deviation 1 and adds the mean 0, which makes a negative zero positive.
      if (element < n) out[element] = normals[i] + 0.0f;
      element += threads;
    }
  }
}
REGISTER(philox_normal)
