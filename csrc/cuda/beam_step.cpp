// Binding of beam_step, which writes its state in place.
#include "csrc/beam_step.h"

#include "csrc/cuda/binding.h"

namespace janus_fast {
namespace {

void beam_step_cuda(const Tensor& log_probs, const Tensor& ids, int64_t eos JANUS_BEAM_STATE(JANUS_BEAM_TENSOR)) {
  const char* op = "beam_step";
  const OnDevice device(op, log_probs);
  const BeamStepCall c = beam_step_call(log_probs, ids, eos JANUS_BEAM_STATE(JANUS_BEAM_NAME));
  JANUS_CHECK(c.beams <= kMostBeams, op, ": beams must be at most ", kMostBeams, ", got ", c.beams);
  JANUS_CHECK(c.beams * c.choices <= kMostCandidates, op, ": candidates of a sentence must be at most ",
              kMostCandidates, ", got ", c.beams * c.choices);
  device.check_same(log_probs, ids JANUS_BEAM_STATE(JANUS_BEAM_NAME));
#define JANUS_BEAM_POINTER(type, name, elements) c.name,
  device.check(janus_fast_beam_step(c.log_probs, c.ids, c.sentences, c.beams, c.choices, c.most_steps, c.eos,
                                    JANUS_BEAM_STATE(JANUS_BEAM_POINTER) device.stream()));
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CUDA, m) { m.impl("beam_step", TORCH_BOX(&janus_fast::beam_step_cuda)); }
