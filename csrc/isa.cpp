#include "csrc/isa.h"

#include <algorithm>

#ifdef __x86_64__
#include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace janus_fast {
namespace {

// Whether the processor has AMX for bytes and bfloat16, and the system lets this process use its registers.
bool amx() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned kBFloat16 = 1u << 22, kTiles = 1u << 24, kInt8 = 1u << 25, kAll = kBFloat16 | kTiles | kInt8;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kAll) != kAll) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;  // Linux 5.16 and newer
#else
  return false;
#endif
}

std::vector<std::string> found() {
  std::vector<std::string> names;
#ifdef __x86_64__
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  const bool bf16 = vnni && __builtin_cpu_supports("avx512bf16");
  if (bf16 && amx()) names.push_back("avx512_bf16_amx");
  if (bf16) names.push_back("avx512_bf16");
  if (vnni) names.push_back("avx512_vnni");
  if (avx512) names.push_back("avx512");
  if (avx2 && __builtin_cpu_supports("avxvnni")) names.push_back("avx2_vnni");
  if (avx2) names.push_back("avx2");
#endif
  names.push_back("generic");
  return names;
}

}  // namespace

const std::vector<std::string>& isas() {
  static const std::vector<std::string> names = found();
  return names;
}

bool runs(const std::string& isa) { return std::find(isas().begin(), isas().end(), isa) != isas().end(); }

}  // namespace janus_fast
