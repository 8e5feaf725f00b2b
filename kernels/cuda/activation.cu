// SiLU, x * sigmoid(x), and GELU in its tanh form, x * sigmoid(2u) with u = sqrt(2/pi) (x + 0.044715 x^3),
// element by element: 4 bytes per element in bf16. One pack per thread; the last thread takes the rest.
#include "common.cuh"

DEVICE float silu(float x) { return x / (1.0f + expf(-x)); }
DEVICE float gelu_tanh(float x) {
  constexpr float kTwice = -2.0f * 0.79788456f;
  return x / (1.0f + expf(kTwice * x * (1.0f + 0.044715f * x * x)));
}

template <typename T>
DEVICE void activation(const T* x, T* out, int64_t n, int gelu) {
  constexpr int kPack = Pack<T>::kSize;
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * kPack;
  if (i >= n) return;
  if (i + kPack <= n && aligned(x) && aligned(out)) {
    float v[kPack];
    load_floats(x + i, v);
#pragma unroll
    for (int j = 0; j < kPack; ++j) v[j] = gelu ? gelu_tanh(v[j]) : silu(v[j]);
    store_floats(out + i, v);
    return;
  }
  for (int64_t j = i; j < n && j < i + kPack; ++j) {
    const float v = to_float(x[j]);
    out[j] = from_float<T>(gelu ? gelu_tanh(v) : silu(v));
  }
}

#define INSTANTIATE(T, suffix)                                                    \
  KERNEL activation_##suffix(const T* x, T* out, int64_t n, int gelu) {           \
    activation<T>(x, out, n, gelu);                                               \
  }                                                                               \
  REGISTER(activation_##suffix)
FOR_FLOATS(INSTANTIATE)
#undef INSTANTIATE
