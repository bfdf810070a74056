// Launcher of update_mask.
#include "csrc/cuda/launch.h"
#include "kernels/cuda/update_mask.cuh"

extern "C" int janus_fast_update_mask(const int64_t* tokens, const float* scores, const int64_t* rows,
                                      const int32_t* row_count, const int64_t* predicted_tokens,
                                      const float* predicted_scores, const int32_t* offsets, const bool* done,
                                      int64_t count, int64_t row_capacity, int64_t canvases, float ratio,
                                      int64_t mask_token, int64_t* new_tokens, float* new_scores,
                                      int64_t* masked_tokens, int64_t* next_rows, bool* changed, int32_t* row_offsets,
                                      int32_t* totals, void* stream) {
  janus_fast::cuda::UpdateMaskCall call = {};
  call.tokens = tokens, call.rows = rows, call.predicted_tokens = predicted_tokens;
  call.scores = scores, call.predicted_scores = predicted_scores;
  call.offsets = offsets, call.row_count = row_count, call.done = done;
  call.count = count, call.row_capacity = row_capacity, call.canvases = canvases, call.mask_token = mask_token;
  call.ratio = ratio;
  call.new_tokens = new_tokens, call.new_scores = new_scores, call.masked_tokens = masked_tokens;
  call.next_rows = next_rows, call.changed = changed, call.row_offsets = row_offsets, call.totals = totals;
  return janus_fast::cuda::launch(janus_fast::cuda::update_mask_kernel, 1, janus_fast::cuda::kUpdateMaskThreads, 0,
                                  stream, call);
}
