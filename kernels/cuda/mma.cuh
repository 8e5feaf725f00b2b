// Tensor-core tiles of 16x8x16 with f32 accumulation, and what feeds them: ldmatrix and asynchronous
// copies to shared memory. Needs compute capability 8.0. On the host the shim does the same by exchange
// between lanes, so that the fragment layouts in the kernels are tested too.
//
// Layouts (PTX ISA, mma.m16n8k16, lane = 4 * g + t):
//   A (row-major 16x16): a[0] = (g, 2t..2t+1), a[1] = (g + 8, 2t..), a[2] = (g, 2t + 8..), a[3] = (g + 8, 2t + 8..)
//   B (column-major 16x8): b[0] = rows 2t..2t+1 of column g, b[1] = rows 2t + 8..2t + 9 of column g
//   C, D (16x8): d[0..1] = (g, 2t..2t+1), d[2..3] = (g + 8, 2t..2t+1)
#pragma once
#include "common.cuh"

// d += a * b for 16-bit elements of type T (bf16 or f16), two in each register, lower column in the lower half.
template <typename T>
DEVICE void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

#ifndef LEOMA_SHIM

template <>
METHOD void mma_16816<bf16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
METHOD void mma_16816<f16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8 (16 bytes).
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row)));
}
// The same with every matrix transposed.
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row)));
}

// Starts a copy of 16 bytes from device to shared memory; zeros instead where `valid` is false (then
// `from` is not read but must be a device address).
DEVICE void copy_async(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `kPending` of the groups committed last are still under way.
template <int kPending>
DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

#else

namespace shim {
template <typename T>
float low(uint32_t pair) {
  return to_float(T{static_cast<uint16_t>(pair)});
}
template <typename T>
float high(uint32_t pair) {
  return to_float(T{static_cast<uint16_t>(pair >> 16)});
}
}  // namespace shim

template <typename T>
DEVICE void mma_16816(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  uint32_t mine[6] = {a[0], a[1], a[2], a[3], b[0], b[1]};
  const unsigned char* all = shim::warp_gather(mine, sizeof(mine));
  float rows[2][16], columns[2][16];  // rows g and g + 8 of A, columns 2t and 2t + 1 of B
  const unsigned g = shim::lane() / 4, t = shim::lane() % 4;
  auto of = [all](unsigned lane, unsigned i) {
    uint32_t x;
    std::memcpy(&x, all + 64 * lane + 4 * i, 4);
    return x;
  };
  for (unsigned q = 0; q < 4; ++q) {
    for (unsigned i = 0; i < 4; ++i) {
      const uint32_t pair = of(4 * g + q, i);
      float* at = &rows[i % 2][2 * q + 8 * (i / 2)];
      at[0] = shim::low<T>(pair);
      at[1] = shim::high<T>(pair);
    }
    for (unsigned c = 0; c < 2; ++c) {
      for (unsigned i = 0; i < 2; ++i) {
        const uint32_t pair = of(4 * (2 * t + c) + q, 4 + i);
        columns[c][2 * q + 8 * i] = shim::low<T>(pair);
        columns[c][2 * q + 8 * i + 1] = shim::high<T>(pair);
      }
    }
  }
  for (unsigned i = 0; i < 4; ++i) {
    float sum = 0.0f;
    for (unsigned k = 0; k < 16; ++k) sum += rows[i / 2][k] * columns[i % 2][k];
    d[i] += sum;
  }
}

namespace shim {
inline void load_matrices(uint32_t (&r)[4], const void* row, bool transposed) {
  const unsigned char* all = warp_gather(&row, sizeof(row));
  const unsigned g = lane() / 4, t = lane() % 4;
  for (unsigned m = 0; m < 4; ++m) {
    uint16_t pair[2];
    for (unsigned j = 0; j < 2; ++j) {
      const unsigned i = transposed ? 2 * t + j : g, column = transposed ? g : 2 * t + j;
      const uint16_t* from;
      std::memcpy(&from, all + 64 * (8 * m + i), sizeof(from));
      pair[j] = from[column];
    }
    r[m] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
  }
}
}  // namespace shim

DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) { shim::load_matrices(r, row, false); }
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { shim::load_matrices(r, row, true); }
DEVICE void copy_async(void* to, const void* from, bool valid) { shim::copy_later(to, valid ? from : nullptr, 16); }
DEVICE void copy_commit() { shim::commit_copies(); }
template <int kPending>
DEVICE void copy_wait() {
  shim::wait_copies(kPending);
}

#endif
