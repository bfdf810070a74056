// Launcher of beam_step, which writes its state in place.
#include "kernels/cpu/beam_step.h"

#include "csrc/beam_step.h"

namespace janus_fast {
namespace {

void beam_step_cpu(const Tensor& log_probs, const Tensor& ids, int64_t eos JANUS_BEAM_STATE(JANUS_BEAM_TENSOR)) {
  const char* op = "beam_step";
  const BeamStepCall call = beam_step_call(log_probs, ids, eos JANUS_BEAM_STATE(JANUS_BEAM_NAME));
  for (int64_t s = 0; s < call.sentences; s++) {
    const int64_t steps = call.steps[s], count = call.finished_count[s];
    JANUS_CHECK(steps >= 0 && count >= 0 && count <= (steps < call.most_steps ? call.beams : 2 * call.beams), op,
                ": steps and finished_count must be in range, got ", steps, " and ", count, " of sentence ", s);
    const int32_t* slots = call.slots + s * call.most_steps * call.beams;
    for (int64_t i = 0; steps < call.most_steps && i < steps * call.beams; i++)
      JANUS_CHECK(slots[i] >= 0 && slots[i] < call.beams, op, ": slots must be in [0, ", call.beams, "), got ",
                  slots[i], " of sentence ", s);
  }
  beam_step(call);
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CPU, m) { m.impl("beam_step", TORCH_BOX(&janus_fast::beam_step_cpu)); }
