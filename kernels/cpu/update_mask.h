// The step between two passes of a refinement, over integers and comparisons: nothing here gains from wide vectors, so
// it is compiled once, for every processor.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace janus_fast {

struct UpdateMaskCall {
  const int64_t *tokens, *rows, *predicted_tokens;
  const float *scores, *predicted_scores;
  const int32_t* offsets;
  int64_t count, masked, canvases, mask_token;
  float ratio;
  // Written: [count], [count], [canvases].
  int64_t* new_tokens;
  float* new_scores;
  bool* changed;
};

// Returns the rows to mask next, ascending.
inline std::vector<int64_t> update_mask(const UpdateMaskCall& call) {
  std::copy_n(call.tokens, call.count, call.new_tokens);
  std::copy_n(call.scores, call.count, call.new_scores);
  for (int64_t m = 0; m < call.masked; m++) {
    call.new_tokens[call.rows[m]] = call.predicted_tokens[m];
    call.new_scores[call.rows[m]] = call.predicted_scores[m];
  }
  auto certainty = [&](int64_t row) { return std::isnan(call.new_scores[row]) ? -INFINITY : call.new_scores[row]; };
  auto less_certain = [&](int64_t a, int64_t b) {
    return certainty(a) != certainty(b) ? certainty(a) < certainty(b) : a < b;
  };
  std::vector<int64_t> next, words;
  for (int64_t s = 0; s < call.canvases; s++) {
    const int64_t begin = call.offsets[s], end = call.offsets[s + 1];
    call.changed[s] = !std::equal(call.tokens + begin, call.tokens + end, call.new_tokens + begin);
    words.clear();
    for (int64_t row = begin + 1; row < end - 1; row++) words.push_back(row);
    // In float32, as the original counts.
    const int64_t chosen = static_cast<int64_t>(static_cast<float>(words.size()) * call.ratio);
    std::nth_element(words.begin(), words.begin() + chosen, words.end(), less_certain);
    const size_t first = next.size();
    next.insert(next.end(), words.begin(), words.begin() + chosen);
    for (auto word = words.begin() + chosen; word != words.end(); ++word)
      if (call.new_tokens[*word] == call.mask_token) next.push_back(*word);
    if (end > begin && call.new_tokens[begin] == call.mask_token) next.push_back(begin);
    if (end > begin + 1 && call.new_tokens[end - 1] == call.mask_token) next.push_back(end - 1);
    std::sort(next.begin() + first, next.end());
  }
  return next;
}

}  // namespace janus_fast
