// The same products in AMX. A panel is already what an instruction takes as its right factor, 16 groups of inputs by 16
// channels, and rows are what it takes as its left one. Four tiles of sums are under way, which hides an instruction's
// latency: two tiles of rows times the two halves of a panel or, where one tile of rows is left, one times two panels.
// Tiles are of one height; the last begins within the one before where the rows are no multiple of it. Groups behind
// the last 16 are added by vectors.
#pragma once

#include "kernels/cpu/amx.h"
#include "kernels/cpu/vector_tiles.h"

namespace janus_fast {
namespace JANUS_ISA {

static_assert(kPanelVectors == 2 && sizeof(Vec<float>) == 64);

#define JANUS_TILE_ADD(sums, rows, weights) \
  do {                                      \
    if constexpr (type == Numeric::kInt8)   \
      _tile_dpbusd(sums, rows, weights);    \
    else                                    \
      _tile_dpbf16ps(sums, rows, weights);  \
  } while (false)

// Sums of two tiles of rows, the second `down` rows behind the first, with a panel: [down + 16, 32].
template <Numeric type>
void amx_tall(const Element<type>* x, int64_t stride, int64_t down, const Weight<type>* panel, int64_t blocks,
              Sum<type>* sums) {
  constexpr int64_t kLine = kPanelOutputs * 4;  // bytes of a group of a panel
  const char* rows = reinterpret_cast<const char*>(x);
  const char* weights = reinterpret_cast<const char*>(panel);
  const int64_t pitch = stride * static_cast<int64_t>(sizeof(Element<type>));
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t block = 0; block < blocks; block++, rows += 64, weights += kTileGroups * kLine) {
    _tile_loadd(6, weights, kLine);
    _tile_loadd(4, rows, pitch);
    JANUS_TILE_ADD(0, 4, 6);
    _tile_loadd(7, weights + 64, kLine);
    JANUS_TILE_ADD(1, 4, 7);
    _tile_loadd(5, rows + down * pitch, pitch);
    JANUS_TILE_ADD(2, 5, 6);
    JANUS_TILE_ADD(3, 5, 7);
  }
  _tile_stored(0, sums, kLine);
  _tile_stored(1, sums + kTileLanes, kLine);
  _tile_stored(2, sums + down * kPanelOutputs, kLine);
  _tile_stored(3, sums + down * kPanelOutputs + kTileLanes, kLine);
}

// Sums of one tile of rows with `panel_count` panels, one or two: [height, channels].
template <Numeric type>
void amx_wide(const Element<type>* x, int64_t stride, const Weight<type>* panel, int64_t panel_size,
              int64_t panel_count, int64_t blocks, Sum<type>* sums) {
  constexpr int64_t kLine = kPanelOutputs * 4;
  const char* rows = reinterpret_cast<const char*>(x);
  const char* weights = reinterpret_cast<const char*>(panel);
  const int64_t pitch = stride * static_cast<int64_t>(sizeof(Element<type>));
  const int64_t next = panel_size * static_cast<int64_t>(sizeof(Weight<type>));
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t block = 0; block < blocks; block++, rows += 64, weights += kTileGroups * kLine) {
    _tile_loadd(4, rows, pitch);
    _tile_loadd(5, weights, kLine);
    JANUS_TILE_ADD(0, 4, 5);
    _tile_loadd(6, weights + 64, kLine);
    JANUS_TILE_ADD(1, 4, 6);
    if (panel_count == 1) continue;
    _tile_loadd(7, weights + next, kLine);
    JANUS_TILE_ADD(2, 4, 7);
    _tile_loadd(5, weights + next + 64, kLine);
    JANUS_TILE_ADD(3, 4, 5);
  }
  _tile_stored(0, sums, panel_count * kLine);
  _tile_stored(1, sums + kTileLanes, panel_count * kLine);
  if (panel_count == 1) return;
  _tile_stored(2, sums + 2 * kTileLanes, 2 * kLine);
  _tile_stored(3, sums + 3 * kTileLanes, 2 * kLine);
}
#undef JANUS_TILE_ADD

// Adds what the groups from `begin` on give.
template <Numeric type>
void amx_rest(const Element<type>* x, int64_t stride, int64_t rows, const Weight<type>* panels, int64_t panel_count,
              int64_t begin, int64_t groups, Sum<type>* sums) {
  typedef Product<type> Kernel;
  constexpr int64_t kWeights = kTileLanes * kGroup<type>;
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < panel_count * kPanelVectors; j++) {
      typename Kernel::Sums sum;
      Sum<type>* at = sums + (i * panel_count * kPanelVectors + j) * kTileLanes;
      __builtin_memcpy(&sum, at, sizeof(sum));
      for (int64_t g = begin; g < groups; g++)
        sum = Kernel::add(sum, Kernel::row(x + i * stride + g * kGroup<type>),
                          Kernel::weights(panels + (j / kPanelVectors * groups + g) * kPanelVectors * kWeights +
                                          j % kPanelVectors * kWeights));
      __builtin_memcpy(at, &sum, sizeof(sum));
    }
}

// Vectors read weights a little faster while rows are few. In bfloat16 sums would round otherwise then, and a row's
// result depend on how many others there are.
template <Numeric type>
constexpr bool amx_takes(int64_t rows) {
  return type == Numeric::kBFloat16 || (type == Numeric::kInt8 && rows >= 12);
}

// As vector_tiles. Two tiles of rows stay in the first-level cache while some panels pass, which stay in the second.
template <Numeric type, typename F>
JANUS_INLINE void amx_tiles(const Operand& x, int64_t row_begin, int64_t row_end, const Matrix& weight,
                            int64_t panel_begin, int64_t panel_end, const F& finish) {
  if (row_begin == row_end) return;  // there are no tiles of no height
  constexpr int64_t kPassingBytes = 512 * 1024;
  const int64_t groups = round_up(weight.inputs, kGroup<type>) / kGroup<type>, blocks = groups / kTileGroups;
  const int64_t panel_size = groups * kGroup<type> * kPanelOutputs, rest = blocks * kTileGroups;
  const int64_t passing = larger(kPassingBytes / (panel_size * static_cast<int64_t>(sizeof(Weight<type>))) / 2, 1) * 2;
  const int64_t height = smaller(row_end - row_begin, kTileHeight);
  const auto* rows = static_cast<const Element<type>*>(x.data);
  const auto* panels = static_cast<const Weight<type>*>(weight.panels);
  const TileRegisters registers(height);
  alignas(64) Sum<type> sums[2 * kTileHeight * kPanelOutputs];
  for (int64_t first = panel_begin; first < panel_end; first += passing) {
    const int64_t last = smaller(first + passing, panel_end);
    int64_t row = row_begin;
    for (; row + kTileHeight < row_end; row += 2 * kTileHeight) {
      const int64_t down = smaller(row + kTileHeight, row_end - kTileHeight) - row;
      for (int64_t panel = first; panel < last; panel++) {
        const auto* w = panels + panel * panel_size;
        amx_tall<type>(rows + row * x.stride, x.stride, down, w, blocks, sums);
        if (rest < groups)
          amx_rest<type>(rows + row * x.stride, x.stride, down + kTileHeight, w, 1, rest, groups, sums);
        finish(row, down + kTileHeight, panel * kPanelOutputs, kPanelOutputs, sums);
      }
    }
    if (row >= row_end) continue;
    const int64_t start = row_end - height;
    for (int64_t panel = first; panel < last; panel += 2) {
      const int64_t count = smaller(last - panel, 2);
      const auto* w = panels + panel * panel_size;
      amx_wide<type>(rows + start * x.stride, x.stride, w, panel_size, count, blocks, sums);
      if (rest < groups) amx_rest<type>(rows + start * x.stride, x.stride, height, w, count, rest, groups, sums);
      finish(row, row_end - row, panel * kPanelOutputs, count * kPanelOutputs,
             sums + (row - start) * count * kPanelOutputs);
    }
  }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
