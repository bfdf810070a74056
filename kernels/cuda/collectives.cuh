// Sums and maxima over the threads of a warp or of a block. Every thread of it must call them.
#pragma once

#include "kernels/cuda/device.h"

namespace janus_fast::cuda {

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
  for (int bits = kWarp / 2; bits > 0; bits /= 2) x += __shfl_xor_sync(kAllLanes, x, bits);
  return x;
}

__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
  for (int bits = kWarp / 2; bits > 0; bits /= 2) {
    const float other = __shfl_xor_sync(kAllLanes, x, bits);
    x = x < other ? other : x;
  }
  return x;
}

// The sum over the threads before this one, and over all.
struct Scan {
  int before, total;
};
__device__ __forceinline__ Scan block_scan(int x) {
  SHARED(int, warp_totals, kWarp);
  int inclusive = x;
#pragma unroll
  for (int by = 1; by < kWarp; by *= 2) {
    const int left = __shfl_up_sync(kAllLanes, inclusive, by);
    if (lane() >= by) inclusive += left;
  }
  if (lane() == kWarp - 1) warp_totals[warp()] = inclusive;
  __syncthreads();
  Scan scan = {inclusive - x, 0};
  for (int w = 0; w < static_cast<int>(blockDim.x) / kWarp; w++) {
    if (w < warp()) scan.before += warp_totals[w];
    scan.total += warp_totals[w];
  }
  __syncthreads();  // the next call writes warp_totals
  return scan;
}

// Maps floats to integers of the same order: -0 equals 0, and NaN becomes `nan`.
__device__ __forceinline__ uint32_t ordered(float x, uint32_t nan) {
  if (x != x) return nan;
  const auto bits = static_cast<uint32_t>(__float_as_int(x == 0.0f ? 0.0f : x));
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
constexpr uint32_t kOrderedLowest = 0x007fffffu;   // minus infinity
constexpr uint32_t kOrderedHighest = 0xff800000u;  // plus infinity

}  // namespace janus_fast::cuda
