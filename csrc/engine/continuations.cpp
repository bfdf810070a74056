#include "csrc/engine/continuations.h"

#include <algorithm>
#include <cmath>

namespace janus_fast {
namespace {

// The tokens that would complete an n-gram which the words of `tokens` (its start aside) hold already.
std::vector<int32_t> repeated_ngrams(const std::vector<int32_t>& tokens, int64_t size) {
  std::vector<int32_t> followers;
  const int64_t words = static_cast<int64_t>(tokens.size()) - 1;
  if (words < size) return followers;
  const int32_t* word = tokens.data() + 1;
  const int32_t* recent = word + words - size + 1;
  for (int64_t i = 0; i + size <= words; i++)
    if (std::equal(word + i, word + i + size - 1, recent)) followers.push_back(word[i + size - 1]);
  std::sort(followers.begin(), followers.end());
  followers.erase(std::unique(followers.begin(), followers.end()), followers.end());
  return followers;
}

}  // namespace

Continuations::Continuations(const Model& model, const AutoregressiveOptions& options, const Ids* prefixes,
                             int64_t wanted)
    : longest(std::min(options.max_decoding_length, model.config.max_target_positions - 1)),
      config_(model.config),
      options_(options),
      prefixes_(prefixes),
      wanted_(wanted) {}

void Continuations::ask(int64_t step, const std::vector<std::vector<int32_t>>& tokens,
                        const std::vector<int32_t>& owners) {
  step_ = step;
  rows_ = static_cast<int64_t>(owners.size());
  asked_.assign(rows_, -1);
  logits_.resize(rows_);
  log_probs_.resize(rows_);
  repeats_.clear();
  banned_ = {config_.pad, config_.bos};
  if (!config_.predictable_mask()) banned_.push_back(config_.mask);
  if (step < options_.min_decoding_length) banned_.push_back(config_.eos);
  std::sort(banned_.begin(), banned_.end());
  banned_.erase(std::unique(banned_.begin(), banned_.end()), banned_.end());
  if (step >= longest) {  // nothing but the end may follow
    k = 1;
    asked_.assign(rows_, config_.eos);
    return;
  }
  size_t most = 0;
  if (options_.no_repeat_ngram_size > 0)
    for (int64_t row = 0; row < rows_; row++) {
      repeats_.push_back(repeated_ngrams(tokens[row], options_.no_repeat_ngram_size));
      most = std::max(most, repeats_.back().size());
    }
  const int64_t all = config_.target_vocab_size;
  k = wanted_ ? std::min(wanted_ + static_cast<int64_t>(banned_.size() + most), all) : all;
  if (prefixes_)
    for (int64_t row = 0; row < rows_; row++)
      if (step < prefixes_->length(owners[row])) asked_[row] = prefixes_->ids[prefixes_->offsets[owners[row]] + step];
}

bool Continuations::banned(int32_t token, int64_t row) const {
  if (std::find(banned_.begin(), banned_.end(), token) != banned_.end()) return true;
  return !repeats_.empty() && std::binary_search(repeats_[row].begin(), repeats_[row].end(), token);
}

void Continuations::filter(const Workspace& workspace) {
  const bool ends = step_ >= longest;
  width = ends ? 1 : wanted_ ? std::min(wanted_, k) : k;
  ids.assign(rows_ * width, config_.eos);
  log_probs.assign(rows_ * width, -INFINITY);
  for (int64_t row = 0; row < rows_; row++) {
    int32_t* to = ids.data() + row * width;
    float* value = log_probs.data() + row * width;
    if (ends || asked_[row] >= 0) {
      to[0] = asked_[row];
      value[0] = log_probs_[row];
      continue;
    }
    for (int64_t i = 0, held = 0; i < k && held < width; i++) {
      const int32_t token = workspace.best_tokens[row * k + i];
      if (token < 0 || banned(token, row)) continue;
      to[held] = token;
      value[held++] = workspace.best_log_probs[row * k + i];
    }
  }
}

}  // namespace janus_fast
