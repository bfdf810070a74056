// What update_mask reads and writes, on every device.
#pragma once

#include <cstdint>

namespace janus_fast {

#ifdef __CUDACC__
#define JANUS_EVERYWHERE __host__ __device__
#else
#define JANUS_EVERYWHERE
#endif

// How many of the words of a canvas are masked again: in float32, as the original counts.
template <typename Int>
JANUS_EVERYWHERE inline Int words_to_mask(Int words, float ratio) {
  return static_cast<Int>(static_cast<float>(words) * ratio);
}

// Whether a canvas is done before its time: a pass did not change it, and at most one word of three is masked.
JANUS_EVERYWHERE inline bool settled(bool changed, int64_t masked, int64_t words) {
  return !changed && 3 * masked <= words;
}

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
