// Launcher of update_mask.
#include "kernels/cpu/update_mask.h"

#include "csrc/cpu/launch.h"
#include "csrc/update_mask.h"

namespace janus_fast {
namespace {

UpdateMaskResults update_mask_cpu(const Tensor& tokens, const Tensor& scores, const Tensor& rows,
                                  const Tensor& predicted_tokens, const Tensor& predicted_scores, const Tensor& offsets,
                                  double ratio, int64_t mask_token, std::optional<Tensor> row_offsets, bool adaptive) {
  const char* op = "update_mask";
  UpdateMaskResults results;
  const UpdateMaskCall call = update_mask_call(tokens, scores, rows, predicted_tokens, predicted_scores, offsets, ratio,
                                               mask_token, row_offsets, adaptive, results);
  check_offsets(offsets, op, "offsets", call.count, Behind::rows);
  if (row_offsets) check_offsets(*row_offsets, op, "row_offsets", call.row_capacity, Behind::rows);
  const int64_t end = call.offsets[call.canvases];
  for (int64_t m = 0; m < predictions_of(call); m++)
    JANUS_CHECK(call.rows[m] >= 0 && call.rows[m] < end && (m == 0 || call.rows[m - 1] < call.rows[m]), op,
                ": rows must ascend within [0, ", end, "), got ", call.rows[m], " at ", m);
  update_mask(call);
  return results;
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CPU, m) { m.impl("update_mask", TORCH_BOX(&janus_fast::update_mask_cpu)); }
