// Launches a kernel: on a stream of the GPU under nvcc, in the emulator of tests/simt under a host compiler.
#pragma once

#include <cstddef>
#include <type_traits>

#include "csrc/cuda/launchers.h"
#include "kernels/cuda/device.h"

namespace janus_fast::cuda {

constexpr size_t kSharedWithoutAsking = 48 << 10;

#ifdef __CUDACC__
template <typename Call>
cudaError_t ask_for_shared(void (*kernel)(Call), size_t bytes) {
  if (bytes <= kSharedWithoutAsking) return cudaSuccess;
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}
#endif

template <typename Call>
int launch(void (*kernel)(Call), dim3 grid, int threads, size_t shared_bytes, void* stream, const Call& call) {
#ifdef __CUDACC__
  if (const cudaError_t error = ask_for_shared(kernel, shared_bytes)) return error;
  kernel<<<grid, threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(call);
  return cudaGetLastError();
#else
  (void)stream;
  return simt::launch(grid, threads, shared_bytes, [&] { kernel(call); });
#endif
}

// Of a kernel whose blocks wait for each other, which all run at once; 0: as many as there are multiprocessors.
template <typename Call>
int launch_together(void (*kernel)(Call), int blocks, int threads, size_t shared_bytes, void* stream,
                    const Call& call) {
#ifdef __CUDACC__
  int device = 0;
  if (const cudaError_t error = cudaGetDevice(&device)) return error;
  if (blocks == 0)
    if (const cudaError_t error = cudaDeviceGetAttribute(&blocks, cudaDevAttrMultiProcessorCount, device)) return error;
  if (const cudaError_t error = ask_for_shared(kernel, shared_bytes)) return error;
  void* arguments[] = {const_cast<Call*>(&call)};
  return cudaLaunchCooperativeKernel(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
                                     arguments, shared_bytes, static_cast<cudaStream_t>(stream));
#else
  (void)stream;
  const auto grid = static_cast<unsigned>(blocks ? blocks : simt::kMultiprocessors);
  return simt::launch(grid, static_cast<unsigned>(threads), shared_bytes, [&] { kernel(call); }, true);
#endif
}

}  // namespace janus_fast::cuda
