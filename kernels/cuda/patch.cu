// Latents [C, T, h, w] to rows of patches [L, C pt ph pw] and back, L = (T/pt) (h/ph) (w/pw), tokens frame
// by frame, then row by row.
//   patchify: within a token (c, kt, kh, kw), kw fastest, cast to the type of the result
//   unpatchify: within a token (kt, kh, kw, c), c fastest
// One thread per element of the result; reading and writing 2 to 4 bytes per element each.
#include "common.cuh"

// Takes the remainder of `index` by `size` off it.
DEVICE int64_t peel(int64_t& index, int size) {
  const int64_t rest = index % size;
  index /= size;
  return rest;
}

// f, y, x: tokens per axis; pt, ph, pw: the patch; c: channels.
template <typename T, typename O>
DEVICE void patchify(const T* in, O* out, int c, int f, int y, int x, int pt, int ph, int pw) {
  const int64_t n = static_cast<int64_t>(c) * f * y * x * pt * ph * pw;
  int64_t rest = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rest >= n) return;
  O* const to = out + rest;
  const int64_t kw = peel(rest, pw), kh = peel(rest, ph), kt = peel(rest, pt), channel = peel(rest, c);
  const int64_t column = peel(rest, x) * pw + kw, line = peel(rest, y) * ph + kh, frame = rest * pt + kt;
  const int64_t w = static_cast<int64_t>(x) * pw, h = static_cast<int64_t>(y) * ph, t = static_cast<int64_t>(f) * pt;
  *to = from_float<O>(to_float(in[((channel * t + frame) * h + line) * w + column]));
}

template <typename T>
DEVICE void unpatchify(const T* in, T* out, int c, int f, int y, int x, int pt, int ph, int pw) {
  const int64_t n = static_cast<int64_t>(c) * f * y * x * pt * ph * pw;
  int64_t rest = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (rest >= n) return;
  T* const to = out + rest;
  const int64_t kw = peel(rest, pw), column = peel(rest, x), kh = peel(rest, ph), line = peel(rest, y);
  const int64_t kt = peel(rest, pt), frame = peel(rest, f), channel = rest;
  const int64_t token = (frame * y + line) * x + column;
  *to = in[(((token * pt + kt) * ph + kh) * pw + kw) * c + channel];
}

#define INSTANTIATE(T, O, suffix)                                                                              \
  KERNEL patchify_##suffix(const T* in, O* out, int c, int f, int y, int x, int pt, int ph, int pw) {          \
    patchify<T, O>(in, out, c, f, y, x, pt, ph, pw);                                                           \
  }                                                                                                            \
  REGISTER(patchify_##suffix)
INSTANTIATE(float, float, f32)
INSTANTIATE(bf16, bf16, bf16)
INSTANTIATE(f16, f16, f16)
INSTANTIATE(float, bf16, f32_bf16)
INSTANTIATE(float, f16, f32_f16)
#undef INSTANTIATE

#define INSTANTIATE(T, suffix)                                                                            \
  KERNEL unpatchify_##suffix(const T* in, T* out, int c, int f, int y, int x, int pt, int ph, int pw) {   \
    unpatchify<T>(in, out, c, f, y, x, pt, ph, pw);                                                       \
  }                                                                                                       \
  REGISTER(unpatchify_##suffix)
FOR_FLOATS(INSTANTIATE)
#undef INSTANTIATE
