// The tokens that may follow hypotheses, and their log-probabilities.
#pragma once

#include "csrc/engine/step_decoder.h"

namespace janus_fast {

// What a row follows: the words so far of an output of a source.
struct Past {
  const int32_t* words;
  int64_t count;
  int32_t owner;
};

// Asks the vocabulary for what options leave of it.
class Continuations {
 public:
  // `wanted` tokens a row, 0: all.
  Continuations(const Model& model, const LeftToRightOptions& options, const Ids* prefixes, int64_t wanted);

  // Before the vocabulary: how many tokens to ask for, and which log-probabilities. The words are not kept. By the
  // first member alone.
  void ask(const std::vector<Past>& rows);
  // After it: drops what may not follow. By the first member alone.
  void filter(const Workspace& workspace);

  int64_t longest;  // tokens of an output
  int64_t k = 0;    // what the vocabulary is asked for
  const int32_t* asked() const { return asked_.data(); }
  float* asked_logits() { return logits_.data(); }
  float* asked_log_probs() { return log_probs_.data(); }

  int64_t width = 0;             // tokens a row
  std::vector<int32_t> ids;      // [rows, width], best first; then ends
  std::vector<float> log_probs;  // minus infinity: may not follow

 private:
  bool banned(int32_t token, int64_t row) const;

  const Config& config_;
  const LeftToRightOptions& options_;
  const Ids* prefixes_;
  const int64_t wanted_;
  std::vector<int32_t> banned_, asked_;
  std::vector<bool> too_short_;  // the end may not follow
  std::vector<std::vector<int32_t>> repeats_;
  std::vector<float> logits_, log_probs_;
};

inline const char* const kNoOutput =
    "generate: every source must have an output of finite score, got one without: its logits are not finite, or the "
    "length and n-gram options forbid every token";

}  // namespace janus_fast
