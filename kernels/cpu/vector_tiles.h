// Products of rows with packed weights, tile by tile, in vectors. A tile of rows times a few panels lies in registers
// while the inputs stream by; each sum has one accumulator that meets the inputs in their order, so that a row's result
// does not depend on the tile.
#pragma once

#include "kernels/cpu/packed_matrix.h"

namespace janus_fast {
namespace JANUS_ISA {

// What one group of inputs adds to a vector of sums, one lane a channel. `weights` reads a vector, `row` repeats the
// row's group in every lane.
template <Numeric type>
struct Product;

template <>
struct Product<Numeric::kFloat32> {
  typedef Vec<float> Sums;
  static constexpr int kRows = JANUS_VECTOR_BYTES == 64 ? 13 : 6;
  JANUS_INLINE static Vec<float> weights(const float* p) { return load(p); }
  JANUS_INLINE static Vec<float> row(const float* p) { return splat(*p); }
  JANUS_INLINE static Vec<float> add(Vec<float> sums, Vec<float> x, Vec<float> w) { return sums + x * w; }
};

JANUS_INLINE IntVec<float> repeat_group(const void* p) {
  int32_t group;
  __builtin_memcpy(&group, p, 4);
  return group - IntVec<float>{};
}
JANUS_INLINE IntVec<float> load_groups(const void* p) {
  IntVec<float> groups;
  __builtin_memcpy(&groups, p, sizeof(groups));
  return groups;
}

template <>
struct Product<Numeric::kBFloat16> {
  typedef Vec<float> Sums;
#ifdef __AVX512BF16__
  static constexpr int kRows = 13;
  JANUS_INLINE static IntVec<float> weights(const BFloat16* p) { return load_groups(p); }
  JANUS_INLINE static IntVec<float> row(const BFloat16* p) { return repeat_group(p); }
  JANUS_INLINE static Vec<float> add(Vec<float> sums, IntVec<float> x, IntVec<float> w) {
    return reinterpret_cast<Vec<float>>(
        _mm512_dpbf16_ps(reinterpret_cast<__m512>(sums), reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(w)));
  }
#else
  static constexpr int kRows = JANUS_VECTOR_BYTES == 64 ? 12 : 4;
  struct Pair {
    Vec<float> first, second;
  };
  JANUS_INLINE static Pair widened(IntVec<float> both) {
    return {reinterpret_cast<Vec<float>>(both << 16), reinterpret_cast<Vec<float>>(both & -0x10000)};
  }
  JANUS_INLINE static Pair weights(const BFloat16* p) { return widened(load_groups(p)); }
  JANUS_INLINE static Pair row(const BFloat16* p) { return widened(repeat_group(p)); }
  JANUS_INLINE static Vec<float> add(Vec<float> sums, Pair x, Pair w) {
    sums += x.first * w.first;
    return sums + x.second * w.second;
  }
#endif
};

template <>
struct Product<Numeric::kInt8> {
  typedef IntVec<float> Sums;
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
  static constexpr int kRows = JANUS_VECTOR_BYTES == 64 ? 11 : 6;  // of 12 or 13 each takes longer
  JANUS_INLINE static IntVec<float> weights(const int8_t* p) { return load_groups(p); }
  JANUS_INLINE static IntVec<float> row(const uint8_t* p) { return repeat_group(p); }
  JANUS_INLINE static IntVec<float> add(IntVec<float> sums, IntVec<float> x, IntVec<float> w) {
#ifdef __AVX512VNNI__
    return reinterpret_cast<IntVec<float>>(_mm512_dpbusd_epi32(
        reinterpret_cast<__m512i>(sums), reinterpret_cast<__m512i>(x), reinterpret_cast<__m512i>(w)));
#else
    return reinterpret_cast<IntVec<float>>(_mm256_dpbusd_avx_epi32(
        reinterpret_cast<__m256i>(sums), reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(w)));
#endif
  }
#else
  // Bytes 0 and 2, and 1 and 3, as 16-bit integers: a product of an unsigned and a signed byte needs all 16.
  typedef typename VectorOf<int16_t, 2 * kLanes<float>>::type Words;
  struct Pair {
    Words even, odd;
  };
  static constexpr int kRows = JANUS_VECTOR_BYTES == 64 ? 12 : 4;
  JANUS_INLINE static Pair weights(const int8_t* p) {
    const Words both = reinterpret_cast<Words>(load_groups(p));
    return {both << 8 >> 8, both >> 8};
  }
  JANUS_INLINE static Pair row(const uint8_t* p) {
    const IntVec<float> both = repeat_group(p);
    return {reinterpret_cast<Words>(both & 0x00ff00ff), reinterpret_cast<Words>(both >> 8 & 0x00ff00ff)};
  }
  // The sums of neighbouring products.
  JANUS_INLINE static IntVec<float> pairs(Words x, Words w) {
#if defined(__x86_64__) && JANUS_VECTOR_BYTES == 64
    return reinterpret_cast<IntVec<float>>(
        _mm512_madd_epi16(reinterpret_cast<__m512i>(x), reinterpret_cast<__m512i>(w)));
#elif defined(__x86_64__) && JANUS_VECTOR_BYTES == 32
    return reinterpret_cast<IntVec<float>>(
        _mm256_madd_epi16(reinterpret_cast<__m256i>(x), reinterpret_cast<__m256i>(w)));
#elif defined(__x86_64__)
    return reinterpret_cast<IntVec<float>>(_mm_madd_epi16(reinterpret_cast<__m128i>(x), reinterpret_cast<__m128i>(w)));
#else
    const auto a = reinterpret_cast<IntVec<float>>(x), b = reinterpret_cast<IntVec<float>>(w);
    return (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16);
#endif
  }
  JANUS_INLINE static IntVec<float> add(IntVec<float> sums, Pair x, Pair w) {
    return sums + pairs(x.even, w.even) + pairs(x.odd, w.odd);
  }
#endif
};

// Weights that are needed soon, fetched while others are multiplied: `lines` cache lines every kStep groups.
struct Ahead {
  static constexpr int64_t kStep = 16, kDistance = 8192, kLine = 64;
  const char* data;
  int64_t lines;
  JANUS_INLINE void fetch() {
    for (int64_t i = 0; i < lines; i++) __builtin_prefetch(data + i * kLine);
    data += lines * kLine;
  }
};

// sums[i][c] = x[i] . channel c, for M rows and the channels of P neighbouring panels.
template <Numeric type, int M, int P>
void multiply_tile(const Element<type>* x, int64_t stride, const Weight<type>* panels, int64_t groups, Ahead ahead,
                   Sum<type>* out, int64_t out_stride) {
  typedef Product<type> Kernel;
  constexpr int kVectors = P * kPanelVectors;
  constexpr int64_t kWeights = kLanes<float> * kGroup<type>;  // of a vector
  typename Kernel::Sums sums[M][kVectors] = {};
  for (int64_t begin = 0; begin < groups; begin += Ahead::kStep) {
    ahead.fetch();
    for (int64_t g = begin; g < smaller(begin + Ahead::kStep, groups); g++) {
      decltype(Kernel::weights(panels)) columns[kVectors];
#pragma GCC unroll 16
      for (int j = 0; j < kVectors; j++)
        columns[j] = Kernel::weights(panels + (j / kPanelVectors * groups + g) * kPanelVectors * kWeights +
                                     j % kPanelVectors * kWeights);
#pragma GCC unroll 16
      for (int i = 0; i < M; i++) {
        const auto row = Kernel::row(x + i * stride + g * kGroup<type>);
#pragma GCC unroll 16
        for (int j = 0; j < kVectors; j++) sums[i][j] = Kernel::add(sums[i][j], row, columns[j]);
      }
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < M; i++)
#pragma GCC unroll 16
    for (int j = 0; j < kVectors; j++)
      __builtin_memcpy(out + i * out_stride + j * kLanes<float>, &sums[i][j], sizeof(sums[i][j]));
}

// Few rows take several panels at once: sums enough to hide the latency of an addition, and more streams of weights.
template <Numeric type>
constexpr int panels_at_once(int rows) {
  int panels = 4;
  while (panels > 1 && rows * panels > Product<type>::kRows) panels /= 2;
  return panels;
}

// The same for a number of rows and panels known at run time; both at most what a tile takes.
template <Numeric type, int M = Product<type>::kRows, int P = panels_at_once<type>(M)>
JANUS_INLINE void multiply_tile_of(int64_t rows, int64_t panel_count, const Element<type>* x, int64_t stride,
                                   const Weight<type>* panels, int64_t groups, Ahead ahead, Sum<type>* out,
                                   int64_t out_stride) {
  if constexpr (M > 0) {
    if (rows < M)
      multiply_tile_of<type, M - 1>(rows, panel_count, x, stride, panels, groups, ahead, out, out_stride);
    else if (panel_count == P)
      multiply_tile<type, M, P>(x, stride, panels, groups, ahead, out, out_stride);
    else if constexpr (P > 1)
      multiply_tile_of<type, M, P / 2>(rows, panel_count, x, stride, panels, groups, ahead, out, out_stride);
  }
}

// Calls finish(row, rows, channel, channels, sums) for tiles that cover the rows and the panels; sums are [rows,
// channels].
template <Numeric type, typename F>
JANUS_INLINE void vector_tiles(const Operand& x, int64_t row_begin, int64_t row_end, const Matrix& weight,
                               int64_t panel_begin, int64_t panel_end, const F& finish) {
  constexpr int64_t kMost = Product<type>::kRows, kBlockBytes = 384 * 1024;
  const int64_t groups = round_up(weight.inputs, kGroup<type>) / kGroup<type>;
  const int64_t panel_size = groups * kGroup<type> * kPanelOutputs, panel_bytes = panel_size * sizeof(Weight<type>);
  const auto* rows_of_x = static_cast<const Element<type>*>(x.data);
  const auto* panels = static_cast<const Weight<type>*>(weight.panels);
  // Tiles of nearly equal height, in blocks whose rows stay in the second-level cache while the panels pass.
  const int64_t count = row_end - row_begin, tiles = (count + kMost - 1) / kMost;
  const int64_t block = larger(kBlockBytes / (kMost * groups * 4), 1);
  const int64_t at_once = tiles == 1 ? panels_at_once<type>(static_cast<int>(count)) : 1;
  alignas(64) Sum<type> sums[kMost * kPanelOutputs];
  for (int64_t first = 0; first < tiles; first += block) {
    const int64_t last = smaller(first + block, tiles);
    for (int64_t panel = panel_begin; panel < panel_end;) {
      int64_t panel_count = at_once;
      while (panel_count > panel_end - panel) panel_count /= 2;
      // While several panels stream at once, the processor itself reads ahead best. A single tile asks for what it will
      // need soon; of several each asks for its share of the next panel.
      const int64_t steps = (groups + Ahead::kStep - 1) / Ahead::kStep * (last - first);
      const int64_t lines = panel_count > 1 ? 0 : (panel_bytes / Ahead::kLine + steps - 1) / steps;
      const int64_t share = lines * steps / (last - first) * Ahead::kLine;
      const char* soon = reinterpret_cast<const char*>(panels + panel * panel_size) +
                         (last - first == 1 ? Ahead::kDistance : panel_bytes);
      for (int64_t tile = first; tile < last; tile++) {
        const int64_t row = row_begin + tile * count / tiles, rows = row_begin + (tile + 1) * count / tiles - row;
        multiply_tile_of<type>(rows, panel_count, rows_of_x + row * x.stride, x.stride, panels + panel * panel_size,
                               groups, {soon + (tile - first) * share, lines}, sums, panel_count * kPanelOutputs);
        finish(row, rows, panel * kPanelOutputs, panel_count * kPanelOutputs, sums);
      }
      panel += panel_count;
    }
  }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
