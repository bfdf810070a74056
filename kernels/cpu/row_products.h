// Products of rows with weights as they lie: x [rows, channels], weight [outputs, channels] -> [rows, outputs] sums in
// float32. An element's value depends neither on the other rows and outputs nor on its tile.
//
// By vectors, lanes run along the channels, each product has one vector of sums, which meets the channels in their
// order and is added up in one order. A tile of rows stays in the first-level cache while the weights of a task, which
// stay in the second, pass. In AMX the weights are the left factors, as they lie, and rows the right ones, packed
// before by transposing them, so that sums come out transposed, too.
#pragma once

#include "kernels/cpu/kernels.h"
#include "kernels/cpu/product.h"

namespace janus_fast {
namespace JANUS_ISA {

// Rows of a tile; with four outputs, of the number of registers the sums leave room for the factors.
template <typename T>
constexpr int kRowsAtOnce = JANUS_VECTOR_BYTES == 64   ? (sizeof(Loaded<T>) == JANUS_VECTOR_BYTES ? 6 : 4)
                            : JANUS_VECTOR_BYTES == 32 ? (sizeof(Loaded<T>) == JANUS_VECTOR_BYTES ? 3 : 2)
                                                       : 2;

// Few rows take more outputs at once: sums enough to hide the latency of an addition, and more streams of weights.
template <typename T>
constexpr int outputs_at_once(int rows) {
  return 2 * rows <= kRowsAtOnce<T> ? 8 : 4;
}

// out[i][j] = x[i] . weights[j] for M rows and N outputs.
template <int M, int N, typename T>
void linear_tile(const T* x, int64_t x_stride, const T* const weights[N], int64_t channels, float* out,
                 int64_t out_stride) {
  typedef Product<kNumeric<T>> Kernel;
  constexpr int64_t kStep = kLanes<float> * kGrouped<T>;
  Vec<float> sums[M][N] = {};
  const auto add = [&](const auto& load_from, int64_t c) __attribute__((always_inline)) {
    Loaded<T> rows[M];
#pragma GCC unroll 8
    for (int i = 0; i < M; i++) rows[i] = load_from(x + i * x_stride + c);
#pragma GCC unroll 8
    for (int j = 0; j < N; j++) {
      const Loaded<T> column = load_from(weights[j] + c);
#pragma GCC unroll 8
      for (int i = 0; i < M; i++) sums[i][j] = Kernel::add(sums[i][j], rows[i], column);
    }
  };
  int64_t c = 0;
  for (; c + kStep <= channels; c += kStep) add([](const T* p) { return Kernel::weights(p); }, c);
  if (c < channels)
    add(
        [&](const T* p) {
          T part[kStep] = {};
          for (int64_t k = 0; k < channels - c; k++) part[k] = p[k];
          return Kernel::weights(part);
        },
        c);
#pragma GCC unroll 8
  for (int i = 0; i < M; i++)
#pragma GCC unroll 2
    for (int j = 0; j < N; j += 4)
      store_sums(sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3], out + i * out_stride + j);
}

// The products of a tile of rows with all outputs.
template <typename T, int M = kRowsAtOnce<T>>
JANUS_INLINE void linear_tiles(int64_t rows, const T* x, int64_t x_stride, const T* weight, int64_t weight_stride,
                               int64_t outputs, int64_t channels, float* sums, int64_t stride) {
  if constexpr (M > 0) {
    if (rows < M)
      return linear_tiles<T, M - 1>(rows, x, x_stride, weight, weight_stride, outputs, channels, sums, stride);
    constexpr int kOutputs = outputs_at_once<T>(M);
    for (int64_t j = 0; j < outputs; j += kOutputs) {
      const T* weights[kOutputs];
      for (int64_t i = 0; i < kOutputs; i++) weights[i] = weight + smaller(j + i, outputs - 1) * weight_stride;
      linear_tile<M, kOutputs>(x, x_stride, weights, channels, sums + j, stride);
    }
  }
}

template <typename T>
class RowProducts {
 public:
  static constexpr int64_t kRows = kRowsAtOnce<T>;  // of a tile, at most

  // Calls use(first row, rows) for tiles of nearly equal height.
  template <typename F>
  void each_tile(int64_t begin, int64_t end, const F& use) const {
    const int64_t tiles = (end - begin + kRows - 1) / kRows;
    for (int64_t tile = 0; tile < tiles; tile++) {
      const int64_t row = begin + tile * (end - begin) / tiles;
      use(row, begin + (tile + 1) * (end - begin) / tiles - row);
    }
  }

  // Writes up to seven columns of sums more than there are outputs.
  void multiply(const RowFactors<T>& x, int64_t row, int64_t rows, const T* weight, int64_t weight_stride,
                int64_t outputs, float* sums, int64_t stride) const {
    linear_tiles<T>(rows, x.data + row * x.stride, x.stride, weight, weight_stride, outputs, x.channels, sums, stride);
  }
};

#ifdef __AMX_BF16__
template <>
class RowProducts<BFloat16> {
 public:
  static constexpr int64_t kRows = kRowPanel;

  template <typename F>
  void each_tile(int64_t begin, int64_t end, const F& use) const {
    for (int64_t row = begin; row < end; row += kRows) use(row, smaller(kRows, end - row));
  }

  // `row` is a multiple of kRows. Writes up to kRows rows of sums, and a multiple of kOutputs columns.
  void multiply(const RowFactors<BFloat16>& x, int64_t row, int64_t rows, const BFloat16* weight, int64_t weight_stride,
                int64_t outputs, float* sums, int64_t stride) const {
    if (rows > kTileLanes)
      multiply_columns<true>(x, row, weight, weight_stride, outputs, sums, stride);
    else
      multiply_columns<false>(x, row, weight, weight_stride, outputs, sums, stride);
  }

  // Packs panels [begin, end) of rows.
  static void pack(const RowFactors<BFloat16>& x, int64_t rows, BFloat16* to, int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; panel++)
      for (int64_t c = 0; c < x.channels; c += kDepth)
        for (int64_t i = panel * kRows; i < (panel + 1) * kRows; i += kTileHeight) {
          BFloat16* tile = to + panel * kRows * round_up(x.channels, kDepth) + c * kRows + i % kRows * 2;
          const int64_t count = larger(smaller(rows - i, kTileHeight), 0), depth = smaller(x.channels - c, kDepth);
          const BFloat16* from = x.data + smaller(i, rows) * x.stride + c;
          if (count == kTileHeight && depth == kDepth) {
            transpose_words(from, x.stride * sizeof(BFloat16), tile, kLine);
            continue;
          }
          BFloat16 part[kTileHeight * kDepth] = {};
          for (int64_t r = 0; r < count; r++)
            __builtin_memcpy(part + r * kDepth, from + r * x.stride, depth * sizeof(BFloat16));
          transpose_words(part, kDepth * sizeof(BFloat16), tile, kLine);
        }
  }

 private:
  // Of a panel's 32 rows, or of the first 16.
  template <bool kWide>
  static void multiply_columns(const RowFactors<BFloat16>& x, int64_t row, const BFloat16* weight,
                               int64_t weight_stride, int64_t outputs, float* sums, int64_t stride) {
    const int64_t channels = x.channels;
    const BFloat16* panel = x.packed + row * round_up(channels, kDepth);
    alignas(64) float tile[kOutputs * kRows];
    for (int64_t first = 0; first < outputs; first += kOutputs, weight += kOutputs * weight_stride) {
      const int64_t count = smaller(outputs - first, kOutputs), whole = count == kOutputs ? channels / kDepth : 0;
      product_tiles<true, kLine, kWide>(weight, weight_stride, panel, whole, tile, kRows, false);
      for (int64_t c = whole * kDepth; c < channels; c += kDepth) {  // what fills no tile
        alignas(64) BFloat16 part[kOutputs * kDepth] = {};
        for (int64_t i = 0; i < count; i++)
          __builtin_memcpy(part + i * kDepth, weight + i * weight_stride + c,
                           smaller(kDepth, channels - c) * sizeof(BFloat16));
        __asm__ volatile("" ::"r"(part) : "memory");  // loads of tiles do not say that they read it
        product_tiles<true, kLine, kWide>(part, kDepth, panel + c * kRows, 1, tile, kRows, true);
      }
      for (int64_t j = 0; j < kOutputs; j += kTileLanes)
        for (int64_t i = 0; i < (kWide ? kRows : kTileLanes); i += kTileLanes)
          transpose_words(tile + j * kRows + i, kRows * sizeof(float), sums + i * stride + first + j,
                          stride * sizeof(float));
    }
  }

  static constexpr int64_t kOutputs = 2 * kTileHeight, kDepth = kPackedChannels;  // of tiles at once
  static constexpr int64_t kLine = kRows * 2 * sizeof(BFloat16);                  // bytes of a group of a panel

  static_assert(kDepth == 2 * kTileGroups && kRows == 2 * kTileLanes);
  static_assert(kLinearChunk % kRows == 0 && kRowChunk % kRows == 0 && kLinearOutputs % kOutputs == 0);

  const TileRegisters registers_;
};
#endif

}  // namespace JANUS_ISA
}  // namespace janus_fast
