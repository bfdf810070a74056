// A linear layer in training: y = x W^T + bias, with ReLU or without, and its gradients. Weights may be float32 where
// rows are bfloat16: they are rounded while they are packed, and their gradients are sums in float32.
//
// Gradients take rows in chunks, whose packed forms stay in the second-level cache: of grad W = G^T x the right factor
// is x, packed once a chunk, and the left one G, transposed section by section of outputs. A section has one order of
// summation, whatever the number of threads.
#pragma once

#include "kernels/cpu/product.h"

namespace janus_fast {
namespace JANUS_ISA {

constexpr int64_t kLinearPanel = 64;  // whole panels of a product, in every instruction set

// Two vectors, next to each other.
JANUS_INLINE void store_rounded(float* p, Vec<float> v, Vec<float> w) { store(p, v), store(p + kLanes<float>, w); }
JANUS_INLINE void store_rounded(BFloat16* p, Vec<float> v,
                                Vec<float> w) {  // as store, but that below the normal numbers lies 0
#ifdef __AVX512BF16__
  const __m512bh both = _mm512_cvtne2ps_pbh(reinterpret_cast<__m512>(w), reinterpret_cast<__m512>(v));
  __builtin_memcpy(p, &both, sizeof(both));
#else
  store(p, v), store(p + kLanes<float>, w);
#endif
}

// Rows of so many columns, rounded where T is narrower.
template <typename T, typename TW>
void round_rows(const TW* from, int64_t stride, int64_t rows, int64_t columns, T* to, int64_t to_stride) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t c = 0; c < columns; c += 2 * kLanes<float>)
      store_rounded(to + i * to_stride + c, load(from + i * stride + c), load(from + i * stride + c + kLanes<float>));
}

template <typename T, typename TW>
size_t trained_linear_scratch(const TrainedLinearCall<T, TW>& call) {  // bytes
  const int64_t most = larger(call.channels, call.outputs);
  return kLinearPanel * larger(most, 2 * kTrainedChunk) * sizeof(T);
}

// Panels [begin, end) of 64 outputs of W^T, or of 64 channels of W.
template <typename T, typename TW>
void trained_linear_pack(const TrainedLinearCall<T, TW>& call, int64_t begin, int64_t end, void* scratch) {
  T* rounded = static_cast<T*>(scratch);
  for (int64_t panel = begin; panel < end; panel++) {
    const int64_t first = panel * kLinearPanel, width = smaller(kLinearPanel, call.outputs - first);
    round_rows(call.weight + first * call.weight_stride, call.weight_stride, width, call.channels, rounded,
               call.channels);
    T* to = call.panels + first * call.channels;
#ifdef __AMX_BF16__
    if constexpr (kRowsFirst<T>)
      if (width == kLinearPanel) {
        for (int64_t c = 0; c < call.channels; c += kTileGroups * kGrouped<T>)
          for (int64_t j = 0; j < kLinearPanel; j += kTileLanes)
            transpose_words(rounded + j * call.channels + c, call.channels * sizeof(T),
                            to + j / 32 * 32 * call.channels + c * 32 + j % 32 * 2, 128);
        continue;
      }
#endif
    pack_columns([&](int64_t j) { return rounded + j * call.channels; }, call.channels, width, to);
  }
}

template <typename T, typename TW>
void trained_linear_pack_rows(const TrainedLinearCall<T, TW>& call, int64_t begin, int64_t end, void* scratch) {
  T* rounded = static_cast<T*>(scratch);
  for (int64_t panel = begin; panel < end; panel++) {
    const int64_t first = panel * kLinearPanel, width = smaller(kLinearPanel, call.channels - first);
    round_rows(call.weight + first, call.weight_stride, call.outputs, width, rounded, width);
    pack_rows([&](int64_t j) { return rounded + j * width; }, call.outputs, width, call.panels + first * call.outputs);
  }
}

// Sums of up to kTrainedRows rows with packed weights, 64 outputs after another: use(first output, outputs, sums), the
// rows of sums kLinearPanel apart.
template <typename T, typename Use>
JANUS_INLINE void each_sums(const T* rows, int64_t stride, int64_t count, const T* panels, int64_t depth,
                            int64_t outputs, const Use& use) {
  alignas(64) float sums[kTrainedRows * kLinearPanel];
  for (int64_t first = 0; first < outputs; first += kLinearPanel) {
    const int64_t width = smaller(kLinearPanel, outputs - first);
    product<T, false>(rows, stride, count, panels + first * depth, width, groups<T>(depth), sums, kLinearPanel, false);
    use(first, width, sums);
  }
}

// Blocks [begin, end) of kTrainedRows rows.
template <typename T, typename TW>
void trained_linear(const TrainedLinearCall<T, TW>& call, int64_t begin, int64_t end, void*) {
  const ProductRegisters registers;
  for (int64_t block = begin; block < end; block++) {
    const int64_t row = block * kTrainedRows, rows = smaller(kTrainedRows, call.rows - row);
    const auto finish = [&](int64_t first, int64_t width, const float* sums) {
      for (int64_t j = 0; j < width; j += 2 * kLanes<float>) {
        const Vec<float> bias[2] = {load(call.bias + first + j), load(call.bias + first + j + kLanes<float>)};
        for (int64_t i = 0; i < rows; i++) {
          const float* at = sums + i * kLinearPanel + j;
          Vec<float> y[2] = {load(at) + bias[0], load(at + kLanes<float>) + bias[1]};
          if (call.relu) y[0] = y[0] < 0 ? Vec<float>{} : y[0], y[1] = y[1] < 0 ? Vec<float>{} : y[1];
          store_rounded(call.output + (row + i) * call.outputs + first + j, y[0], y[1]);
        }
      }
    };
    each_sums(call.x + row * call.x_stride, call.x_stride, rows, call.panels, call.channels, call.outputs, finish);
  }
}

// Gradients of what ReLU made 0 are 0.
JANUS_INLINE void mask(const float* gradient, const float* output, int64_t count, float* to) {
  for (int64_t c = 0; c < count; c += kLanes<float>)
    store(to + c, load(output + c) <= 0 ? Vec<float>{} : load(gradient + c));
}
JANUS_INLINE void mask(const BFloat16* gradient, const BFloat16* output, int64_t count, BFloat16* to) {
  typedef typename VectorOf<uint16_t, 2 * kLanes<float>>::type Bits;
  for (int64_t c = 0; c < count; c += 2 * kLanes<float>) {
    Bits y, g;
    __builtin_memcpy(&y, output + c, sizeof(y));
    __builtin_memcpy(&g, gradient + c, sizeof(g));
    g = y << 1 == 0 ? Bits{} : g;
    __builtin_memcpy(to + c, &g, sizeof(g));
  }
}

// Of a chunk of rows from `chunk` on the blocks [begin, end): grad x, x packed, and with ReLU the gradients masked.
template <typename T, typename TW>
void trained_linear_grad_rows(const TrainedLinearCall<T, TW>& call, int64_t chunk, int64_t begin, int64_t end, void*) {
  const ProductRegisters registers;
  const int64_t depth = round_up(smaller(kTrainedChunk, call.rows - chunk), kTrainedRows);
  for (int64_t block = begin; block < end; block++) {
    const int64_t row = chunk + block * kTrainedRows, rows = smaller(kTrainedRows, call.rows - row);
    const T* gradient = call.grad_output + row * call.grad_stride;
    int64_t stride = call.grad_stride;
    if (call.relu) {
      T* masked = call.masked + block * kTrainedRows * call.outputs;
      for (int64_t i = 0; i < rows; i++)
        mask(gradient + i * stride, call.output + (row + i) * call.outputs, call.outputs, masked + i * call.outputs);
      gradient = masked, stride = call.outputs;
    }
    each_sums(gradient, stride, rows, call.panels, call.outputs, call.channels,
              [&](int64_t first, int64_t width, const float* sums) {
                round_rows(sums, kLinearPanel, rows, width, call.grad_x + row * call.channels + first, call.channels);
              });
    each_panel<T>(call.channels, [&](int64_t c, auto vectors) {
      const auto x = [&](int64_t i) { return i < rows ? call.x + (row + i) * call.x_stride + c : nullptr; };
      constexpr int64_t kWidth = vectors() * kLanes<float>;
      pack_rows(x, kTrainedRows, kWidth, call.packed_x + c * depth + block * kTrainedRows * kWidth);
    });
  }
}

// Sections [begin, end) of 64 outputs: adds what a chunk of rows gives to grad weight and grad bias.
template <typename T, typename TW>
void trained_linear_grad_weight(const TrainedLinearCall<T, TW>& call, int64_t chunk, int64_t begin, int64_t end,
                                void* scratch) {
  const ProductRegisters registers;
  const int64_t count = smaller(kTrainedChunk, call.rows - chunk), depth = round_up(count, kTrainedRows);
  const T* gradients = call.relu ? call.masked : call.grad_output + chunk * call.grad_stride;
  const int64_t stride = call.relu ? call.outputs : call.grad_stride;
  T* transposed = static_cast<T*>(scratch);
  for (int64_t section = begin; section < end; section++) {
    const int64_t first = section * kLinearPanel, width = smaller(kLinearPanel, call.outputs - first);
    for (int64_t j = 0; j < width; j += kLanes<float>) {
      Vec<float> sum = {}, part = {};  // a long chain of additions would err more than a product does
      for (int64_t i = 0; i < depth; i += kGrouped<T>) {
        if (i % kTrainedRows == 0) sum += part, part = Vec<float>{};
        T* to = transposed + i * width + j * kGrouped<T>;
        if (i >= count) {
          for (int64_t e = 0; e < kGrouped<T>; e++) store(to + e * kLanes<float>, Vec<float>{});
          continue;
        }
        const T* rows[kGrouped<T>];
        for (int64_t e = 0; e < kGrouped<T>; e++) {
          rows[e] = i + e < count ? gradients + (i + e) * stride + first + j : nullptr;
          if (rows[e]) part += load(rows[e]);
        }
        interleave(rows, 0, to);
      }
      sum += part;
      float* bias = call.bias_sums + first + j;
      store(bias, chunk ? load(bias) + sum : sum);
    }
    float* sums = call.weight_sums + first * call.channels;
    if constexpr (kRowsFirst<T>) {
#ifdef __AMX_BF16__
      T* rows = transposed + kLinearPanel * kTrainedChunk;
      transpose_pairs(transposed, depth / kGrouped<T>, width, rows, depth);
      product<T, false>(rows, depth, width, call.packed_x, call.channels, depth / kGrouped<T>, sums, call.channels,
                        chunk != 0);
#endif
    } else {
      product<T, true>(transposed, width, width, call.packed_x, call.channels, depth / kGrouped<T>, sums, call.channels,
                       chunk != 0);
    }
  }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
