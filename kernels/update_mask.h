// What update_mask reads and writes, on every device.
#pragma once

#include <cstdint>

namespace janus_fast {

// A canvas that a pass did not change has settled once at most one word of so many is masked.
constexpr int64_t kFew = 3;

struct UpdateMaskCall {
  const int64_t *tokens, *rows, *predicted_tokens;
  const float *scores, *predicted_scores;
  const int32_t *offsets, *row_offsets;  // where in `rows` those of each canvas begin; null: all count, none is done
  int64_t count, row_capacity, canvases, mask_token;
  float ratio;
  bool adaptive;
  // [N], [N], [N] ascending and then zeros, [S], [N] (new tokens, with masks where the next pass predicts), [S + 1]
  // (where in the list the rows of each canvas begin), and how many scores are not finite. Rows behind the last canvas
  // stay as they are and are not listed.
  int64_t* new_tokens;
  float* new_scores;
  int64_t* next_rows;
  bool* changed;
  int64_t* masked_tokens;
  int32_t *next_offsets, *not_finite;
};

}  // namespace janus_fast
