// Launcher of update_mask.
#include "kernels/cpu/update_mask.h"

#include <tuple>

#include "csrc/cpu/launch.h"

namespace janus_fast {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor> update_mask_cpu(const Tensor& tokens, const Tensor& scores,
                                                           const Tensor& rows, const Tensor& predicted_tokens,
                                                           const Tensor& predicted_scores, const Tensor& offsets,
                                                           double ratio, int64_t mask_token) {
  const char* op = "update_mask";
  const int64_t count = tokens.numel(), masked = rows.numel();
  check_vector(tokens, op, "tokens", ScalarType::Long, -1);
  check_vector(scores, op, "scores", ScalarType::Float, count);
  check_vector(rows, op, "rows", ScalarType::Long, -1);
  check_vector(predicted_tokens, op, "predicted_tokens", ScalarType::Long, masked);
  check_vector(predicted_scores, op, "predicted_scores", ScalarType::Float, masked);
  JANUS_CHECK(0 <= ratio && ratio <= 1, op, ": ratio must be in [0, 1], got ", ratio);

  UpdateMaskCall call = {};
  call.offsets = check_offsets(offsets, op, "offsets", count);
  call.tokens = data<int64_t>(tokens), call.scores = data<float>(scores), call.rows = data<int64_t>(rows);
  call.predicted_tokens = data<int64_t>(predicted_tokens), call.predicted_scores = data<float>(predicted_scores);
  call.count = count, call.masked = masked, call.canvases = offsets.numel() - 1;
  call.mask_token = mask_token, call.ratio = static_cast<float>(ratio);
  for (int64_t m = 0; m < masked; m++)
    JANUS_CHECK(call.rows[m] >= 0 && call.rows[m] < count && (m == 0 || call.rows[m - 1] < call.rows[m]), op,
                ": rows must ascend within [0, ", count, "), got ", call.rows[m], " at ", m);

  Tensor new_tokens = torch::stable::new_empty(tokens, {count});
  Tensor new_scores = torch::stable::new_empty(scores, {count});
  Tensor changed = torch::stable::new_empty(tokens, {call.canvases}, ScalarType::Bool);
  call.new_tokens = mutable_data<int64_t>(new_tokens), call.new_scores = mutable_data<float>(new_scores);
  call.changed = mutable_data<bool>(changed);
  const std::vector<int64_t> next = update_mask(call);
  Tensor next_rows = torch::stable::new_empty(rows, {static_cast<int64_t>(next.size())});
  std::copy(next.begin(), next.end(), mutable_data<int64_t>(next_rows));
  return {new_tokens, new_scores, next_rows, changed};
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CPU, m) { m.impl("update_mask", TORCH_BOX(&janus_fast::update_mask_cpu)); }
