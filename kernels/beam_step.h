// What a step of beam search reads and writes, on every device.
#pragma once

#include <cstdint>

// The state of S sentences with B hypotheses each, of at most T steps, as `BeamState` in
// janus_fast/reference/beam_step.py says: the type of each field, its name, its elements.
#define JANUS_BEAM_STATE(FIELD)                    \
  FIELD(int32_t, steps, (S))                       \
  FIELD(float, totals, (S * B))                    \
  FIELD(int64_t, tokens, (S * B))                  \
  FIELD(int32_t, slots, (S * T * B))               \
  FIELD(int32_t, times, (S * B))                   \
  FIELD(int32_t, visible_from, (S * T * B))        \
  FIELD(int32_t, visible_until, (S * T * B))       \
  FIELD(int32_t, history_tokens, (S * T * B))      \
  FIELD(float, history_scores, (S * T * B))        \
  FIELD(int32_t, finished_count, (S))              \
  FIELD(int32_t, finished_lengths, (S * 2 * B))    \
  FIELD(int32_t, finished_tokens, (S * 2 * B * T)) \
  FIELD(float, finished_totals, (S * 2 * B))       \
  FIELD(float, finished_scores, (S * 2 * B * T))   \
  FIELD(int32_t, remaining, (1))

#define JANUS_BEAM_MEMBER(type, name, elements) type* name;
#define JANUS_BEAM_PARAMETER(type, name, elements) type *name,
#define JANUS_BEAM_ARGUMENT(type, name, elements) name,

namespace janus_fast {

struct BeamStepCall {
  const float* log_probs;  // [S, B, K]
  const int64_t* ids;      // [S, B, K] tokens that may follow
  int64_t sentences, beams, choices, most_steps, eos;
  JANUS_BEAM_STATE(JANUS_BEAM_MEMBER)
};

constexpr int64_t kMostBeams = 32, kMostCandidates = (96 << 10) / 4;  // of a sentence, for the CUDA kernel

}  // namespace janus_fast
