#include "csrc/engine/continuations.h"

#include <algorithm>
#include <cmath>

namespace janus_fast {
namespace {

// The tokens that would complete an n-gram which these words hold already.
std::vector<int32_t> repeated_ngrams(const Past& past, int64_t size) {
  std::vector<int32_t> followers;
  if (past.count < size) return followers;
  const int32_t *word = past.words, *recent = word + past.count - size + 1;
  for (int64_t i = 0; i + size <= past.count; i++)
    if (std::equal(word + i, word + i + size - 1, recent)) followers.push_back(word[i + size - 1]);
  std::sort(followers.begin(), followers.end());
  followers.erase(std::unique(followers.begin(), followers.end()), followers.end());
  return followers;
}

}  // namespace

Continuations::Continuations(const Model& model, const LeftToRightOptions& options, const Ids* prefixes, int64_t wanted)
    : longest(std::min(options.max_decoding_length, model.config.max_target_positions - 1)),
      config_(model.config),
      options_(options),
      prefixes_(prefixes),
      wanted_(wanted) {}

void Continuations::ask(const std::vector<Past>& rows) {
  const size_t count = rows.size();
  asked_.assign(count, -1);
  logits_.resize(count);
  log_probs_.resize(count);
  too_short_.assign(count, false);
  repeats_.clear();
  banned_ = config_.suppressed;
  int64_t most = 0;
  bool free = false, any_too_short = false;
  for (size_t row = 0; row < count; row++) {
    const Past& past = rows[row];
    too_short_[row] = past.count < options_.min_decoding_length;
    any_too_short |= too_short_[row];
    if (past.count >= longest)  // nothing but the end may follow
      asked_[row] = config_.eos;
    else if (prefixes_ && past.count < prefixes_->length(past.owner))
      asked_[row] = prefixes_->ids[prefixes_->offsets[past.owner] + past.count];
    free |= asked_[row] < 0;
    if (options_.no_repeat_ngram_size > 0) {
      repeats_.push_back(repeated_ngrams(past, options_.no_repeat_ngram_size));
      most = std::max(most, static_cast<int64_t>(repeats_.back().size()));
    }
  }
  const int64_t all = config_.target_vocab_size, banned = static_cast<int64_t>(banned_.size()) + any_too_short;
  k = !free ? 1 : wanted_ ? std::min(wanted_ + banned + most, all) : all;
}

bool Continuations::banned(int32_t token, int64_t row) const {
  if (std::find(banned_.begin(), banned_.end(), token) != banned_.end()) return true;
  if (token == config_.eos && too_short_[row]) return true;
  return !repeats_.empty() && std::binary_search(repeats_[row].begin(), repeats_[row].end(), token);
}

void Continuations::filter(const Workspace& workspace) {
  const int64_t rows = static_cast<int64_t>(asked_.size());
  width = wanted_ ? std::min(wanted_, k) : k;
  ids.assign(rows * width, config_.eos);
  log_probs.assign(rows * width, -INFINITY);
  for (int64_t row = 0; row < rows; row++) {
    int32_t* to = ids.data() + row * width;
    float* value = log_probs.data() + row * width;
    if (asked_[row] >= 0) {
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
