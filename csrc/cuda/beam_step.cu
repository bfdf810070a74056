// Launcher of beam_step.
#include "csrc/cuda/launch.h"
#include "kernels/cuda/beam_step.cuh"

extern "C" int janus_fast_beam_step(const int64_t* ids, const float* log_probs, const double* divisors,
                                    int64_t sentences, int64_t beams, int64_t choices, int64_t longest, int64_t eos,
                                    int32_t* steps, float* totals, int64_t* tokens, int32_t* slots, int32_t* times,
                                    int32_t* visible_from, int32_t* visible_until, int32_t* history_tokens,
                                    float* history_scores, int32_t* finished_count, int32_t* finished_lengths,
                                    int32_t* finished_tokens, double* finished_scores, float* finished_token_scores,
                                    int32_t* remaining, void* stream) {
  if (sentences == 0) return 0;
  janus_fast::cuda::BeamStepCall call = {};
  call.ids = ids, call.log_probs = log_probs, call.divisors = divisors;
  call.sentences = sentences, call.eos = eos;
  call.beams = static_cast<int>(beams), call.choices = static_cast<int>(choices);
  call.longest = static_cast<int>(longest);
  call.steps = steps, call.totals = totals, call.tokens = tokens, call.slots = slots;
  call.times = times, call.visible_from = visible_from, call.visible_until = visible_until;
  call.history_tokens = history_tokens, call.history_scores = history_scores;
  call.finished_count = finished_count, call.finished_lengths = finished_lengths;
  call.finished_tokens = finished_tokens, call.finished_scores = finished_scores;
  call.finished_token_scores = finished_token_scores, call.remaining = remaining;
  const size_t shared = static_cast<size_t>(beams * choices) * sizeof(uint32_t);
  return janus_fast::cuda::launch(janus_fast::cuda::beam_step_kernel, static_cast<unsigned>(sentences),
                                  janus_fast::cuda::kBeamThreads, shared, stream, call);
}
