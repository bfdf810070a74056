// A linear layer and its activation, of weights as they lie: y = activation(x W^T + bias). An element's value depends
// neither on the other rows nor on the number of threads, as that of a product of rows.
#pragma once

#include "kernels/cpu/activation.h"
#include "kernels/cpu/row_products.h"

namespace janus_fast {
namespace JANUS_ISA {

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
  const RowProducts<T> products;
  alignas(64) float sums[RowProducts<T>::kRows * kLinearOutputs];
  for (int64_t task = task_begin; task < task_end; task++) {
    const int64_t begin = task % chunks * kLinearChunk, end = smaller(begin + kLinearChunk, call.rows);
    const int64_t first = task / chunks * kLinearOutputs, outputs = smaller(kLinearOutputs, call.outputs - first);
    products.each_tile(begin, end, [&](int64_t row, int64_t rows) {
      products.multiply(call.x, row, rows, call.weight + first * call.weight_stride, call.weight_stride, outputs, sums,
                        kLinearOutputs);
      finish(sums, rows, call.bias ? call.bias + first : nullptr, outputs, call.output + row * call.outputs + first,
             call.outputs);
    });
  }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
