// Convolution over channels-last video as a matrix product that gathers its left side on the way (implicit
// GEMM): rows are output pixels (t, i, j), columns output channels, the sum runs over (dt, di, dj, c).
//
//   y[t, i, j, o] = b[o] + residual[t, i, j, o] + sum W[o, dt, di, dj, c] x[t', i', j', c]
//   t' = t*st + dt - front,  i' = i*sh + di - top,  j' = j*sw + dj - left
//
// x [T, H, W, C]; history [given, H, W, C] right before it, zeros before that and beside the frame; with
// `up` = 1 x is read as if doubled in H and W (i' and j' are halved). Nothing is stored but the result:
// history, padding and doubling are resolved by index while 16-byte pieces of channels are copied to shared
// memory.
//
// W [C', taps, C padded with zeros to whole pieces]. With four phases (gridDim.z = 4, phase 2p + q) the
// input is doubled without being read doubled: phase (p, q) makes the pixels (2i + p, 2j + q) of the result
// with weights of its own, one set after the other, and pads 1 - p rows above and 1 - q columns to the left.
//
// A block makes 128 pixels x kColumns channels; steps of 128 bytes of the sum pass through three stages of
// shared memory, filled by asynchronous copies two steps ahead. Rows of 128 bytes are swizzled: piece j of row
// r lies at j ^ (r % 8), so that neither copies nor fragment loads collide in the banks. 16-bit types
// multiply on the tensor cores with f32 sums, f32 with fused multiply-adds. Sums leave through shared memory,
// so that the result is written in whole pieces.
#include "mma.cuh"

namespace conv {

constexpr int kThreads = 256;
constexpr int kRows = 128;    // output pixels of a block
constexpr int kPieces = 8;    // 16-byte pieces of a row in one step
constexpr int kStages = 3;
constexpr int kRowsPerThread = kRows * kPieces / kThreads;

// Blocks that share a multiprocessor: two where the sums leave enough registers.
constexpr int blocks(int columns) { return columns == 128 ? 1 : 2; }

struct Geometry {
  int frames, height, width, channels;        // of x
  int given, front;                           // frames of history, frames wanted in front
  int out_frames, out_height, out_width, out_channels;
  int kernel_t, kernel_h, kernel_w;
  int stride_t, stride_h, stride_w;
  int top, left, up;
  int pieces_per_tap;                         // ceil(channels / elements of a piece)
};

// A position in the sum, in pieces of channels.
struct Place {
  int piece, dt, di, dj;

  METHOD void advance(const Geometry& g, int by) {
    piece += by;
    while (piece >= g.pieces_per_tap) {
      piece -= g.pieces_per_tap;
      if (++dj == g.kernel_w) {
        dj = 0;
        if (++di == g.kernel_h) {
          di = 0;
          ++dt;
        }
      }
    }
  }
};

// Where a row of the product begins in the padded input; t < 0 for rows past the end.
struct Origin {
  int t, i, j;
};

// The first channel under a window's tap; null in the padding.
template <typename T>
DEVICE const T* pixel(const Geometry& g, const T* x, const T* history, const Origin& o, const Place& at) {
  if (o.t < 0 || at.dt >= g.kernel_t) return nullptr;
  const int y = o.i + at.di, z = o.j + at.dj;
  if (y < 0 || z < 0) return nullptr;
  const int line = y >> g.up, column = z >> g.up;
  if (line >= g.height || column >= g.width) return nullptr;
  int frame = o.t + at.dt - g.front;
  const T* base = x;
  if (frame < 0) {
    frame += g.given;
    if (frame < 0) return nullptr;
    base = history;
  }
  return base + ((static_cast<int64_t>(frame) * g.height + line) * g.width + column) * g.channels;
}

// Piece j of row r of a tile.
template <typename T>
DEVICE T* slot(T* tile, int row, int piece) {
  constexpr int kPack = Pack<T>::kSize;
  return tile + (row * kPieces + (piece ^ (row % kPieces))) * kPack;
}

// Copies a piece of at most `count` channels; zeros for the rest and where `from` is null. `some` is any
// device address. Pieces that do not begin at multiples of 16 bytes go element by element.
template <typename T, bool kAligned>
DEVICE void copy_piece(T* to, const T* from, int count, const T* some) {
  constexpr int kPack = Pack<T>::kSize;
  if (kAligned) {
    copy_async(to, from != nullptr ? from : some, from != nullptr);
  } else {
    Pack<T> pack;
#pragma unroll
    for (int e = 0; e < kPack; ++e) pack.v[e] = from != nullptr && e < count ? from[e] : from_float<T>(0.0f);
    store_pack(to, pack);
  }
}

// How the eight warps share a tile of kRows x kColumns.
template <int kColumns>
struct Warps {
  static constexpr int kAcross = kColumns == 128 ? 4 : 2;
  static constexpr int kDown = 8 / kAcross;
  static constexpr int kM = kRows / kDown / 16;          // 16-row fragments of a warp
  static constexpr int kN = kColumns / kAcross / 8;      // 8-column fragments of a warp
};

// Sums of one thread and the product of one step.
template <typename T, int kColumns>
struct Sums {
  using W = Warps<kColumns>;
  static_assert(W::kN % 2 == 0, "fragments of the weights are loaded in pairs");
  float d[W::kM][W::kN][4] = {};

  METHOD void step(T* pixels, T* weights) {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row0 = warp / W::kAcross * (16 * W::kM), column0 = warp % W::kAcross * (8 * W::kN);
#pragma unroll
    for (int k = 0; k < kPieces / 2; ++k) {  // 16 elements are two pieces
      uint32_t a[W::kM][4], b[W::kN][2];
#pragma unroll
      for (int m = 0; m < W::kM; ++m) {
        // Matrices: rows 0-7, rows 8-15, both in the first piece; then the same in the second.
        ldmatrix_x4(a[m], slot(pixels, row0 + 16 * m + lane % 16, 2 * k + lane / 16));
      }
#pragma unroll
      for (int n = 0; n < W::kN; n += 2) {
        // Matrices: channels 0-7 in both pieces, then channels 8-15 in both.
        uint32_t r[4];
        ldmatrix_x4(r, slot(weights, column0 + 8 * n + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2));
        b[n][0] = r[0];
        b[n][1] = r[1];
        b[n + 1][0] = r[2];
        b[n + 1][1] = r[3];
      }
#pragma unroll
      for (int m = 0; m < W::kM; ++m) {
#pragma unroll
        for (int n = 0; n < W::kN; ++n) mma_16816<T>(d[m][n], a[m], b[n]);
      }
    }
  }

  // To `out` [kRows, kColumns + 4].
  METHOD void put(float* out) const {
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int row0 = warp / W::kAcross * (16 * W::kM), column0 = warp % W::kAcross * (8 * W::kN);
#pragma unroll
    for (int m = 0; m < W::kM; ++m) {
#pragma unroll
      for (int n = 0; n < W::kN; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int row = row0 + 16 * m + lane / 4 + e / 2 * 8;
          out[row * (kColumns + 4) + column0 + 8 * n + lane % 4 * 2 + e % 2] = d[m][n][e];
        }
      }
    }
  }
};

template <int kColumns>
struct Sums<float, kColumns> {
  static constexpr int kM = kRows / 16, kN = kColumns / 16;
  float d[kM][kN] = {};

  METHOD void step(float* pixels, float* weights) {
    const int row0 = threadIdx.x / 16, column0 = threadIdx.x % 16;
    for (int piece = 0; piece < kPieces; ++piece) {
      Pack<float> a[kM], b[kN];
#pragma unroll
      for (int m = 0; m < kM; ++m) a[m] = load_pack(slot(pixels, row0 + 16 * m, piece));
#pragma unroll
      for (int n = 0; n < kN; ++n) b[n] = load_pack(slot(weights, column0 + 16 * n, piece));
#pragma unroll
      for (int e = 0; e < 4; ++e) {
#pragma unroll
        for (int m = 0; m < kM; ++m) {
#pragma unroll
          for (int n = 0; n < kN; ++n) d[m][n] = __fmaf_rn(a[m].v[e], b[n].v[e], d[m][n]);
        }
      }
    }
  }

  METHOD void put(float* out) const {
    const int row0 = threadIdx.x / 16, column0 = threadIdx.x % 16;
#pragma unroll
    for (int m = 0; m < kM; ++m) {
#pragma unroll
      for (int n = 0; n < kN; ++n) out[(row0 + 16 * m) * (kColumns + 4) + column0 + 16 * n] = d[m][n];
    }
  }
};

template <typename T, int kColumns, bool kAligned>
DEVICE void run(const T* x, const T* history, const T* weight, const float* bias, const T* residual, T* out,
                Geometry g, int64_t pixels, int pieces) {
  constexpr int kPack = Pack<T>::kSize;
  constexpr int kPixelTile = kRows * kPieces * kPack, kWeightTile = kColumns * kPieces * kPack;
  DYNAMIC_SHARED(T, shared);
  const bool phases = gridDim.z == 4;
  const int p = phases ? blockIdx.z / 2 : 0, q = phases ? blockIdx.z % 2 : 0;
  if (phases) {
    g.top = 1 - p;
    g.left = 1 - q;
    weight += static_cast<int64_t>(blockIdx.z) * g.out_channels * pieces * kPack;
  }
  // Blocks that share pixels follow each other, so that the input stays in the L2 cache.
  const int across = (g.out_channels + kColumns - 1) / kColumns;
  const int64_t pixel0 = static_cast<int64_t>(blockIdx.x / across) * kRows;
  const int channel0 = blockIdx.x % across * kColumns;

  // Each thread copies one piece of each step for some rows.
  const int mine = threadIdx.x % kPieces, row0 = threadIdx.x / kPieces;
  Origin origins[kRowsPerThread];
#pragma unroll
  for (int r = 0; r < kRowsPerThread; ++r) {
    const int64_t m = pixel0 + row0 + r * (kThreads / kPieces);
    const int64_t line = m / g.out_width;
    origins[r].t = m < pixels ? static_cast<int>(line / g.out_height) * g.stride_t : -1;
    origins[r].i = static_cast<int>(line % g.out_height) * g.stride_h - g.top;
    origins[r].j = static_cast<int>(m % g.out_width) * g.stride_w - g.left;
  }
  Place at{0, 0, 0, 0};
  at.advance(g, mine);
  int column = mine;  // the same place in a row of the weights

  auto fill = [&](int stage) {
    T* to = shared + stage * (kPixelTile + kWeightTile);
    const int channel = at.piece * kPack;
#pragma unroll
    for (int r = 0; r < kRowsPerThread; ++r) {
      const T* from = pixel(g, x, history, origins[r], at);
      copy_piece<T, kAligned>(slot(to, row0 + r * (kThreads / kPieces), mine),
                              from != nullptr ? from + channel : nullptr, g.channels - channel, x);
    }
#pragma unroll
    for (int r = row0; r < kColumns; r += kThreads / kPieces) {
      const bool inside = channel0 + r < g.out_channels && column < pieces;
      const T* from = weight + (static_cast<int64_t>(channel0 + r) * pieces + column) * kPack;
      copy_async(slot(to + kPixelTile, r, mine), inside ? from : weight, inside);
    }
    at.advance(g, kPieces);
    column += kPieces;
  };

  Sums<T, kColumns> sums;
  const int steps = (pieces + kPieces - 1) / kPieces;
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < steps) fill(s);
    copy_commit();
  }
  for (int s = 0; s < steps; ++s) {
    copy_wait<kStages - 2>();
    __syncthreads();  // step s is here for all, and all are done with the stage of step s - 1
    if (s + kStages - 1 < steps) fill((s + kStages - 1) % kStages);
    copy_commit();
    T* stage = shared + s % kStages * (kPixelTile + kWeightTile);
    sums.step(stage, stage + kPixelTile);
  }
  copy_wait<0>();
  __syncthreads();

  float* staged = reinterpret_cast<float*>(shared);
  sums.put(staged);
  __syncthreads();
  const bool packed = g.out_channels % kPack == 0;
  const int step = packed ? kPack : 1;
  for (int e = threadIdx.x * step; e < kRows * kColumns; e += kThreads * step) {
    const int row = e / kColumns, channel = channel0 + e % kColumns;
    int64_t m = pixel0 + row;
    if (m >= pixels || channel >= g.out_channels) continue;
    if (phases) {
      // Pixel (t, i, j) of the phase is (t, 2i + p, 2j + q) of the result.
      const int64_t line = m / g.out_width;
      m = (line * 2 + p) * (2 * static_cast<int64_t>(g.out_width)) + 2 * (m % g.out_width) + q;
    }
    const int64_t to = m * g.out_channels + channel;
    const float* sum = staged + row * (kColumns + 4) + e % kColumns;
    if (packed) {
      Pack<T> y, r;
      if (residual != nullptr) r = load_pack(residual + to);
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        float value = sum[k];
        if (bias != nullptr) value += bias[channel + k];
        if (residual != nullptr) value += to_float(r.v[k]);
        y.v[k] = from_float<T>(value);
      }
      store_pack(out + to, y);
    } else {
      float value = *sum;
      if (bias != nullptr) value += bias[channel];
      if (residual != nullptr) value += to_float(residual[to]);
      out[to] = from_float<T>(value);
    }
  }
}

}  // namespace conv

#define INSTANTIATE_ONE(T, suffix, columns, aligned, name)                                                        \
  KERNEL __launch_bounds__(conv::kThreads, conv::blocks(columns)) conv3d_##columns##name##_##suffix(                                                \
      const T* x, const T* history, const T* weight, const float* bias, const T* residual, T* out, int frames,    \
      int height, int width, int channels, int given, int front, int out_frames, int out_height, int out_width,   \
      int out_channels, int kernel_t, int kernel_h, int kernel_w, int stride_t, int stride_h, int stride_w,       \
      int top, int left, int up) {                                                                                \
    const int per_tap = (channels + Pack<T>::kSize - 1) / Pack<T>::kSize;                                         \
    const conv::Geometry g{frames,     height,     width,      channels,     given,    front,    out_frames,      \
                           out_height, out_width,  out_channels, kernel_t,   kernel_h, kernel_w, stride_t,        \
                           stride_h,   stride_w,   top,        left,         up,       per_tap};                  \
    conv::run<T, columns, aligned>(x, history, weight, bias, residual, out, g,                                    \
                                   static_cast<int64_t>(out_frames) * out_height * out_width,                     \
                                   kernel_t * kernel_h * kernel_w * per_tap);                                     \
  }                                                                                                               \
  REGISTER(conv3d_##columns##name##_##suffix)
INSTANTIATE_ONE(float, f32, 32, true, )
INSTANTIATE_ONE(float, f32, 64, true, )
INSTANTIATE_ONE(float, f32, 64, false, _loose)
#define INSTANTIATE(T, suffix)            \
  INSTANTIATE_ONE(T, suffix, 32, true, )  \
  INSTANTIATE_ONE(T, suffix, 64, true, )  \
  INSTANTIATE_ONE(T, suffix, 96, true, )  \
  INSTANTIATE_ONE(T, suffix, 128, true, ) \
  INSTANTIATE_ONE(T, suffix, 96, false, _loose)
INSTANTIATE(bf16, bf16)
INSTANTIATE(f16, f16)
#undef INSTANTIATE
#undef INSTANTIATE_ONE
