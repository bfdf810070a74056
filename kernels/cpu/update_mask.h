// The step between two passes of mask-predict, over integers and comparisons: nothing here gains from wide vectors, so
// it is compiled once, for every processor.
#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/update_mask.h"

namespace janus_fast {

inline int64_t predictions_of(const UpdateMaskCall& call) {
  return call.row_offsets == nullptr ? call.row_capacity : call.row_offsets[call.canvases];
}

inline void update_mask(const UpdateMaskCall& call) {
  std::copy_n(call.tokens, call.count, call.new_tokens);
  std::copy_n(call.scores, call.count, call.new_scores);
  for (int64_t m = 0; m < predictions_of(call); m++) {
    call.new_tokens[call.rows[m]] = call.predicted_tokens[m];
    call.new_scores[call.rows[m]] = call.predicted_scores[m];
  }
  auto certainty = [&](int64_t row) { return std::isnan(call.new_scores[row]) ? -INFINITY : call.new_scores[row]; };
  auto less_certain = [&](int64_t a, int64_t b) {
    return certainty(a) != certainty(b) ? certainty(a) < certainty(b) : a < b;
  };
  auto masked = [&](int64_t row) { return call.new_tokens[row] == call.mask_token; };
  std::vector<int64_t> words;
  int64_t* next = call.next_rows;
  *call.not_finite = call.next_offsets[0] = 0;
  for (int64_t s = 0; s < call.canvases; s++) {
    const int64_t begin = call.offsets[s], end = call.offsets[s + 1];
    call.changed[s] = !std::equal(call.tokens + begin, call.tokens + end, call.new_tokens + begin);
    for (int64_t row = begin; row < end; row++) *call.not_finite += !std::isfinite(call.new_scores[row]);
    int64_t* const first = next;
    if (call.row_offsets == nullptr || call.row_offsets[s] < call.row_offsets[s + 1]) {  // else it is done
      words.clear();
      for (int64_t row = begin + 1; row < end - 1; row++) words.push_back(row);
      const int64_t count = static_cast<int64_t>(words.size()), chosen = words_to_mask(count, call.ratio);
      std::nth_element(words.begin(), words.begin() + chosen, words.end(), less_certain);
      next = std::copy_n(words.begin(), chosen, next);
      next = std::copy_if(words.begin() + chosen, words.end(), next, masked);
      if (end > begin && masked(begin)) *next++ = begin;
      if (end > begin + 1 && masked(end - 1)) *next++ = end - 1;
      if (call.adaptive && settled(call.changed[s], next - first, count)) next = first;
      std::sort(first, next);
    }
    call.next_offsets[s + 1] = static_cast<int32_t>(next - call.next_rows);
  }
  std::fill(next, call.next_rows + call.count, 0);
  std::copy_n(call.new_tokens, call.count, call.masked_tokens);
  for (const int64_t* row = call.next_rows; row < next; row++) call.masked_tokens[*row] = call.mask_token;
}

}  // namespace janus_fast
