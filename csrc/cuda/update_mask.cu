// Launcher of update_mask.
#include "csrc/cuda/launch.h"
#include "kernels/cuda/update_mask.cuh"

extern "C" int janus_fast_update_mask(const int64_t* tokens, const int64_t* rows, const int64_t* predicted_tokens,
                                      const float* scores, const float* predicted_scores, const int32_t* offsets,
                                      const int32_t* row_offsets, int64_t count, int64_t row_capacity, int64_t canvases,
                                      int64_t mask_token, float ratio, bool adaptive, int64_t* new_tokens,
                                      float* new_scores, int64_t* next_rows, bool* changed, int64_t* masked_tokens,
                                      int32_t* next_offsets, int32_t* not_finite, void* stream) {
  const janus_fast::UpdateMaskCall call = {
      tokens,       rows,          predicted_tokens, scores,    predicted_scores, offsets,    row_offsets, count,
      row_capacity, canvases,      mask_token,       ratio,     adaptive,         new_tokens, new_scores,  next_rows,
      changed,      masked_tokens, next_offsets,     not_finite};
  return janus_fast::cuda::launch(janus_fast::cuda::update_mask_kernel, 1, janus_fast::cuda::kUpdateMaskThreads, 0,
                                  stream, call);
}
