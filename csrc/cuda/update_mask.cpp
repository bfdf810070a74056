// Binding of update_mask.
#include "csrc/update_mask.h"

#include "csrc/cuda/binding.h"

namespace janus_fast {
namespace {

UpdateMaskResults update_mask_cuda(const Tensor& tokens, const Tensor& scores, const Tensor& rows,
                                   const Tensor& predicted_tokens, const Tensor& predicted_scores,
                                   const Tensor& offsets, double ratio, int64_t mask_token,
                                   std::optional<Tensor> row_offsets, bool adaptive) {
  const OnDevice device("update_mask", tokens);
  device.check_same(tokens, scores, rows, predicted_tokens, predicted_scores, offsets);
  if (row_offsets) device.check_same(*row_offsets);
  UpdateMaskResults results;
  const UpdateMaskCall c = update_mask_call(tokens, scores, rows, predicted_tokens, predicted_scores, offsets, ratio,
                                            mask_token, row_offsets, adaptive, results);
  device.check(janus_fast_update_mask(c.tokens, c.rows, c.predicted_tokens, c.scores, c.predicted_scores, c.offsets,
                                      c.row_offsets, c.count, c.row_capacity, c.canvases, c.mask_token, c.ratio,
                                      c.adaptive, c.new_tokens, c.new_scores, c.next_rows, c.changed, c.masked_tokens,
                                      c.next_offsets, c.not_finite, device.stream()));
  return results;
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CUDA, m) { m.impl("update_mask", TORCH_BOX(&janus_fast::update_mask_cuda)); }
