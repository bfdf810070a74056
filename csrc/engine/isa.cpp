// Which instruction sets' kernels the engine can run here.
#include <vector>

#include "csrc/amx_permission.h"
#include "kernels/cpu/engine.h"

namespace janus_fast {
namespace {

std::vector<const EngineKernels*> available() {
  std::vector<const EngineKernels*> found;
#ifdef __x86_64__
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  const bool bf16 = vnni && __builtin_cpu_supports("avx512bf16");
  if (bf16 && amx()) found.push_back(&engine_avx512_bf16_amx);
  if (bf16) found.push_back(&engine_avx512_bf16);
  if (vnni) found.push_back(&engine_avx512_vnni);
  if (avx512) found.push_back(&engine_avx512);
  if (avx2 && __builtin_cpu_supports("avxvnni")) found.push_back(&engine_avx2_vnni);
  if (avx2) found.push_back(&engine_avx2);
#endif
  found.push_back(&engine_generic);
  return found;
}

}  // namespace

const EngineKernels* const* engine_kernels(size_t* count) {
  static const std::vector<const EngineKernels*> all = available();
  *count = all.size();
  return all.data();
}

}  // namespace janus_fast
