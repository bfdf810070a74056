// Binding of beam_step, which writes its state in place.
#include "csrc/cuda/binding.h"

namespace janus_fast {
namespace {

constexpr int64_t kMostBeams = 32, kMostCandidates = (96 << 10) / 4;

void check_state(const Tensor& tensor, const char* name, ScalarType dtype, int64_t elements) {
  JANUS_CHECK(tensor.is_contiguous() && tensor.scalar_type() == dtype && tensor.numel() == elements,
              "beam_step: ", name, " must be contiguous, of its documented dtype, and have ", elements,
              " elements, got ", tensor.numel());
}

void beam_step_cuda(const Tensor& ids, const Tensor& log_probs, const Tensor& divisors, int64_t eos, Tensor steps,
                    Tensor totals, Tensor tokens, Tensor slots, Tensor times, Tensor visible_from, Tensor visible_until,
                    Tensor history_tokens, Tensor history_scores, Tensor finished_count, Tensor finished_lengths,
                    Tensor finished_tokens, Tensor finished_scores, Tensor finished_token_scores, Tensor remaining) {
  const char* op = "beam_step";
  const OnDevice device(op, ids);
  JANUS_CHECK(totals.dim() == 2 && ids.dim() == 2 && slots.dim() == 3, op,
              ": ids, totals and slots must have 2, 2 and 3 dimensions, got ", ids.dim(), ", ", totals.dim(), ", ",
              slots.dim());
  const int64_t sentences = totals.size(0), beams = totals.size(1), choices = ids.size(1), most = slots.size(1);
  JANUS_CHECK(1 <= beams && beams <= kMostBeams, op, ": beams must be in [1, ", kMostBeams, "], got ", beams);
  JANUS_CHECK(1 <= choices && beams * choices <= kMostCandidates, op, ": candidates of a sentence must be in [1, ",
              kMostCandidates, "], got ", beams * choices);
  JANUS_CHECK(most >= 1, op, ": slots must have room for a step");
  const int64_t rows = sentences * beams;
  check_state(ids, "ids", ScalarType::Long, rows * choices);
  check_state(log_probs, "log_probs", ScalarType::Float, rows * choices);
  check_state(divisors, "divisors", ScalarType::Double, most);
  check_state(steps, "steps", ScalarType::Int, sentences);
  check_state(totals, "totals", ScalarType::Float, rows);
  check_state(tokens, "tokens", ScalarType::Long, rows);
  check_state(slots, "slots", ScalarType::Int, rows * most);
  check_state(times, "times", ScalarType::Int, rows);
  check_state(visible_from, "visible_from", ScalarType::Int, rows * most);
  check_state(visible_until, "visible_until", ScalarType::Int, rows * most);
  check_state(history_tokens, "history_tokens", ScalarType::Int, rows * most);
  check_state(history_scores, "history_scores", ScalarType::Float, rows * most);
  check_state(finished_count, "finished_count", ScalarType::Int, sentences);
  check_state(finished_lengths, "finished_lengths", ScalarType::Int, rows);
  check_state(finished_tokens, "finished_tokens", ScalarType::Int, rows * most);
  check_state(finished_scores, "finished_scores", ScalarType::Double, rows);
  check_state(finished_token_scores, "finished_token_scores", ScalarType::Float, rows * most);
  check_state(remaining, "remaining", ScalarType::Int, 1);
  device.check_same(ids, log_probs, divisors, steps, totals, tokens, slots, times, visible_from, visible_until,
                    history_tokens, history_scores, finished_count, finished_lengths, finished_tokens, finished_scores,
                    finished_token_scores, remaining);
  device.check(janus_fast_beam_step(
      data<int64_t>(ids), data<float>(log_probs), data<double>(divisors), sentences, beams, choices, most - 1, eos,
      mutable_data<int32_t>(steps), mutable_data<float>(totals), mutable_data<int64_t>(tokens),
      mutable_data<int32_t>(slots), mutable_data<int32_t>(times), mutable_data<int32_t>(visible_from),
      mutable_data<int32_t>(visible_until), mutable_data<int32_t>(history_tokens), mutable_data<float>(history_scores),
      mutable_data<int32_t>(finished_count), mutable_data<int32_t>(finished_lengths),
      mutable_data<int32_t>(finished_tokens), mutable_data<double>(finished_scores),
      mutable_data<float>(finished_token_scores), mutable_data<int32_t>(remaining), device.stream()));
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CUDA, m) { m.impl("beam_step", TORCH_BOX(&janus_fast::beam_step_cuda)); }
