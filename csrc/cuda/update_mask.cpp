// Binding of update_mask.
#include <optional>
#include <tuple>

#include "csrc/cuda/binding.h"

namespace janus_fast {
namespace {

struct Results {
  Tensor tokens, scores, masked_tokens, rows, changed, row_offsets, totals;
};

Results run(const OnDevice& device, const char* op, const Tensor& tokens, const Tensor& scores, const Tensor& rows,
            const int32_t* row_count, const Tensor& predicted_tokens, const Tensor& predicted_scores,
            const Tensor& offsets, const bool* done, double ratio, int64_t mask_token) {
  const int64_t count = tokens.numel(), capacity = rows.numel(), canvases = check_sequences(offsets, op, "offsets");
  check_vector(tokens, op, "tokens", ScalarType::Long, -1);
  check_vector(scores, op, "scores", ScalarType::Float, count);
  check_vector(rows, op, "rows", ScalarType::Long, -1);
  check_vector(predicted_tokens, op, "predicted_tokens", ScalarType::Long, capacity);
  check_vector(predicted_scores, op, "predicted_scores", ScalarType::Float, capacity);
  device.check_same(tokens, scores, rows, predicted_tokens, predicted_scores, offsets);
  JANUS_CHECK(0 <= ratio && ratio <= 1, op, ": ratio must be in [0, 1], got ", ratio);
  Results results = {torch::stable::new_empty(tokens, {count}),
                     torch::stable::new_empty(scores, {count}),
                     torch::stable::new_empty(tokens, {count}),
                     torch::stable::new_empty(rows, {count}),
                     torch::stable::new_empty(tokens, {canvases}, ScalarType::Bool),
                     torch::stable::new_empty(tokens, {canvases + 1}, ScalarType::Int),
                     torch::stable::new_empty(tokens, {3}, ScalarType::Int)};
  device.check(janus_fast_update_mask(
      data<int64_t>(tokens), data<float>(scores), data<int64_t>(rows), row_count, data<int64_t>(predicted_tokens),
      data<float>(predicted_scores), data<int32_t>(offsets), done, count, capacity, canvases, static_cast<float>(ratio),
      mask_token, mutable_data<int64_t>(results.tokens), mutable_data<float>(results.scores),
      mutable_data<int64_t>(results.masked_tokens), mutable_data<int64_t>(results.rows),
      mutable_data<bool>(results.changed), mutable_data<int32_t>(results.row_offsets),
      mutable_data<int32_t>(results.totals), device.stream()));
  return results;
}

// Waits for the number of rows: the caller wants as many.
std::tuple<Tensor, Tensor, Tensor, Tensor> update_mask_cuda(const Tensor& tokens, const Tensor& scores,
                                                            const Tensor& rows, const Tensor& predicted_tokens,
                                                            const Tensor& predicted_scores, const Tensor& offsets,
                                                            double ratio, int64_t mask_token) {
  const OnDevice device("update_mask", tokens);
  Results results = run(device, "update_mask", tokens, scores, rows, nullptr, predicted_tokens, predicted_scores,
                        offsets, nullptr, ratio, mask_token);
  int32_t listed = 0;
  device.check(janus_fast_read_int32(data<int32_t>(results.totals), &listed, device.stream()));
  return {results.tokens, results.scores, torch::stable::narrow(results.rows, 0, 0, listed), results.changed};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> update_mask_static_cuda(
    const Tensor& tokens, const Tensor& scores, const Tensor& rows, std::optional<Tensor> row_count,
    const Tensor& predicted_tokens, const Tensor& predicted_scores, const Tensor& offsets, std::optional<Tensor> done,
    double ratio, int64_t mask_token) {
  const char* op = "update_mask_static";
  const OnDevice device(op, tokens);
  const int32_t* limit = nullptr;
  if (row_count) {
    JANUS_CHECK(row_count->numel() >= 1 && row_count->scalar_type() == ScalarType::Int, op,
                ": row_count must begin with an int32");
    device.check_same(*row_count);
    limit = data<int32_t>(*row_count);
  }
  const bool* kept = nullptr;
  if (done) {
    check_vector(*done, op, "done", ScalarType::Bool, offsets.numel() - 1);
    device.check_same(*done);
    kept = data<bool>(*done);
  }
  Results r = run(device, op, tokens, scores, rows, limit, predicted_tokens, predicted_scores, offsets, kept, ratio,
                  mask_token);
  return {r.tokens, r.scores, r.masked_tokens, r.rows, r.changed, r.row_offsets, r.totals};
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CUDA, m) {
  m.impl("update_mask", TORCH_BOX(&janus_fast::update_mask_cuda));
  m.impl("update_mask_static", TORCH_BOX(&janus_fast::update_mask_static_cuda));
}
