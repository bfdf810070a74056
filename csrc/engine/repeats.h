// What `remove_repeats` does, in every mode that has it.
#pragma once

#include "csrc/engine/options.h"

namespace janus_fast {

// Removes the words behind the `known` first ones that are the one before them, with their scores. Of an output that
// has a score for its end, that stays.
inline void remove_repeats(Hypothesis& result, int64_t known = 0) {
  std::vector<int32_t>& ids = result.ids;
  std::vector<float>& scores = result.token_scores;
  size_t kept = 0;
  for (size_t i = 0; i < ids.size(); i++) {
    if (kept > 0 && static_cast<int64_t>(i) >= known && ids[i] == ids[kept - 1]) continue;
    ids[kept] = ids[i], scores[kept++] = scores[i];
  }
  scores.erase(scores.begin() + kept, scores.begin() + ids.size());
  ids.resize(kept);
}

}  // namespace janus_fast
