// Launcher of beam_step.
#include "csrc/cuda/launch.h"
#include "kernels/cuda/beam_step.cuh"

extern "C" int janus_fast_beam_step(const float* log_probs, const int64_t* ids, int64_t sentences, int64_t beams,
                                    int64_t choices, int64_t most_steps, int64_t eos,
                                    JANUS_BEAM_STATE(JANUS_BEAM_PARAMETER) void* stream) {
  if (sentences == 0) return 0;
  const janus_fast::BeamStepCall call = {log_probs, ids,        sentences, beams,
                                         choices,   most_steps, eos,       JANUS_BEAM_STATE(JANUS_BEAM_ARGUMENT)};
  const size_t shared = static_cast<size_t>(beams * choices) * sizeof(uint32_t);
  return janus_fast::cuda::launch(janus_fast::cuda::beam_step_kernel, static_cast<unsigned>(sentences),
                                  janus_fast::cuda::kBeamThreads, shared, stream, call);
}
