// Which instruction set runs: the best that the processor has, until Python (JANUS_FAST_ISA) asks for another.
#include "csrc/cpu/isa.h"

#include <atomic>
#include <cstring>
#include <string>
#include <vector>

#include "csrc/amx_permission.h"

namespace janus_fast {
namespace {

std::vector<const Kernels*> available() {
  std::vector<const Kernels*> found;
#ifdef __x86_64__
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma")) {
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16")) {
      if (amx()) found.push_back(&kernels_avx512_bf16_amx);
      found.push_back(&kernels_avx512_bf16);
    }
    found.push_back(&kernels_avx512);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kernels_avx2);
#endif
  found.push_back(&kernels_generic);
  return found;
}

std::atomic<const Kernels*>& current() {
  static std::atomic<const Kernels*> table{available().front()};
  return table;
}

}  // namespace

const Kernels& kernels() { return *current().load(std::memory_order_relaxed); }

}  // namespace janus_fast

extern "C" {

__attribute__((visibility("default"))) const char* janus_fast_isa() { return janus_fast::kernels().isa; }

// The names of those that run here, best first, with a space between.
__attribute__((visibility("default"))) const char* janus_fast_isas() {
  static const std::string names = [] {
    std::string all;
    for (const auto* table : janus_fast::available()) all += (all.empty() ? "" : " ") + std::string(table->isa);
    return all;
  }();
  return names.c_str();
}

// 0, or 1 when this build or this processor has no such instruction set.
__attribute__((visibility("default"))) int janus_fast_set_isa(const char* name) {
  for (const auto* table : janus_fast::available())
    if (!std::strcmp(table->isa, name)) {
      janus_fast::current().store(table, std::memory_order_relaxed);
      return 0;
    }
  return 1;
}
}
