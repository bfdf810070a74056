// The names of CUDA C++ that kernels use, on top of simt.h: qualifiers, built-in variables, warp intrinsics, 16-bit
// floats, and the tensor core's building blocks after the PTX ISA.
#pragma once

#include <cmath>
#include <cstddef>

#include "simt.h"

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define threadIdx (simt::machine.current->thread_index)
#define blockIdx (simt::machine.current->block->index)
#define blockDim (simt::machine.block)
#define gridDim (simt::machine.grid)

using cudaStream_t = void*;

struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};

// ---------------------------------------------------------------------------------------------------------- intrinsics

#define SIMT_LINE int line = __builtin_LINE()

inline void __syncthreads(SIMT_LINE) { simt::barrier(line); }
inline void __syncwarp(unsigned mask = ~0u, SIMT_LINE) {
  char none = 0;
  simt::collective<true>(mask, "__syncwarp", line, none, [](char**, unsigned) {});
}
template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_LINE) {
  return simt::shuffle(mask, value, width, "__shfl_sync", line, [=](int) { return source & (width - 1); });
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, SIMT_LINE) {
  return simt::shuffle(mask, value, width, "__shfl_xor_sync", line, [=](int lane) { return lane ^ bits; });
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, SIMT_LINE) {
  return simt::shuffle(mask, value, width, "__shfl_up_sync", line,
                       [=](int lane) { return lane - static_cast<int>(by); });
}
inline unsigned __ballot_sync(unsigned mask, bool predicate, SIMT_LINE) {
  return simt::ballot(mask, predicate, "__ballot_sync", line);
}
inline bool __any_sync(unsigned mask, bool predicate, SIMT_LINE) {
  return simt::ballot(mask, predicate, "__any_sync", line) != 0;
}
inline unsigned __reduce_add_sync(unsigned mask, unsigned value, SIMT_LINE) {
  return simt::reduce(mask, value, "__reduce_add_sync", line, [](unsigned a, unsigned b) { return a + b; });
}
inline int __reduce_min_sync(unsigned mask, int value, SIMT_LINE) {
  return simt::reduce(mask, value, "__reduce_min_sync", line, [](int a, int b) { return std::min(a, b); });
}
inline unsigned __reduce_max_sync(unsigned mask, unsigned value, SIMT_LINE) {
  return simt::reduce(mask, value, "__reduce_max_sync", line, [](unsigned a, unsigned b) { return std::max(a, b); });
}
inline int __reduce_max_sync(unsigned mask, int value, SIMT_LINE) {
  return simt::reduce(mask, value, "__reduce_max_sync", line, [](int a, int b) { return std::max(a, b); });
}
#undef SIMT_LINE

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __float_as_int(float x) {
  int bits;
  std::memcpy(&bits, &x, 4);
  return bits;
}
inline float __int_as_float(int bits) {
  float x;
  std::memcpy(&x, &bits, 4);
  return x;
}
template <typename T>
T atomicSub(T* address, T value) {
  simt::maybe_preempt();
  simt::Quiet quiet;
  const T old = *address;
  *address = old - value;
  return old;
}

// -------------------------------------------------------------------------------------------------------- 16-bit
// floats

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 x) { return __int_as_float(static_cast<int>(uint32_t{x.bits} << 16)); }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {  // to nearest, ties to even
  const auto bits = static_cast<uint32_t>(__float_as_int(x));
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}
inline float __half2float(__half x) {
  _Float16 value;
  std::memcpy(&value, &x, 2);
  return static_cast<float>(value);
}
inline __half __float2half_rn(float x) {
  const auto value = static_cast<_Float16>(x);
  __half result;
  std::memcpy(&result, &value, 2);
  return result;
}

// ---------------------------------------------------------------------------------------------------------- tensor
// core

namespace simt {

inline float widen(__nv_bfloat16 x) { return __bfloat162float(x); }
inline float widen(__half x) { return __half2float(x); }

// mma.sync.m16n8k16.row.col with float32 sums. In its fragments lane = 4 * group + place.
template <typename T>
void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE()) {
  struct Argument {
    const uint32_t *a, *b;
    float* d;
  } argument = {a, b, d};
  collective(~0u, "mma", line, argument, [](Argument** lanes, unsigned live) {
    if (live != ~0u) fail("mma.sync needs all 32 lanes");
    static float left[16][16], right[16][8];
    T pair[2];
    for (int lane = 0; lane < 32; lane++) {
      const int group = lane / 4, place = lane % 4;
      for (int r = 0; r < 4; r++) {
        std::memcpy(pair, &lanes[lane]->a[r], 4);
        for (int e = 0; e < 2; e++) left[group + r % 2 * 8][2 * place + e + r / 2 * 8] = widen(pair[e]);
      }
      for (int r = 0; r < 2; r++) {
        std::memcpy(pair, &lanes[lane]->b[r], 4);
        for (int e = 0; e < 2; e++) right[2 * place + e + r * 8][group] = widen(pair[e]);
      }
    }
    for (int lane = 0; lane < 32; lane++)
      for (int c = 0; c < 4; c++) {
        float sum = lanes[lane]->d[c];
        for (int k = 0; k < 16; k++) sum += left[lane / 4 + c / 2 * 8][k] * right[k][2 * (lane % 4) + c % 2];
        lanes[lane]->d[c] = sum;
      }
  });
}

// ldmatrix.m8n8.x4[.trans].b16: the lanes 8j to 8j + 7 hold the addresses of the rows of matrix j.
template <bool Transposed>
void load_matrices(uint32_t (&fragments)[4], const void* row, int line = __builtin_LINE()) {
#ifdef __SANITIZE_THREAD__
  __tsan_read16(const_cast<void*>(row));
#endif
  struct Argument {
    const char* row;
    uint32_t* fragments;
  } argument = {static_cast<const char*>(row), fragments};
  collective(~0u, "ldmatrix", line, argument, [](Argument** lanes, unsigned live) {
    if (live != ~0u) fail("ldmatrix needs all 32 lanes");
    for (int j = 0; j < 4; j++) {
      uint16_t matrix[8][8];
      for (int i = 0; i < 8; i++) {
        const char* address = lanes[8 * j + i]->row;
        if (reinterpret_cast<uintptr_t>(address) % 16) fail("ldmatrix: misaligned row");
        std::memcpy(matrix[i], address, 16);
      }
      for (int lane = 0; lane < 32; lane++) {
        const int group = lane / 4, place = 2 * (lane % 4);
        const uint32_t low = Transposed ? matrix[place][group] : matrix[group][place];
        const uint32_t high = Transposed ? matrix[place + 1][group] : matrix[group][place + 1];
        lanes[lane]->fragments[j] = low | high << 16;
      }
    }
  });
}

}  // namespace simt
