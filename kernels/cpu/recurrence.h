// The recurrence of an SSRU: what a row adds to, and takes from, the state that the row before it left.
#pragma once

#include "kernels/cpu/engine.h"
#include "kernels/cpu/vec.h"

namespace janus_fast {
namespace JANUS_ISA {

inline void recur(const RecurrenceCall& call, int64_t sequence_begin, int64_t sequence_end) {
  const int64_t channels = call.channels;
  for (int64_t row = call.offsets[sequence_begin]; row < call.offsets[sequence_end]; row++) {
    const float *x = call.input + row * 2 * channels, *forget = x + channels;
    const float* before = call.from[row] < 0 ? nullptr : call.states + call.from[row] * channels;
    float *state = call.states + call.to[row] * channels, *output = call.output + row * channels;
    for (int64_t c = 0; c < channels; c += kLanes<float>) {
      const int64_t left = channels - c;
      const Vec<float> f = load_part(forget + c, left);
      const Vec<float> small = exponential(f < 0 ? f : -f);  // of two shares the larger is 1 / (1 + small)
      const Vec<float> most = 1.0f / (1.0f + small), rest = small * most;
      const Vec<float> held = before ? load_part(before + c, left) : Vec<float>{};
      const Vec<float> next = (f < 0 ? rest : most) * held + (f < 0 ? most : rest) * load_part(x + c, left);
      store_part(state + c, next, left);
      store_part(output + c, load_part(output + c, left) + maximum<float>(Vec<float>{}, next), left);
    }
  }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
