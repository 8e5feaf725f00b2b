// Attention: softmax(q k^T * scale) v per batch element and head, with the softmax taken tile by tile
// (running maximum and sum per query), so that scores are never stored.
//
// q [B, Lq, N, d], k and v [B, Lk, N, d] with strides in elements for batch, token and head (the last
// stride is 1, so views of a fused projection are read in place); out [B, Lq, N, d], contiguous. scale > 0.
// Grid: x = tiles of queries, y = heads, z = batch. Blocks that run together share a head and go through
// its keys at the same pace, so K and V come from the L2 cache for all but one of them.
//
// attention_mma_*: bf16 and f16, d <= D a multiple of 8, addresses and strides of 16 bytes. 4 warps of 32
// queries each. A warp with 32 rows uses every fragment of K and V twice (with 16 rows the reads of shared
// memory alone take as long as the products), and its result and scores, 128 + 64 registers at D = 128,
// just fit the 255 there are. Two blocks of 128 threads then fill the register file, and cover each
// other's softmax, where shared memory lets them in: Q 32 KB + K 16 KB + V 16 KB = 64 KB at 64 keys on
// sm_80 (164 KB) and sm_90 (228 KB), 48 KB at 32 keys on sm_89 (100 KB). Second buffers for K and V would
// cost the second block; instead V is copied while q k^T is computed and the next K while softmax and
// p v are. Tiles are swizzled: chunk c (16 bytes) of row r lies at c ^ (r % 8), so that the eight rows of
// an ldmatrix, and the chunks of a copied row, are in different banks.
//
// The weights p are rounded to T for the second product. The sum that divides the result is that of the
// rounded ones: equal keys (the padding of a prompt) round alike, and the error would not average out.
//
// attention_plain_*: f32, and what the above does not take; any d <= 128. 64 queries x 32 keys per tile,
// products in FMAs; weighted values are summed per tile and the sums added, see SUM_DEPTH in flash.rs.
#include "mma.cuh"

// 2^x; 0 for -inf.
DEVICE float exp2_fast(float x) {
#ifdef LEOMA_SHIM
  return std::exp2(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// Two elements rounded and packed as fragments have them; their rounded values are added to `sum`.
template <typename T>
DEVICE uint32_t pack_weights(float low, float high, float& sum);
#ifdef LEOMA_SHIM
template <typename T>
DEVICE uint32_t pack_weights(float low, float high, float& sum) {
  const T first = from_float<T>(low), second = from_float<T>(high);
  sum += to_float(first);
  sum += to_float(second);
  return first.bits | static_cast<uint32_t>(second.bits) << 16;
}
#else
template <>
METHOD uint32_t pack_weights<bf16>(float low, float high, float& sum) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  sum += __uint_as_float(pair << 16);
  sum += __uint_as_float(pair & 0xffff0000u);
  return pair;
}
template <>
METHOD uint32_t pack_weights<f16>(float low, float high, float& sum) {
  uint32_t pair;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  float first, second;
  asm("{ .reg .f16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h; }"
      : "=f"(first), "=f"(second)
      : "r"(pair));
  sum += first;
  sum += second;
  return pair;
}
#endif

// Hides from the compiler that `x` does not change, so that what is computed from it is not kept in
// registers across the loop.
DEVICE void forget([[maybe_unused]] int& x) {
#ifndef LEOMA_SHIM
  asm volatile("" : "+r"(x));
#endif
}

constexpr int kQueries = 128, kThreads = 128, kWarpRows = 32;

// Where chunk `chunk` (8 elements) of row `row` lies in a tile with rows of D elements.
template <int D>
DEVICE int swizzled(int row, int chunk) {
  return row * D + (chunk ^ (row % 8)) * 8;
}

// Starts copying kRows rows of a tile, zeros beyond `rows` and `d`. `source` is what this thread copies
// first and is moved on to the next tile.
template <typename T, int D, int kRows>
DEVICE void load_tile(T* tile, const T*& source, int64_t stride, int rows, int d) {
  constexpr int kChunks = D / 8, kStep = kThreads / kChunks;
  const int chunk = threadIdx.x % kChunks, first = threadIdx.x / kChunks;
#pragma unroll
  for (int i = 0; i < kRows / kStep; ++i) {
    const int row = first + i * kStep;
    copy_async(tile + swizzled<D>(row, chunk), source, row < rows && chunk * 8 < d);
    source += kStep * stride;
  }
}

template <typename T, int D, int kKeys>
DEVICE void attention_mma(const T* q, const T* k, const T* v, T* out, int queries, int keys, int d,
                          int64_t q_batch, int64_t q_token, int64_t q_head, int64_t k_batch, int64_t k_token,
                          int64_t k_head, int64_t v_batch, int64_t v_token, int64_t v_head, float scale) {
  DYNAMIC_SHARED(T, shared);
  T* q_tile = shared;
  T* k_tile = q_tile + kQueries * D;
  T* v_tile = k_tile + kKeys * D;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 * kWarpRows;
  const int64_t head = blockIdx.y, batch = blockIdx.z, first_query = static_cast<int64_t>(blockIdx.x) * kQueries;
  const int rows = queries - first_query < kQueries ? static_cast<int>(queries - first_query) : kQueries;
  // Row and chunk that this thread copies first.
  const int copied_row = threadIdx.x / (D / 8), copied_column = threadIdx.x % (D / 8) * 8;
  q += batch * q_batch + head * q_head + (first_query + copied_row) * q_token + copied_column;
  k += batch * k_batch + head * k_head + copied_row * k_token + copied_column;
  v += batch * v_batch + head * v_head + copied_row * v_token + copied_column;

  load_tile<T, D, kQueries>(q_tile, q, q_token, rows, d);
  load_tile<T, D, kKeys>(k_tile, k, k_token, keys, d);
  copy_commit();

  // Of the warp's two 16-row fragments: result, and per thread two rows' maximum and part of the sum.
  float o[2][D / 8][4] = {};
  float row_max[2][2] = {{-INFINITY, -INFINITY}, {-INFINITY, -INFINITY}}, row_sum[2][2] = {};
  // exp(x) = 2^(x log2 e)
  const float to_exponent = scale * 1.44269504088896340736f;
  // What this lane reads first of each tile; 16 columns on is an exclusive or with 16.
  int q_at = swizzled<D>(warp_row + lane % 16, lane / 16);
  int k_at = swizzled<D>(lane / 16 * 8 + lane % 8, lane / 8 % 2);
  int v_at = swizzled<D>(lane % 16, lane / 16);

  for (int left = keys; left > 0; left -= kKeys) {
    copy_wait<0>();
    __syncthreads();  // K of this tile (and Q) is here; nobody reads V of the last one any more
    load_tile<T, D, kKeys>(v_tile, v, v_token, left, d);
    copy_commit();

    forget(q_at);
    forget(k_at);
    forget(v_at);
    float s[2][kKeys / 8][4] = {};
#pragma unroll
    for (int step = 0; step < D / 16; ++step) {
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        ldmatrix_x4(a[m], q_tile + (q_at ^ step * 16) + m * 16 * D);
      }
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        uint32_t b[4];
        ldmatrix_x4(b, k_tile + (k_at ^ step * 16) + n * 16 * D);
        const uint32_t left_half[2] = {b[0], b[1]}, right_half[2] = {b[2], b[3]};
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          mma_16816<T>(s[m][2 * n], a[m], left_half);
          mma_16816<T>(s[m][2 * n + 1], a[m], right_half);
        }
      }
    }

    copy_wait<0>();
    __syncthreads();  // V is here; nobody reads K any more
    if (left > kKeys) {
      load_tile<T, D, kKeys>(k_tile, k, k_token, left - kKeys, d);
      copy_commit();
    } else if (left < kKeys) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const bool there = n * 8 + lane % 4 * 2 + i % 2 < left;
#pragma unroll
          for (int m = 0; m < 2; ++m) s[m][n][i] = there ? s[m][n][i] : -INFINITY;
        }
      }
    }

    uint32_t p[2][kKeys / 8][2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {  // rows lane / 4 and lane / 4 + 8
        float top = row_max[m][h];
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) top = fmaxf(top, fmaxf(s[m][n][2 * h], s[m][n][2 * h + 1]));
        top = fmaxf(top, __shfl_xor_sync(kFullWarp, top, 1));
        top = fmaxf(top, __shfl_xor_sync(kFullWarp, top, 2));
        const float shift = top * to_exponent;
        const float correction = exp2_fast(row_max[m][h] * to_exponent - shift);
        row_max[m][h] = top;
        float& sum = row_sum[m][h];
        sum *= correction;
#pragma unroll
        for (int n = 0; n < kKeys / 8; ++n) {
          p[m][n][h] = pack_weights<T>(exp2_fast(s[m][n][2 * h] * to_exponent - shift),
                                       exp2_fast(s[m][n][2 * h + 1] * to_exponent - shift), sum);
        }
#pragma unroll
        for (int n = 0; n < D / 8; ++n) {
          o[m][n][2 * h] *= correction;
          o[m][n][2 * h + 1] *= correction;
        }
      }
    }

#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        a[m][0] = p[m][2 * step][0];
        a[m][1] = p[m][2 * step][1];
        a[m][2] = p[m][2 * step + 1][0];
        a[m][3] = p[m][2 * step + 1][1];
      }
#pragma unroll
      for (int n = 0; n < D / 16; ++n) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, v_tile + (v_at ^ n * 16) + step * 16 * D);
        const uint32_t left_half[2] = {b[0], b[1]}, right_half[2] = {b[2], b[3]};
#pragma unroll
        for (int m = 0; m < 2; ++m) {
          mma_16816<T>(o[m][2 * n], a[m], left_half);
          mma_16816<T>(o[m][2 * n + 1], a[m], right_half);
        }
      }
    }
  }

  // Through the warp's own rows of Q's tile, so that whole rows are written.
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum = row_sum[m][h];
      sum += __shfl_xor_sync(kFullWarp, sum, 1);
      sum += __shfl_xor_sync(kFullWarp, sum, 2);
      const float factor = 1.0f / sum;
      const int row = warp_row + m * 16 + h * 8 + lane / 4;
#pragma unroll
      for (int n = 0; n < D / 8; ++n) {
        T* pair = q_tile + swizzled<D>(row, n) + lane % 4 * 2;
        pair[0] = from_float<T>(o[m][n][2 * h] * factor);
        pair[1] = from_float<T>(o[m][n][2 * h + 1] * factor);
      }
    }
  }
  __syncwarp();
  const int64_t row_stride = static_cast<int64_t>(gridDim.y) * d;
  out += (batch * queries + first_query) * row_stride + head * d;
  constexpr int kChunks = D / 8;
  const int chunk = lane % kChunks;
#pragma unroll
  for (int i = 0; i < kWarpRows * kChunks / 32; ++i) {
    const int row = warp_row + i * (32 / kChunks) + lane / kChunks;
    if (row < rows && chunk * 8 < d) {
      store_pack(out + row * row_stride + chunk * 8, load_pack(q_tile + swizzled<D>(row, chunk)));
    }
  }
}

#define INSTANTIATE(T, suffix, D, keys)                                                                      \
  KERNEL __launch_bounds__(kThreads) attention_mma_d##D##_k##keys##_##suffix(                                \
      const T* q, const T* k, const T* v, T* out, int queries, int key_count, int d, int64_t q_batch,        \
      int64_t q_token, int64_t q_head, int64_t k_batch, int64_t k_token, int64_t k_head, int64_t v_batch,    \
      int64_t v_token, int64_t v_head, float scale) {                                                        \
    attention_mma<T, D, keys>(q, k, v, out, queries, key_count, d, q_batch, q_token, q_head, k_batch,        \
                              k_token, k_head, v_batch, v_token, v_head, scale);                             \
  }                                                                                                          \
  REGISTER(attention_mma_d##D##_k##keys##_##suffix)
// 64 keys in f16 spill on sm_90.
INSTANTIATE(bf16, bf16, 128, 64)
INSTANTIATE(bf16, bf16, 128, 32)
INSTANTIATE(f16, f16, 128, 32)
INSTANTIATE(bf16, bf16, 64, 64)
INSTANTIATE(f16, f16, 64, 64)
#undef INSTANTIATE

// --- plain ---------------------------------------------------------------------------------------

namespace plain {
constexpr int kQueries = 64, kKeys = 32, kThreads = 256, kWidth = 128;
// Distances of rows: 16 bytes more than a multiple of 128, so that eight rows are in different banks.
constexpr int kRow = kWidth + 4, kWeightRow = kKeys + 4;

template <typename T>
DEVICE void load(float* tile, const T* from, int64_t stride, int tile_rows, int rows, int d) {
  for (int i = threadIdx.x; i < tile_rows * kWidth; i += kThreads) {
    const int row = i / kWidth, column = i % kWidth;
    tile[row * kRow + column] = row < rows && column < d ? to_float(from[row * stride + column]) : 0.0f;
  }
}

// Thread (x, y) of 16 x 16: queries 4 y .. 4 y + 3; keys x and x + 16; columns 4 x .. and 64 + 4 x ..
template <typename T>
DEVICE void attend(const T* q, const T* k, const T* v, T* out, int queries, int keys, int d, int64_t q_batch,
                   int64_t q_token, int64_t q_head, int64_t k_batch, int64_t k_token, int64_t k_head,
                   int64_t v_batch, int64_t v_token, int64_t v_head, float scale) {
  DYNAMIC_SHARED(float, shared);
  float* q_tile = shared;
  float* kv_tile = q_tile + kQueries * kRow;
  float* weights = kv_tile + kKeys * kRow;
  const int x = threadIdx.x % 16, y = threadIdx.x / 16;
  const int64_t head = blockIdx.y, batch = blockIdx.z, first_query = static_cast<int64_t>(blockIdx.x) * kQueries;
  const int rows = queries - first_query < kQueries ? static_cast<int>(queries - first_query) : kQueries;
  q += batch * q_batch + head * q_head + first_query * q_token;
  k += batch * k_batch + head * k_head;
  v += batch * v_batch + head * v_head;
  load(q_tile, q, q_token, kQueries, rows, d);

  float o[4][8] = {}, row_max[4], row_sum[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) row_max[i] = -INFINITY;

  for (int left = keys; left > 0; left -= kKeys) {
    load(kv_tile, k, k_token, kKeys, left, d);
    __syncthreads();
    // Every fourth product goes into a sum of its own: short chains round less.
    float sums[4][2][4] = {}, s[4][2];
    for (int e = 0; e < d; e += 4) {
      Pack<float> a[4], b[2];
#pragma unroll
      for (int i = 0; i < 4; ++i) a[i] = load_pack(q_tile + (4 * y + i) * kRow + e);
#pragma unroll
      for (int j = 0; j < 2; ++j) b[j] = load_pack(kv_tile + (x + 16 * j) * kRow + e);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
          for (int c = 0; c < 4; ++c) sums[i][j][c] += a[i].v[c] * b[j].v[c];
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float top = row_max[i];
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float dot = (sums[i][j][0] + sums[i][j][1]) + (sums[i][j][2] + sums[i][j][3]);
        s[i][j] = x + 16 * j < left ? dot * scale : -INFINITY;
        top = fmaxf(top, s[i][j]);
      }
#pragma unroll
      for (int step = 8; step > 0; step /= 2) top = fmaxf(top, __shfl_xor_sync(kFullWarp, top, step));
      const float correction = expf(row_max[i] - top);
      row_max[i] = top;
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float weight = expf(s[i][j] - top);
        weights[(4 * y + i) * kWeightRow + x + 16 * j] = weight;
        sum += weight;
      }
#pragma unroll
      for (int step = 8; step > 0; step /= 2) sum += __shfl_xor_sync(kFullWarp, sum, step);
      row_sum[i] = row_sum[i] * correction + sum;
#pragma unroll
      for (int c = 0; c < 8; ++c) o[i][c] *= correction;
    }
    __syncthreads();  // the weights are there; nobody reads K any more
    load(kv_tile, v, v_token, kKeys, left, d);
    __syncthreads();
    float part[4][8] = {};
    for (int key = 0; key < kKeys; ++key) {
      const Pack<float> b[2] = {load_pack(kv_tile + key * kRow + 4 * x),
                                load_pack(kv_tile + key * kRow + 64 + 4 * x)};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float weight = weights[(4 * y + i) * kWeightRow + key];
#pragma unroll
        for (int c = 0; c < 8; ++c) part[i][c] += weight * b[c / 4].v[c % 4];
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int c = 0; c < 8; ++c) o[i][c] += part[i][c];
    }
    __syncthreads();  // nobody reads V any more
    k += kKeys * k_token;
    v += kKeys * v_token;
  }

  const int64_t row_stride = static_cast<int64_t>(gridDim.y) * d;
  out += (batch * queries + first_query) * row_stride + head * d;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = 4 * y + i;
#pragma unroll
    for (int c = 0; c < 8; ++c) {
      const int column = c / 4 * 64 + 4 * x + c % 4;
      if (row < rows && column < d) out[row * row_stride + column] = from_float<T>(o[i][c] / row_sum[i]);
    }
  }
}
}  // namespace plain

#define INSTANTIATE(T, suffix)                                                                               \
  KERNEL __launch_bounds__(plain::kThreads) attention_plain_##suffix(                                        \
      const T* q, const T* k, const T* v, T* out, int queries, int keys, int d, int64_t q_batch,             \
      int64_t q_token, int64_t q_head, int64_t k_batch, int64_t k_token, int64_t k_head, int64_t v_batch,    \
      int64_t v_token, int64_t v_head, float scale) {                                                        \
    plain::attend<T>(q, k, v, out, queries, keys, d, q_batch, q_token, q_head, k_batch, k_token, k_head,     \
                     v_batch, v_token, v_head, scale);                                                    \
  }                                                                                                          \
  REGISTER(attention_plain_##suffix)
FOR_FLOATS(INSTANTIATE)
#undef INSTANTIATE
