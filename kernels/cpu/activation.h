// What stands behind the first product of a feed-forward block.
#pragma once

#include "kernels/cpu/vec.h"

namespace janus_fast {
namespace JANUS_ISA {

// The part of the standard normal distribution below -|x|. A fit of exp(x^2 / 2) times it, of relative error 3.2e-8.
JANUS_INLINE Vec<float> normal_tail(Vec<float> x) {
  const Vec<float> z = x < 0 ? -x : x, t = 1.0f / (1.0f + 0.35f * z);
  Vec<float> p = splat(-0.0291258767f);
  p = p * t + 0.143872291f;
  p = p * t - 0.255504668f;
  p = p * t + 0.158929408f;
  p = p * t - 0.0229372196f;
  p = p * t + 0.105432972f;
  p = p * t + 0.119852431f;
  p = p * t + 0.13985908f;
  p = p * t + 0.139621571f;
  return p * t * exponential(z * z * -0.5f);
}

// x times the logistic function of y.
JANUS_INLINE Vec<float> gated(Vec<float> x, Vec<float> y) {
  return x / (1.0f + exponential(-y < 88.0f ? -y : splat(88.0f)));
}

template <Activation activation>
JANUS_INLINE Vec<float> activated(Vec<float> x) {
  if constexpr (activation == Activation::kRelu) return x < 0 ? Vec<float>{} : x;
  if constexpr (activation == Activation::kGelu) return x * (x > 0 ? 1.0f - normal_tail(x) : normal_tail(x));
  if constexpr (activation == Activation::kSilu) return gated(x, x);
  if constexpr (activation == Activation::kGeluNew)  // 2 sqrt(2 / pi) (x + 0.044715 x^3): gelu by a hyperbolic tangent
    return gated(x, x * (1.5957691216f + 0.0713548162726f * x * x));
  if constexpr (activation == Activation::kQuickGelu) return gated(x, 1.702f * x);
  return x;
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
