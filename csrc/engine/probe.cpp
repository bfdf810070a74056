// What the machine can do at most: multiply-adds a second of each type, and bytes read a second from so large a set of
// weights. Benchmarks compare decodes with it.
#include <pybind11/pybind11.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>
#ifdef __x86_64__
#include <immintrin.h>
#endif

#include "csrc/engine/gil.h"
#include "csrc/engine/team.h"
#include "csrc/isa.h"

namespace janus_fast {
namespace {

typedef float Floats16 __attribute__((vector_size(16)));
typedef float Floats32 __attribute__((vector_size(32)));
typedef float Floats64 __attribute__((vector_size(64)));
typedef int Ints32 __attribute__((vector_size(32)));
typedef int Ints64 __attribute__((vector_size(64)));
typedef uint64_t Words __attribute__((vector_size(64)));

volatile char sink;  // where results go that nobody wants, so that they are computed

template <typename V>
void consume(const V& value) {
  char first;
  std::memcpy(&first, &value, 1);
  sink = first;
}

constexpr int64_t kSteps = 1 << 15;

// A function that does kSteps multiply-adds in each of CHAINS chains, in which every step needs the one before it, and
// returns how many operations these were. So many chains hide the latency of a step and still fit the registers. They
// begin differently, or the compiler would make them one.
#define JANUS_PEAK(NAME, TARGET, CHAINS, VECTOR, OPERATIONS, STEP)  \
  TARGET double NAME() {                                            \
    VECTOR sums[CHAINS] = {};                                       \
    for (int c = 0; c < CHAINS; ++c) sums[c][0] = c;                \
    for (int64_t i = 0; i < kSteps; ++i) {                          \
      _Pragma("GCC unroll 16") for (VECTOR& sum : sums) sum = STEP; \
    }                                                               \
    for (const VECTOR& sum : sums) consume(sum);                    \
    return double(kSteps) * CHAINS * OPERATIONS;                    \
  }

// A cache line of each of four streams at a time.
#define JANUS_READ(NAME, TARGET)                                      \
  TARGET void NAME(const Words* data, int64_t lines) {                \
    Words sums[4] = {};                                               \
    const int64_t quarter = lines / 4;                                \
    for (int64_t i = 0; i < quarter; ++i)                             \
      for (int s = 0; s < 4; ++s) sums[s] ^= data[s * quarter + i];   \
    for (int64_t i = 4 * quarter; i < lines; ++i) sums[0] ^= data[i]; \
    consume((sums[0] ^ sums[1]) ^ (sums[2] ^ sums[3]));               \
  }

JANUS_PEAK(generic_float32, , 12, Floats16, 8, sum * 0.999f + 0.001f)
JANUS_READ(generic_read, )
#ifdef __x86_64__
#define JANUS_AVX2 __attribute__((target("avx2,fma")))
#define JANUS_AVX2_VNNI __attribute__((target("avx2,fma,avxvnni")))
#define JANUS_AVX512 __attribute__((target("avx512f,avx512bw")))
#define JANUS_AVX512_VNNI __attribute__((target("avx512f,avx512bw,avx512vnni")))
#define JANUS_AVX512_BF16 __attribute__((target("avx512f,avx512bw,avx512bf16")))

JANUS_PEAK(avx2_float32, JANUS_AVX2, 12, Floats32, 16, sum * 0.999f + 0.001f)
JANUS_PEAK(avx512_float32, JANUS_AVX512, 16, Floats64, 32, sum * 0.999f + 0.001f)
JANUS_PEAK(avx512_bfloat16, JANUS_AVX512_BF16, 16, Floats64, 64,
           (Floats64)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi16(0x3f80),
                                      (__m512bh)_mm512_set1_epi16(0x3f80)))
JANUS_PEAK(avx2_int8, JANUS_AVX2, 12, Ints32, 64,
           sum +
               (Ints32)_mm256_madd_epi16(_mm256_maddubs_epi16((__m256i)sum, _mm256_set1_epi8(3)), _mm256_set1_epi16(1)))
JANUS_PEAK(avx2_vnni_int8, JANUS_AVX2_VNNI, 12, Ints32, 64,
           (Ints32)_mm256_dpbusd_avx_epi32((__m256i)sum, _mm256_set1_epi8(3), _mm256_set1_epi8(5)))
JANUS_PEAK(avx512_vnni_int8, JANUS_AVX512_VNNI, 16, Ints64, 128,
           (Ints64)_mm512_dpbusd_epi32((__m512i)sum, _mm512_set1_epi8(3), _mm512_set1_epi8(5)))
// Four tiles of sums; two of rows and two of weights, all zero.
#define JANUS_AMX_PEAK(NAME, TYPE, STEP)                                                     \
  __attribute__((target("amx-tile," TYPE))) double NAME() {                                  \
    alignas(64) uint8_t shapes[64] = {1};                                                    \
    for (int tile = 0; tile < 8; ++tile) shapes[16 + 2 * tile] = 64, shapes[48 + tile] = 16; \
    __asm__ volatile("" ::"r"(shapes) : "memory");                                           \
    _tile_loadconfig(shapes);                                                                \
    for (int64_t i = 0; i < kSteps / 16; ++i) {                                              \
      STEP(0, 4, 6);                                                                         \
      STEP(1, 4, 7);                                                                         \
      STEP(2, 5, 6);                                                                         \
      STEP(3, 5, 7);                                                                         \
    }                                                                                        \
    _tile_release();                                                                         \
    return double(kSteps / 16) * 4 * 2 * 16 * 16 * (64 / (TYPE[4] == 'i' ? 1 : 2));          \
  }
JANUS_AMX_PEAK(amx_int8, "amx-int8", _tile_dpbusd)
JANUS_AMX_PEAK(amx_bfloat16, "amx-bf16", _tile_dpbf16ps)
JANUS_READ(avx2_read, JANUS_AVX2)
JANUS_READ(avx512_read, JANUS_AVX512)
#endif

struct Peak {
  const char *isa, *type;
  double (*run)();
};
// Best first. A type without instructions of its own is computed in the next larger one.
const Peak kPeaks[] = {
#ifdef __x86_64__
    {"avx512_bf16_amx", "int8", amx_int8},        {"avx512_bf16_amx", "bfloat16", amx_bfloat16},
    {"avx512_bf16", "bfloat16", avx512_bfloat16}, {"avx512_vnni", "int8", avx512_vnni_int8},
    {"avx2_vnni", "int8", avx2_vnni_int8},        {"avx2", "int8", avx2_int8},
    {"avx512", "float32", avx512_float32},        {"avx2", "float32", avx2_float32},
#endif
    {"generic", "float32", generic_float32},
};

double (*peak_of(const std::string& type))() {
  if (type != "float32" && type != "bfloat16" && type != "int8")
    throw std::invalid_argument("peak: type must be float32, bfloat16 or int8, got " + type);
  for (const Peak& peak : kPeaks)
    if (runs(peak.isa) && (type == peak.type || std::string("float32") == peak.type)) return peak.run;
  std::abort();  // every processor runs the generic one
}

void (*best_read())(const Words*, int64_t) {
#ifdef __x86_64__
  if (runs("avx512")) return avx512_read;
  if (runs("avx2")) return avx2_read;
#endif
  return generic_read;
}

// The most that `threads` threads together do a second, of several tries; work(thread) returns the amount it did.
double rate(const char* argument, int threads, const std::function<double(int)>& work) {
  using Clock = std::chrono::steady_clock;
  constexpr std::chrono::milliseconds kTry(20);
  double best = 0;
  for (int repeat = 0; repeat < 6; ++repeat) {
    Team team(threads, argument);  // a new one wakes all its threads at once
    std::vector<double> rates(threads);
    std::atomic<int> ready{0};
    auto run = [&](int64_t thread) {
      ready.fetch_add(1);
      while (ready.load() < threads) std::this_thread::yield();
      const auto began = Clock::now();
      Clock::duration elapsed;
      double amount = 0;
      do {
        amount += work(thread);
        elapsed = Clock::now() - began;
      } while (elapsed < kTry);
      rates[thread] = amount / std::chrono::duration<double>(elapsed).count();
    };
    team.share(threads, [&](int64_t thread, int64_t) { run(thread); });
    double sum = 0;
    for (double one : rates) sum += one;
    best = std::max(best, sum);
  }
  return best;
}

double peak(const std::string& type, int threads) {
  require_threads("peak: threads", threads);
  auto run = peak_of(type);
  return rate("peak: threads", threads, [&](int) { return run(); });
}

double read_bandwidth(int64_t bytes, int threads) {
  require_threads("read_bandwidth: threads", threads);
  const int64_t lines = bytes / int64_t(sizeof(Words)) / threads;  // of each thread
  if (lines < 1)
    throw std::invalid_argument("read_bandwidth: bytes must be at least a cache line a thread, got " +
                                std::to_string(bytes));
  constexpr size_t kHuge = 2 << 20;
  const size_t size = (size_t(lines) * threads * sizeof(Words) + kHuge - 1) / kHuge * kHuge;
  std::unique_ptr<void, void (*)(void*)> memory(std::aligned_alloc(kHuge, size), std::free);
  if (!memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(memory.get(), size, MADV_HUGEPAGE);  // a limit, so at its best; refusal is no error
#endif
  std::memset(memory.get(), 1, size);
  auto read = best_read();
  return rate("read_bandwidth: threads", threads, [&](int thread) {
    read(static_cast<const Words*>(memory.get()) + thread * lines, lines);
    return double(lines) * sizeof(Words);
  });
}

}  // namespace

void bind_probe(pybind11::module_& m) {
  namespace py = pybind11;
  m.def("peak", &peak, py::arg("type"), py::arg("threads"), py::call_guard<WithoutGil>(),
        "Operations a second (two a multiply-add) that `threads` threads do at most in \"float32\", \"bfloat16\" or "
        "\"int8\".");
  m.def("read_bandwidth", &read_bandwidth, py::arg("bytes"), py::arg("threads"), py::call_guard<WithoutGil>(),
        "Bytes a second at which `threads` threads read their parts of so many bytes again and again, at most.");
}

}  // namespace janus_fast
