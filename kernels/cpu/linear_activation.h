// A linear layer and its activation, of weights as they lie: y = activation(x W^T + bias). Lanes run along the
// channels, each product has one vector of sums, which meets the channels in their order and is added up in one order,
// so that an element's value does not depend on the other rows, on its tile or on the number of threads.
//
// A tile of rows stays in the first-level cache while the weights of a task, which stay in the second, pass.
#pragma once

#include "kernels/cpu/activation.h"
#include "kernels/cpu/product.h"

namespace janus_fast {
namespace JANUS_ISA {

// Rows of a tile; with four outputs, of the number of registers the sums leave room for the factors.
template <typename T>
constexpr int kLinearRows = JANUS_VECTOR_BYTES == 64   ? (sizeof(Loaded<T>) == JANUS_VECTOR_BYTES ? 6 : 4)
                            : JANUS_VECTOR_BYTES == 32 ? (sizeof(Loaded<T>) == JANUS_VECTOR_BYTES ? 3 : 2)
                                                       : 2;

// Few rows take more outputs at once: sums enough to hide the latency of an addition, and more streams of weights.
template <typename T>
constexpr int outputs_at_once(int rows) {
  return 2 * rows <= kLinearRows<T> ? 8 : 4;
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

// The products of a tile of rows with up to kLinearOutputs outputs -> sums [rows, kLinearOutputs].
template <typename T, int M = kLinearRows<T>>
JANUS_INLINE void linear_tiles(int64_t rows, const T* x, int64_t x_stride, const T* weight, int64_t weight_stride,
                               int64_t outputs, int64_t channels, float* sums) {
  if constexpr (M > 0) {
    if (rows < M) return linear_tiles<T, M - 1>(rows, x, x_stride, weight, weight_stride, outputs, channels, sums);
    constexpr int kOutputs = outputs_at_once<T>(M);
    for (int64_t j = 0; j < outputs; j += kOutputs) {
      const T* weights[kOutputs];
      for (int64_t i = 0; i < kOutputs; i++) weights[i] = weight + smaller(j + i, outputs - 1) * weight_stride;
      linear_tile<M, kOutputs>(x, x_stride, weights, channels, sums + j, kLinearOutputs);
    }
  }
}

template <Activation activation, typename T>
void finish_linear(const float* sums, int64_t rows, const T* bias, int64_t outputs, T* to, int64_t stride) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < outputs; j += kLanes<float>) {
      const int64_t left = outputs - j;
      Vec<float> y = load_part(sums + i * kLinearOutputs + j, left);
      if (bias) y += load_part(bias + j, left);
      store_part(to + i * stride + j, activated<activation>(y), left);
    }
}

template <typename T>
constexpr auto finish_linear_by(Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return finish_linear<Activation::kRelu, T>;
    case Activation::kGelu:
      return finish_linear<Activation::kGelu, T>;
    case Activation::kSilu:
      return finish_linear<Activation::kSilu, T>;
    case Activation::kGeluNew:
      return finish_linear<Activation::kGeluNew, T>;
    case Activation::kQuickGelu:
      return finish_linear<Activation::kQuickGelu, T>;
    case Activation::kNone:
      break;
  }
  return finish_linear<Activation::kNone, T>;
}

template <typename T>
void linear_activation(const LinearActivationCall<T>& call, int64_t task_begin, int64_t task_end) {
  const int64_t chunks = (call.rows + kLinearChunk - 1) / kLinearChunk;
  const auto finish = finish_linear_by<T>(call.activation);
  alignas(64) float sums[kLinearRows<T> * kLinearOutputs];
  for (int64_t task = task_begin; task < task_end; task++) {
    const int64_t begin = task % chunks * kLinearChunk, count = smaller(kLinearChunk, call.rows - begin);
    const int64_t first = task / chunks * kLinearOutputs, outputs = smaller(kLinearOutputs, call.outputs - first);
    const int64_t tiles = (count + kLinearRows<T> - 1) / kLinearRows<T>;  // of nearly equal height
    for (int64_t tile = 0; tile < tiles; tile++) {
      const int64_t row = begin + tile * count / tiles, rows = begin + (tile + 1) * count / tiles - row;
      linear_tiles<T>(rows, call.x + row * call.x_stride, call.x_stride, call.weight + first * call.weight_stride,
                      call.weight_stride, outputs, call.channels, sums);
      finish(sums, rows, call.bias ? call.bias + first : nullptr, outputs, call.output + row * call.outputs + first,
             call.outputs);
    }
  }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
