// The device primitives that kernels use beyond plain CUDA C++, in two spellings: PTX under nvcc, and under a host
// compiler the emulator of tests/simt, which runs the same kernels on the CPU.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#define SHARED(T, name, count) __shared__ T name[count]
#define DYNAMIC_SHARED(name) extern __shared__ __align__(128) unsigned char name[]
#else
#include "tests/simt/cuda.h"

#define SHARED(T, name, count)                                               \
  static T name[count]; /* blocks run one at a time, so it is the block's */ \
  [[maybe_unused]] static const bool name##_declared = simt::declare_shared(name, sizeof(name))
#define DYNAMIC_SHARED(name) unsigned char* name = simt::machine.current->block->dynamic_shared
#endif

namespace janus_fast::cuda {

constexpr unsigned kAllLanes = ~0u;
constexpr int kWarp = 32;

__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp() { return static_cast<int>(threadIdx.x) / kWarp; }
__device__ __forceinline__ unsigned lanes_below() { return (1u << lane()) - 1; }

template <typename T>
__device__ __forceinline__ T smaller(T a, T b) {
  return a < b ? a : b;
}
template <typename T>
__device__ __forceinline__ T larger(T a, T b) {
  return a < b ? b : a;
}

template <typename T>
__device__ __forceinline__ float widen(T x);
template <>
__device__ __forceinline__ float widen(float x) {
  return x;
}
template <>
__device__ __forceinline__ float widen(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
template <>
__device__ __forceinline__ float widen(__half x) {
  return __half2float(x);
}

template <typename T>
__device__ __forceinline__ T narrow(float x);
template <>
__device__ __forceinline__ float narrow(float x) {
  return x;
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow(float x) {
  return __float2bfloat16_rn(x);
}

// Two floats as the two halves of a register, the first one low.
template <typename T>
__device__ __forceinline__ uint32_t narrow_pair(float low, float high);
template <>
__device__ __forceinline__ uint32_t narrow_pair<__nv_bfloat16>(float low, float high) {
  const __nv_bfloat16 pair[2] = {__float2bfloat16_rn(low), __float2bfloat16_rn(high)};
  uint32_t bits;
  memcpy(&bits, pair, 4);
  return bits;
}
template <>
__device__ __forceinline__ uint32_t narrow_pair<__half>(float low, float high) {
  const __half pair[2] = {__float2half_rn(low), __float2half_rn(high)};
  uint32_t bits;
  memcpy(&bits, pair, 4);
  return bits;
}

#ifdef __CUDACC__

__device__ __forceinline__ unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

// d [16, 8] += a [16, 16] @ b [16, 8]
template <typename T>
__device__ __forceinline__ void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
#define JANUS_MMA(T, type)                                                                                \
  template <>                                                                                             \
  __device__ __forceinline__ void mma<T>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) { \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." type "." type                                   \
                 ".f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"                                \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                         \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                     \
  }
JANUS_MMA(__nv_bfloat16, "bf16")
JANUS_MMA(__half, "f16")
#undef JANUS_MMA

// Four 8 x 8 matrices of 16-bit elements; the lanes 8j to 8j + 7 give the rows of matrix j.
__device__ __forceinline__ void load_matrices(uint32_t (&fragments)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&fragments)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3},[%4];"
               : "=r"(fragments[0]), "=r"(fragments[1]), "=r"(fragments[2]), "=r"(fragments[3])
               : "r"(shared_address(row))
               : "memory");
}

// 16 bytes from global to shared memory, or zeros; there after wait_copies() and a barrier.
__device__ __forceinline__ void copy_async(void* shared, const void* global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0],[%1],16,%2;" ::"r"(shared_address(shared)), "l"(global),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void wait_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

// Waits for all threads of a cooperative launch; what any of them wrote before, all see behind it.
__device__ __forceinline__ void grid_barrier() { cooperative_groups::this_grid().sync(); }

#else

template <typename T>
void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], int line = __builtin_LINE()) {
  simt::mma<T>(d, a, b, line);
}
inline void load_matrices(uint32_t (&fragments)[4], const void* row, int line = __builtin_LINE()) {
  simt::load_matrices<false>(fragments, row, line);
}
inline void load_matrices_transposed(uint32_t (&fragments)[4], const void* row, int line = __builtin_LINE()) {
  simt::load_matrices<true>(fragments, row, line);
}
inline void copy_async(void* shared, const void* global, bool valid) {
  simt::copy_async(shared, global, 16, valid ? 16 : 0);
}
inline void wait_copies() { simt::wait_copies(); }
inline void grid_barrier(int line = __builtin_LINE()) { simt::grid_barrier(line); }

#endif

}  // namespace janus_fast::cuda
