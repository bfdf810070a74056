// Products of rows with packed weights, and what is done with their sums.
#pragma once

#ifdef __AMX_TILE__
#include "kernels/cpu/amx_tiles.h"
#endif
#include "kernels/cpu/activation.h"
#include "kernels/cpu/vector_tiles.h"

namespace janus_fast {
namespace JANUS_ISA {

// Whether so many rows are multiplied by AMX.
template <Numeric type>
constexpr bool by_amx(int64_t rows) {
#ifdef __AMX_TILE__
  return amx_takes<type>(rows);
#else
  return rows < 0;  // never
#endif
}

// Calls finish(row, rows, channel, channels, sums) for tiles that cover the rows and the panels; sums are [rows,
// channels].
template <Numeric type, typename F>
JANUS_INLINE void multiply_tiles(const Operand& x, int64_t row_begin, int64_t row_end, const Matrix& weight,
                                 int64_t panel_begin, int64_t panel_end, const F& finish) {
#ifdef __AMX_TILE__
  if (by_amx<type>(row_end - row_begin))
    return amx_tiles<type>(x, row_begin, row_end, weight, panel_begin, panel_end, finish);
#endif
  vector_tiles<type>(x, row_begin, row_end, weight, panel_begin, panel_end, finish);
}

// A vector of channels' sums as numbers: for int8 without what the operand's 128 added, times both scales.
template <Numeric type>
struct Channels {
  Vec<float> bias;
  Channels(const Matrix&, const float* biases, int64_t channel) : bias(load(biases + channel)) {}
  JANUS_INLINE Vec<float> number(const float* sums, const Operand&, int64_t) const { return load(sums) + bias; }
};
template <>
struct Channels<Numeric::kInt8> {
  Vec<float> bias, scales;
  IntVec<float> offsets;
  Channels(const Matrix& weight, const float* biases, int64_t channel)
      : bias(load(biases + channel)),
        scales(load(weight.scales + channel)),
        offsets(load_groups(weight.offsets + channel)) {}
  JANUS_INLINE Vec<float> number(const int32_t* sums, const Operand& x, int64_t row) const {
    return __builtin_convertvector(load_groups(sums) - offsets, Vec<float>) * (scales * x.scales[row]) + bias;
  }
};

template <Numeric type, Activation activation>
void multiply_and(const MultiplyCall& call, int64_t panel_begin, int64_t panel_end) {
  const Matrix& weight = *call.weight;
  const bool ask = !by_amx<type>(call.rows);  // in AMX that takes more time than it brings
  multiply_tiles<type>(
      call.x, 0, call.rows, weight, panel_begin, panel_end,
      [&](int64_t row, int64_t rows, int64_t channel, int64_t channels, const Sum<type>* sums) {
        const int64_t began = call.following ? ticks() : 0;
        // Copies: what a store through a pointer might change is read again behind each.
        const Operand x = call.x;
        float* const output = call.output;
        BFloat16* const narrow = call.narrow;
        const float* const residual = call.residual;
        const int64_t output_stride = call.output_stride, residual_stride = call.residual_stride;
        for (int64_t c = channel; c < smaller(channel + channels, weight.outputs); c += kLanes<float>) {
          const int64_t left = weight.outputs - c;
          const Channels<type> all(weight, weight.bias, c);
          if (output && ask)  // for the next tile's, which are there when it is done
            for (int64_t i = 0; i < rows; i++) __builtin_prefetch(output + (row + rows + i) * output_stride + c, 1);
          const auto each = [&](const auto& put) {
            for (int64_t i = 0; i < rows; i++)
              put(row + i, activated<activation>(all.number(sums + i * channels + c - channel, x, row + i)));
          };
          if (!output)
            each([&](int64_t r, Vec<float> y) {
              if (residual) y += load_part(residual + r * residual_stride + c, left);
              store_part(narrow + r * output_stride + c, y, round_up(left, kGroup<Numeric::kBFloat16>));
            });
          else if (left < kLanes<float>)
            each([&](int64_t r, Vec<float> y) {
              if (residual) y += load_first(residual + r * residual_stride + c, left);
              store_part(output + r * output_stride + c, y, left);
            });
          else if (residual)
            each([&](int64_t r, Vec<float> y) {
              store(output + r * output_stride + c, y + load(residual + r * residual_stride + c));
            });
          else
            each([&](int64_t r, Vec<float> y) { store(output + r * output_stride + c, y); });
        }
        if (call.following) *call.following += ticks() - began;
      });
}

template <Numeric type>
void multiply_as(const MultiplyCall& call, int64_t panel_begin, int64_t panel_end) {
  switch (call.activation) {
    case Activation::kNone:
      return multiply_and<type, Activation::kNone>(call, panel_begin, panel_end);
    case Activation::kRelu:
      return multiply_and<type, Activation::kRelu>(call, panel_begin, panel_end);
    case Activation::kGelu:
      return multiply_and<type, Activation::kGelu>(call, panel_begin, panel_end);
    case Activation::kSilu:
      return multiply_and<type, Activation::kSilu>(call, panel_begin, panel_end);
    case Activation::kGeluNew:
      return multiply_and<type, Activation::kGeluNew>(call, panel_begin, panel_end);
    case Activation::kQuickGelu:
      return multiply_and<type, Activation::kQuickGelu>(call, panel_begin, panel_end);
  }
}

inline void multiply(const MultiplyCall& call, int64_t panel_begin, int64_t panel_end) {
  switch (call.weight->type) {
    case Numeric::kFloat32:
      return multiply_as<Numeric::kFloat32>(call, panel_begin, panel_end);
    case Numeric::kBFloat16:
      return multiply_as<Numeric::kBFloat16>(call, panel_begin, panel_end);
    case Numeric::kInt8:
      return multiply_as<Numeric::kInt8>(call, panel_begin, panel_end);
  }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
