// The tokens that may follow hypotheses, and their log-probabilities.
#pragma once

#include <algorithm>

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

  // Before the vocabulary: how many tokens to ask for, and which log-probabilities. Where options need every
  // logit, the words must stay until these are weighed.
  void ask(const std::vector<Past>& rows);
  // The vocabulary of these hidden rows, and what options make of it.
  void look_up(Forward& forward, float* hidden);
  // After it: drops what may not follow.
  void filter(const Workspace& workspace);

  int64_t longest;  // tokens of an output
  int64_t k = 0;    // what the vocabulary is asked for

  bool ends(int64_t token) const {
    return token == ends_[0] || (ends_.size() > 1 && std::find(ends_.begin() + 1, ends_.end(), token) != ends_.end());
  }
  // Whether this token is of a prefix, which is forced.
  bool forced(int32_t owner, int64_t step) const { return prefixes_ && !biased_ && step < prefixes_->length(owner); }

  // Whether this is the first token behind a prefix, which may be empty.
  bool begins(int32_t owner, int64_t step) const { return prefixes_ && !biased_ && step == prefixes_->length(owner); }

  int64_t width = 0;             // tokens a row
  std::vector<int32_t> ids;      // [rows, width], best first; then ends
  std::vector<float> log_probs;  // minus infinity: may not follow
  std::vector<float> logits;     // [rows, vocabulary], where options need them: what they made of these

 private:
  bool banned(int32_t token, int64_t row) const;
  const float* bias(bool too_short);
  void weigh(int64_t row, std::vector<int32_t>& order);

  const Model& model_;
  const Config& config_;
  const LeftToRightOptions& options_;
  const Ids* prefixes_;
  const int64_t wanted_;
  bool biased_, whole_;      // towards the prefix, which is not forced; whether options need every logit
  bool short_bias_ = false;  // what bias_ was made for
  std::vector<int32_t> ends_, banned_, asked_, owners_;  // the last two of each row
  std::vector<bool> too_short_;                          // the end may not follow
  std::vector<std::vector<int32_t>> sequences_;          // that may not be said, of more than one token
  std::vector<std::vector<int32_t>> followers_;          // of each row: what would complete one, or an n-gram again
  std::vector<Past> rows_;
  std::vector<float> logits_, log_probs_, bias_;
  const float* used_bias_ = nullptr;
};

inline const char* const kNoOutput =
    "generate: every source must have an output of finite score, got one without: its logits are not finite, or the "
    "length and n-gram options forbid every token";

}  // namespace janus_fast
