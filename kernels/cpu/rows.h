// Work on single rows: norm, conversion to a product's operand, embedding.
#pragma once

#include "kernels/cpu/packed_matrix.h"

namespace janus_fast {
namespace JANUS_ISA {

// The sum of term(x[j]) over a row, in four vectors.
template <typename F>
JANUS_INLINE float sum_row(const float* x, int64_t count, const F& term) {
  constexpr int64_t lanes = kLanes<float>;
  Vec<float> sums[4] = {};
  int64_t j = 0;
  for (; j + 4 * lanes <= count; j += 4 * lanes)
    for (int i = 0; i < 4; i++) sums[i] += term(load(x + j + i * lanes));
  for (; j + lanes <= count; j += lanes) sums[0] += term(load(x + j));
  if (j < count) {
    const Vec<float> rest = term(load_first(x + j, count - j));
    for (int64_t i = 0; i < count - j; i++) sums[0][i] += rest[i];
  }
  return sum<float>((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

inline void norm(const NormCall& call, int64_t row_begin, int64_t row_end) {
  const int64_t channels = call.channels;
  for (int64_t row = row_begin; row < row_end; row++) {
    const float* x = call.x + row * call.x_stride;
    const float mean = sum_row(x, channels, [](Vec<float> v) { return v; }) / static_cast<float>(channels);
    const float variance =
        sum_row(x, channels, [mean](Vec<float> v) { return (v - mean) * (v - mean); }) / static_cast<float>(channels);
    const float inverse = 1.0f / __builtin_sqrtf(variance + call.epsilon);
    const auto normalised = [&](int64_t j) {
      const int64_t left = channels - j;
      return (load_part(x + j, left) - mean) * inverse * load_part(call.weight + j, left) +
             load_part(call.bias + j, left);
    };
    float* output = call.output ? call.output + row * call.output_stride : nullptr;
    if (output)
      for (int64_t j = 0; j < channels; j += kLanes<float>) store_part(output + j, normalised(j), channels - j);
    if (!call.operand.data || call.operand.data == call.output) continue;
    if (output)  // which may have replaced x
      write_operand(call.type, call.operand, row, channels,
                    [&](int64_t j) { return load_part(output + j, channels - j); });
    else
      write_operand(call.type, call.operand, row, channels, [&](int64_t j) {
        const Vec<float> y = normalised(j);
        return channels - j >= kLanes<float> ? y : load_first(reinterpret_cast<const float*>(&y), channels - j);
      });
  }
}

inline void convert(const ConvertCall& call, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; row++) {
    const float* x = call.x + row * call.x_stride;
    write_operand(call.type, call.operand, row, call.channels,
                  [&](int64_t j) { return load_part(x + j, call.channels - j); });
  }
}

template <Numeric type>
void embed_as(const EmbedCall& call, int64_t row_begin, int64_t row_end) {
  for (int64_t row = row_begin; row < row_end; row++) {
    const int64_t id = call.ids[row];
    const auto* token = static_cast<const Weight<type>*>(call.tokens.data) + id * call.channels;
    const float* position = call.positions + call.places[row] * call.channels;
    const float scale = type == Numeric::kInt8 ? call.scale * call.tokens.scales[id] : call.scale;
    float* output = call.output + row * call.channels;
    for (int64_t c = 0; c < call.channels; c++) output[c] = widen(token[c]) * scale + position[c];
  }
}

inline void embed(const EmbedCall& call, int64_t row_begin, int64_t row_end) {
  switch (call.tokens.type) {
    case Numeric::kFloat32:
      return embed_as<Numeric::kFloat32>(call, row_begin, row_end);
    case Numeric::kBFloat16:
      return embed_as<Numeric::kBFloat16>(call, row_begin, row_end);
    case Numeric::kInt8:
      return embed_as<Numeric::kInt8>(call, row_begin, row_end);
  }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
