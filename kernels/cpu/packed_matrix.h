// A weight as products read it, and rows in the type that they are multiplied in. Both are rounded here and nowhere
// else, with the same arithmetic on every instruction set.
#pragma once

#include "kernels/cpu/engine.h"
#include "kernels/cpu/vec.h"

namespace janus_fast {
namespace JANUS_ISA {

constexpr int kPanelVectors = 2;
constexpr int64_t kPanelOutputs = kPanelVectors * kLanes<float>;

// The type of a stored element, and how many inputs lie together in 32 bits: one lane of a sum.
template <Numeric type>
struct StoredAs;
template <>
struct StoredAs<Numeric::kFloat32> {
  typedef float Element;
  typedef float Weight;
  typedef float Sum;
};
template <>
struct StoredAs<Numeric::kBFloat16> {
  typedef BFloat16 Element;
  typedef BFloat16 Weight;
  typedef float Sum;
};
template <>
struct StoredAs<Numeric::kInt8> {
  typedef uint8_t Element;
  typedef int8_t Weight;
  typedef int32_t Sum;
};
template <Numeric type>
using Element = typename StoredAs<type>::Element;
template <Numeric type>
using Weight = typename StoredAs<type>::Weight;
template <Numeric type>
using Sum = typename StoredAs<type>::Sum;
template <Numeric type>
constexpr int64_t kGroup = 4 / sizeof(Element<type>);

constexpr int64_t group_of(Numeric type) { return type == Numeric::kFloat32 ? 1 : type == Numeric::kBFloat16 ? 2 : 4; }

// Symmetric 8-bit integers: x is q * scale, q the integer nearest to x * inverse, ties to even.
struct Quantisation {
  float scale, inverse;
};

// Of values whose largest magnitude is given as the bits of a float, which order as integers do, infinity and NaN last.
// Those make the scale, and so all that comes of the values, NaN. What is too small to have an inverse counts as zero.
JANUS_INLINE Quantisation quantisation(int32_t largest_bits) {
  if (largest_bits >= 0x7f800000) return {__builtin_nanf(""), 0};
  float largest;
  __builtin_memcpy(&largest, &largest_bits, 4);
  const float inverse = 127.0f / largest;
  if (inverse > 3.4028234e38f) return {0, 0};
  return {largest / 127.0f, inverse};
}

JANUS_INLINE int32_t magnitude_bits(float x) {
  int32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  return bits & 0x7fffffff;
}

inline size_t panel_bytes(Numeric type, int64_t outputs, int64_t inputs) {
  return round_up(outputs, kPanelOutputs) * round_up(inputs, group_of(type)) * (4 / group_of(type));
}

template <Numeric from, Numeric to>
void pack_as(const Table& table, int64_t outputs, int64_t inputs, void* panels, float* scales, int32_t* offsets) {
  constexpr int64_t group = kGroup<to>;
  const int64_t padded = round_up(inputs, group);
  auto* packed = static_cast<Weight<to>*>(panels);
  for (int64_t i = 0; i < round_up(outputs, kPanelOutputs) * padded; i++) packed[i] = {};
  for (int64_t output = 0; output < round_up(outputs, kPanelOutputs); output++) {
    if (to == Numeric::kInt8) scales[output] = 0, offsets[output] = 0;
    if (output >= outputs) continue;
    const auto* row = static_cast<const Weight<from>*>(table.data) + output * inputs;
    auto* channel = packed + output / kPanelOutputs * kPanelOutputs * padded + output % kPanelOutputs * group;
    const float scale = from == Numeric::kInt8 ? table.scales[output] : 1;
    Quantisation quantised = {scale, 0};
    if constexpr (to == Numeric::kInt8 && from != Numeric::kInt8) {
      int32_t largest = 0;
      for (int64_t k = 0; k < inputs; k++) {
        const int32_t bits = magnitude_bits(widen(row[k]));
        largest = bits > largest ? bits : largest;
      }
      quantised = quantisation(largest);
    }
    int32_t sum = 0;
    for (int64_t k = 0; k < inputs; k++) {
      auto* at = channel + k / group * group * kPanelOutputs + k % group;
      if constexpr (to == Numeric::kInt8) {
        if constexpr (from == Numeric::kInt8)
          *at = row[k];
        else
          *at = static_cast<int8_t>(nearest(splat(widen(row[k]) * quantised.inverse))[0]);
        sum += *at;
      } else {
        narrow(widen(row[k]) * scale, at);
      }
    }
    if constexpr (to == Numeric::kInt8) scales[output] = quantised.scale, offsets[output] = 128 * sum;
  }
}

template <Numeric from>
void pack_from(const Table& table, int64_t outputs, int64_t inputs, Numeric type, void* panels, float* scales,
               int32_t* offsets) {
  switch (type) {
    case Numeric::kFloat32:
      return pack_as<from, Numeric::kFloat32>(table, outputs, inputs, panels, scales, offsets);
    case Numeric::kBFloat16:
      return pack_as<from, Numeric::kBFloat16>(table, outputs, inputs, panels, scales, offsets);
    case Numeric::kInt8:
      return pack_as<from, Numeric::kInt8>(table, outputs, inputs, panels, scales, offsets);
  }
}

inline void pack(const Table& from, int64_t outputs, int64_t inputs, Numeric type, void* panels, float* scales,
                 int32_t* offsets) {
  switch (from.type) {
    case Numeric::kFloat32:
      return pack_from<Numeric::kFloat32>(from, outputs, inputs, type, panels, scales, offsets);
    case Numeric::kBFloat16:
      return pack_from<Numeric::kBFloat16>(from, outputs, inputs, type, panels, scales, offsets);
    case Numeric::kInt8:
      return pack_from<Numeric::kInt8>(from, outputs, inputs, type, panels, scales, offsets);
  }
}

// What a panel holds are 32-bit lanes, whatever its type.
inline void gather(const Matrix& from, const int32_t* outputs, int64_t count, int64_t panel_begin, int64_t panel_end,
                   void* panels, float* scales, int32_t* offsets) {
  const int64_t group = group_of(from.type), lanes = round_up(from.inputs, group) / group;
  for (int64_t i = panel_begin * kPanelOutputs; i < panel_end * kPanelOutputs; i++) {
    auto* to = static_cast<int32_t*>(panels) + i / kPanelOutputs * kPanelOutputs * lanes + i % kPanelOutputs;
    const bool there = i < count;
    const int64_t output = there ? outputs[i] : 0;
    const auto* lane = static_cast<const int32_t*>(from.panels) + output / kPanelOutputs * kPanelOutputs * lanes +
                       output % kPanelOutputs;
    for (int64_t k = 0; k < lanes; k++) to[k * kPanelOutputs] = there ? lane[k * kPanelOutputs] : 0;
    if (from.type != Numeric::kInt8) continue;
    scales[i] = there ? from.scales[output] : 0;
    offsets[i] = there ? from.offsets[output] : 0;
  }
}

// Of a row whose vector of channels from j on is value(j), zero behind the last.
template <typename F>
JANUS_INLINE Quantisation quantisation_of(int64_t channels, const F& value) {
  IntVec<float> largest = {};
  for (int64_t j = 0; j < channels; j += kLanes<float>) {
    const IntVec<float> bits = reinterpret_cast<IntVec<float>>(value(j)) & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  return quantisation(maximum<int32_t, kLanes<float>>(largest));
}

// Row `row` of an operand; value(j) is the vector of its channels from j on, zero behind the last.
template <typename F>
JANUS_INLINE void write_operand(Numeric type, const Operand& operand, int64_t row, int64_t channels, const F& value) {
  constexpr int64_t lanes = kLanes<float>;
  const int64_t padded = round_up(channels, group_of(type));
  switch (type) {
    case Numeric::kFloat32: {
      float* to = static_cast<float*>(operand.data) + row * operand.stride;
      for (int64_t j = 0; j < padded; j += lanes) store_part(to + j, value(j), padded - j);
      return;
    }
    case Numeric::kBFloat16: {
      BFloat16* to = static_cast<BFloat16*>(operand.data) + row * operand.stride;
      for (int64_t j = 0; j < padded; j += lanes) store_part(to + j, value(j), padded - j);
      return;
    }
    case Numeric::kInt8: {
      uint8_t* to = static_cast<uint8_t*>(operand.data) + row * operand.stride;
      const Quantisation quantised = quantisation_of(channels, value);
      operand.scales[row] = quantised.scale;
      for (int64_t j = 0; j < padded; j += lanes)
        store_part(to + j, nearest(value(j) * quantised.inverse) + 128, padded - j);
      return;
    }
  }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
