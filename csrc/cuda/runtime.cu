// What the bindings need of the CUDA runtime, so that they need not include it.
#include "csrc/cuda/launch.h"

#ifdef __CUDACC__
extern "C" const char* janus_fast_cuda_error(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }
#else
extern "C" const char* janus_fast_cuda_error(int) { return simt::last_error().c_str(); }
extern "C" void janus_fast_simt_seed(uint64_t seed) { simt::machine.seed = seed; }
extern "C" void janus_fast_simt_launched(int64_t* threads, int64_t* dynamic_shared) {  // of the last launch
  *threads = static_cast<int64_t>(simt::machine.block.count());
  *dynamic_shared = static_cast<int64_t>(simt::machine.dynamic_shared_bytes);
}
#endif
