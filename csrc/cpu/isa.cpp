// Which instruction set runs: the best that the processor has, until Python (JANUS_FAST_ISA) asks for another.
#include "csrc/cpu/isa.h"

#include <algorithm>
#include <atomic>

#include "csrc/isa.h"

namespace janus_fast {
namespace {

const std::vector<const Kernels*>& available() {
  static const std::vector<const Kernels*> tables = runnable<Kernels>({
#ifdef __x86_64__
      &kernels_avx512_bf16_amx, &kernels_avx512_bf16, &kernels_avx512, &kernels_avx2,
#endif
      &kernels_generic});
  return tables;
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
  static const std::string names = janus_fast::names_of(janus_fast::available(), " ");
  return names.c_str();
}

// 0, or 1 when this processor has no such instruction set. Of one that only the engine has kernels for, the next is
// taken that has some here.
__attribute__((visibility("default"))) int janus_fast_set_isa(const char* name) {
  const auto& isas = janus_fast::isas();
  for (auto isa = std::find(isas.begin(), isas.end(), name); isa != isas.end(); ++isa)
    if (const auto* table = janus_fast::find_table(janus_fast::available(), *isa)) {
      janus_fast::current().store(table, std::memory_order_relaxed);
      return 0;
    }
  return 1;
}
}
