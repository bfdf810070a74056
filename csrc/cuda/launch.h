// Launches a kernel: on a stream of the GPU under nvcc, in the emulator of tests/simt under a host compiler.
#pragma once

#include <cstddef>
#include <type_traits>

#include "csrc/cuda/launchers.h"
#include "kernels/cuda/device.h"

namespace janus_fast::cuda {

constexpr size_t kSharedWithoutAsking = 48 << 10;

template <typename Call>
int launch(void (*kernel)(Call), dim3 grid, int threads, size_t shared_bytes, void* stream, const Call& call) {
#ifdef __CUDACC__
  if (shared_bytes > kSharedWithoutAsking) {
    const auto attribute = cudaFuncAttributeMaxDynamicSharedMemorySize;
    const cudaError_t error = cudaFuncSetAttribute(kernel, attribute, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(call);
  return cudaGetLastError();
#else
  (void)stream;
  return simt::launch(grid, threads, shared_bytes, [&] { kernel(call); });
#endif
}

}  // namespace janus_fast::cuda
