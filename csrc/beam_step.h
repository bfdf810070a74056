// The arguments of beam_step, on every device, as its kernels want them.
#pragma once

#include "csrc/tensors.h"
#include "kernels/beam_step.h"

#define JANUS_BEAM_TENSOR(type, name, elements) , Tensor name
#define JANUS_BEAM_NAME(type, name, elements) , name

namespace janus_fast {

template <typename T>
T* beam_field(Tensor& tensor, const char* name, int64_t elements) {
  constexpr ScalarType type = std::is_same_v<T, float>     ? ScalarType::Float
                              : std::is_same_v<T, int64_t> ? ScalarType::Long
                                                           : ScalarType::Int;
  JANUS_CHECK(tensor.is_contiguous() && tensor.scalar_type() == type && tensor.numel() == elements, "beam_step: ", name,
              " must be contiguous, of its documented dtype, and have ", elements, " elements, got ", tensor.numel());
  return mutable_data<T>(tensor);
}

inline BeamStepCall beam_step_call(Tensor log_probs, Tensor ids, int64_t eos JANUS_BEAM_STATE(JANUS_BEAM_TENSOR)) {
  JANUS_CHECK(log_probs.dim() == 3 && slots.dim() == 3, "beam_step: log_probs and slots must have 3 dimensions, got ",
              log_probs.dim(), " and ", slots.dim());
  const int64_t S = log_probs.size(0), B = log_probs.size(1), T = slots.size(1), choices = log_probs.size(2);
  JANUS_CHECK(B >= 1 && choices >= 1 && T >= 1, "beam_step: beams, choices and steps must be at least 1, got ", B, ", ",
              choices, " and ", T);
  return {beam_field<float>(log_probs, "log_probs", S * B * choices),
          beam_field<int64_t>(ids, "ids", S * B * choices),
          S,
          B,
          choices,
          T,
          eos,
#define JANUS_BEAM_FIELD(type, name, elements) beam_field<type>(name, #name, elements),
          JANUS_BEAM_STATE(JANUS_BEAM_FIELD)
#undef JANUS_BEAM_FIELD
  };
}

}  // namespace janus_fast
