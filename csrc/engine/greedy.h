// Outputs that go on by the likeliest word, however many of these a pass finds.
#pragma once

#include <cmath>

#include "csrc/engine/continuations.h"
#include "kernels/cpu/beam_step.h"

namespace janus_fast {

// An output in the making.
struct Output {
  int32_t number;  // of its source
  std::vector<int32_t> words;
  std::vector<float> scores;
  float total = 0;
  int64_t passes = 0;
  int64_t count() const { return static_cast<int64_t>(words.size()); }
};

class Greedy {
 public:
  Greedy(const Model& model, const LeftToRightOptions& options, const Ids* prefixes, int64_t sources)
      : continuations(model, options, prefixes, 2),
        results(sources),
        config_(model.config),
        prefixes_(prefixes),
        length_penalty_(options.length_penalty) {}

  Continuations continuations;
  Hypotheses results;

 protected:
  int64_t prefix_length(const Output& output) const { return prefixes_ ? prefixes_->length(output.number) : 0; }
  const int32_t* prefix(const Output& output) const { return prefixes_->ids + prefixes_->offsets[output.number]; }

  // The word that the model says at this row of the continuations; false where the output ends, which is its result.
  bool accept(Output& output, int64_t row) {
    const int64_t choices = continuations.width, step = output.count();
    const float* log_probs = continuations.log_probs.data() + row * choices;
    if (!step_.choose(&output.total, log_probs, continuations.ids.data() + row * choices, 1, choices, 1,
                      [&](int64_t token) { return token == config_.eos; }))
      throw NotFinite(kNoOutput);
    if (!step_.finished.empty()) {
      const Beam::Candidate& end = step_.finished[0];
      output.scores.push_back(end.log_prob);
      const double score = end.total / std::pow(static_cast<double>(step + 1), length_penalty_);
      results[output.number].push_back({output.words, score, output.scores, output.passes, {}, {}, {}, {}, {}});
      return false;
    }
    if (step >= continuations.longest) throw NotFinite(kNoOutput);
    const Beam::Candidate& next = step_.going[0];
    output.words.push_back(static_cast<int32_t>(next.token));
    output.scores.push_back(next.log_prob);
    output.total = step < prefix_length(output) ? 0 : next.total;  // a prefix is free
    return true;
  }

  const Config& config_;
  const Ids* prefixes_;

 private:
  const double length_penalty_;
  Beam step_;
};

}  // namespace janus_fast
