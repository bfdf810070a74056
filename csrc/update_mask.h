// The arguments and results of update_mask, on every device, as its kernels want them.
#pragma once

#include <optional>
#include <tuple>

#include "csrc/tensors.h"
#include "kernels/update_mask.h"

namespace janus_fast {

typedef std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> UpdateMaskResults;

inline UpdateMaskCall update_mask_call(const Tensor& tokens, const Tensor& scores, const Tensor& rows,
                                       const Tensor& predicted_tokens, const Tensor& predicted_scores,
                                       const Tensor& offsets, double ratio, int64_t mask_token,
                                       const std::optional<Tensor>& row_offsets, bool adaptive,
                                       UpdateMaskResults& results) {
  const char* op = "update_mask";
  const int64_t count = tokens.numel(), predictions = rows.numel(), canvases = offsets.numel() - 1;
  check_vector(tokens, op, "tokens", ScalarType::Long, -1);
  check_vector(scores, op, "scores", ScalarType::Float, count);
  check_vector(rows, op, "rows", ScalarType::Long, -1);
  check_vector(predicted_tokens, op, "predicted_tokens", ScalarType::Long, predictions);
  check_vector(predicted_scores, op, "predicted_scores", ScalarType::Float, predictions);
  check_vector(offsets, op, "offsets", ScalarType::Int, -1);
  JANUS_CHECK(canvases >= 0, op, ": offsets must hold at least the offset 0, got no element");
  if (row_offsets) check_vector(*row_offsets, op, "row_offsets", ScalarType::Int, canvases + 1);
  JANUS_CHECK(0 <= ratio && ratio <= 1, op, ": ratio must be in [0, 1], got ", ratio);
  auto& [new_tokens, new_scores, next_rows, changed, masked_tokens, next_offsets, not_finite] = results;
  for (Tensor* each : {&new_tokens, &next_rows, &masked_tokens}) *each = torch::stable::new_empty(tokens, {count});
  new_scores = torch::stable::new_empty(scores, {count});
  changed = torch::stable::new_empty(tokens, {canvases}, ScalarType::Bool);
  next_offsets = torch::stable::new_empty(offsets, {canvases + 1});
  not_finite = torch::stable::new_empty(offsets, {1});
  return {data<int64_t>(tokens),
          data<int64_t>(rows),
          data<int64_t>(predicted_tokens),
          data<float>(scores),
          data<float>(predicted_scores),
          data<int32_t>(offsets),
          row_offsets ? data<int32_t>(*row_offsets) : nullptr,
          count,
          predictions,
          canvases,
          mask_token,
          static_cast<float>(ratio),
          adaptive,
          mutable_data<int64_t>(new_tokens),
          mutable_data<float>(new_scores),
          mutable_data<int64_t>(next_rows),
          mutable_data<bool>(changed),
          mutable_data<int64_t>(masked_tokens),
          mutable_data<int32_t>(next_offsets),
          mutable_data<int32_t>(not_finite)};
}

}  // namespace janus_fast
