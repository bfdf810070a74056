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
              Ahead& ahead, Sum<type>* sums) {
  constexpr int64_t kLine = kPanelOutputs * 4;  // bytes of a group of a panel
  const char* rows = reinterpret_cast<const char*>(x);
  const char* weights = reinterpret_cast<const char*>(panel);
  const int64_t pitch = stride * static_cast<int64_t>(sizeof(Element<type>));
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t block = 0; block < blocks; block++, rows += 64, weights += kTileGroups * kLine) {
    ahead.fetch();
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
              int64_t panel_count, int64_t blocks, Ahead& ahead, Sum<type>* sums) {
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
    ahead.fetch();
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

// As vector_tiles. Few rows stay in the second-level cache while the panels pass one by one, and ask for the next. Of
// many rows, two tiles stay in the first-level cache while some panels pass, which stay in the second, since many lines
// of output are better written in long pieces than all of them in short ones.
template <Numeric type, typename F>
JANUS_INLINE void amx_tiles(const Operand& x, int64_t row_begin, int64_t row_end, const Matrix& weight,
                            int64_t panel_begin, int64_t panel_end, const F& finish) {
  if (row_begin == row_end) return;  // there are no tiles of no height
  constexpr int64_t kPassingBytes = 512 * 1024, kFew = 256, kTall = 2 * kTileHeight;
  constexpr int64_t kDistance = 4096;  // bytes; 8,192 are less good
  const int64_t groups = round_up(weight.inputs, kGroup<type>) / kGroup<type>, blocks = groups / kTileGroups;
  const int64_t panel_size = groups * kGroup<type> * kPanelOutputs, rest = blocks * kTileGroups;
  const int64_t panel_bytes = panel_size * static_cast<int64_t>(sizeof(Weight<type>));
  const auto* rows_of_x = static_cast<const Element<type>*>(x.data);
  const auto* panels = static_cast<const Weight<type>*>(weight.panels);
  const int64_t height = smaller(row_end - row_begin, kTileHeight);
  const int64_t pairs = (row_end - row_begin + kTileHeight - 1) / kTall, odd_row = row_begin + pairs * kTall;
  const bool odd = odd_row < row_end, few = row_end - row_begin <= kFew;
  const int64_t passing = few ? 1 + odd : larger(kPassingBytes / panel_bytes / 2, 1) * 2;
  const TileRegisters registers(height);
  alignas(64) Sum<type> sums[kTall * kPanelOutputs];
  for (int64_t first = panel_begin; first < panel_end; first += passing) {
    const int64_t last = smaller(first + passing, panel_end), bytes = (last - first) * panel_bytes;
    // Each tile asks for its share of the next panels, a single one for what it needs soon. Where two panels stream at
    // once, the processor itself reads ahead best.
    const int64_t steps = (pairs * (last - first) + odd) * blocks;
    Ahead ahead = {
        static_cast<const char*>(weight.panels) + first * panel_bytes + (pairs == 1 && !odd ? kDistance : bytes),
        few && pairs * steps > 0 ? (bytes / Ahead::kLine + steps - 1) / steps : 0};
    for (int64_t row = row_begin; row < odd_row; row += kTall) {
      const int64_t down = smaller(row + kTileHeight, row_end - kTileHeight) - row;
      const auto* rows = rows_of_x + row * x.stride;
      for (int64_t panel = first; panel < last; panel++) {
        const auto* w = panels + panel * panel_size;
        amx_tall<type>(rows, x.stride, down, w, blocks, ahead, sums);
        if (rest < groups) amx_rest<type>(rows, x.stride, down + kTileHeight, w, 1, rest, groups, sums);
        finish(row, down + kTileHeight, panel * kPanelOutputs, kPanelOutputs, sums);
      }
    }
    const int64_t start = row_end - height;
    const auto* rows = rows_of_x + start * x.stride;
    for (int64_t panel = first; panel < last && odd; panel += 2) {
      const int64_t count = smaller(last - panel, 2);
      const auto* w = panels + panel * panel_size;
      amx_wide<type>(rows, x.stride, w, panel_size, count, blocks, ahead, sums);
      if (rest < groups) amx_rest<type>(rows, x.stride, height, w, count, rest, groups, sums);
      finish(odd_row, row_end - odd_row, panel * kPanelOutputs, count * kPanelOutputs,
             sums + (odd_row - start) * count * kPanelOutputs);
    }
  }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
