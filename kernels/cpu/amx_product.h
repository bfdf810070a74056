// Products of bfloat16 in AMX. A panel is already what an instruction takes as its right factor, 16 groups of two
// elements by 16 columns, and rows whose elements lie side by side are what it takes as its left one. Two tiles of rows
// times two of columns are under way, which hides an instruction's latency.
#pragma once

#include "kernels/cpu/amx.h"
#include "kernels/cpu/vec.h"

namespace janus_fast {
namespace JANUS_ISA {

// out (+)= A B of 32 rows, or of 16, and 32 columns, or of the first 16, over `blocks` times 16 groups. `a` and `out`
// step in elements from row to row, the panel by kLine bytes from group to group.
template <bool kTwo, int64_t kLine, bool kWide = true>
JANUS_INLINE void product_tiles(const BFloat16* a, int64_t stride, const BFloat16* panel, int64_t blocks, float* out,
                                int64_t out_stride, bool add) {
  const int64_t pitch = stride * static_cast<int64_t>(sizeof(BFloat16));
  const int64_t out_pitch = out_stride * static_cast<int64_t>(sizeof(float));
  float* below = out + kTileHeight * out_stride;
  if (add) {
    _tile_loadd(0, out, out_pitch);
    if constexpr (kWide) _tile_loadd(1, out + 16, out_pitch);
    if constexpr (kTwo) _tile_loadd(2, below, out_pitch);
    if constexpr (kTwo && kWide) _tile_loadd(3, below + 16, out_pitch);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  const char* rows = reinterpret_cast<const char*>(a);
  const char* columns = reinterpret_cast<const char*>(panel);
  for (int64_t block = 0; block < blocks; block++, rows += 64, columns += kTileGroups * kLine) {
    _tile_loadd(4, rows, pitch);
    _tile_loadd(6, columns, kLine);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kWide) {
      _tile_loadd(7, columns + 64, kLine);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (kTwo) {
      _tile_loadd(5, rows + kTileHeight * pitch, pitch);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kWide) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, out, out_pitch);
  if constexpr (kWide) _tile_stored(1, out + 16, out_pitch);
  if constexpr (kTwo) _tile_stored(2, below, out_pitch);
  if constexpr (kTwo && kWide) _tile_stored(3, below + 16, out_pitch);
}

// Rows [rows / 16 * 16] of out (+)= A B for one panel of kVectors vectors, and `blocks` times 16 groups. The caller has
// TileRegisters.
template <int kVectors>
void amx_product(const BFloat16* a, int64_t stride, int64_t rows, const BFloat16* panel, int64_t blocks, float* out,
                 int64_t out_stride, bool add) {
  static_assert(kVectors % 2 == 0);
  __asm__ volatile("" ::: "memory");  // loads of tiles do not say that they read what was stored before
  for (int j = 0; j < kVectors; j += 2) {
    const BFloat16* columns = panel + j * 32;
    int64_t i = 0;
    for (; i + 2 * kTileHeight <= rows; i += 2 * kTileHeight)
      product_tiles<true, kVectors * 64>(a + i * stride, stride, columns, blocks, out + i * out_stride + j * 16,
                                         out_stride, add);
    if (i + kTileHeight <= rows)
      product_tiles<false, kVectors * 64>(a + i * stride, stride, columns, blocks, out + i * out_stride + j * 16,
                                          out_stride, add);
  }
}

typedef VectorOf<uint32_t, 16>::type Words;

// Exchanges one bit of the numbers of rows and lanes.
template <int kBit>
JANUS_INLINE void exchange(Words rows[16]) {
#define JANUS_UPPER(l) ((l) & kBit ? 16 + (l) - kBit : (l))
#define JANUS_LOWER(l) ((l) & kBit ? 16 + (l) : (l) + kBit)
#define JANUS_LANES(of) \
  of(0), of(1), of(2), of(3), of(4), of(5), of(6), of(7), of(8), of(9), of(10), of(11), of(12), of(13), of(14), of(15)
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) {
    if (i & kBit) continue;
    const Words upper = __builtin_shufflevector(rows[i], rows[i + kBit], JANUS_LANES(JANUS_UPPER));
    rows[i + kBit] = __builtin_shufflevector(rows[i], rows[i + kBit], JANUS_LANES(JANUS_LOWER));
    rows[i] = upper;
  }
#undef JANUS_LANES
#undef JANUS_LOWER
#undef JANUS_UPPER
}

// Transposes 16 by 16 words of four bytes, whose lines are so many bytes apart.
inline void transpose_words(const void* from, int64_t pitch, void* to, int64_t to_pitch) {
  Words lines[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) __builtin_memcpy(&lines[i], static_cast<const char*>(from) + i * pitch, sizeof(Words));
  exchange<1>(lines);
  exchange<2>(lines);
  exchange<4>(lines);
  exchange<8>(lines);
#pragma GCC unroll 16
  for (int i = 0; i < 16; i++) __builtin_memcpy(static_cast<char*>(to) + i * to_pitch, &lines[i], sizeof(Words));
}

// [groups, columns] pairs of elements -> [columns, groups]; both numbers are multiples of 16.
inline void transpose_pairs(const BFloat16* from, int64_t groups, int64_t columns, BFloat16* to, int64_t stride) {
  for (int64_t c = 0; c < columns; c += 16)
    for (int64_t g = 0; g < groups; g += 16)
      transpose_words(from + 2 * (g * columns + c), 2 * columns * sizeof(BFloat16), to + c * stride + 2 * g,
                      stride * sizeof(BFloat16));
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
