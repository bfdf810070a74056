#include "csrc/engine/continuations.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace janus_fast {
namespace {

// The tokens that would complete an n-gram which these words hold already.
void repeated_ngrams(const Past& past, int64_t size, std::vector<int32_t>& followers) {
  if (past.count < size) return;
  const int32_t *word = past.words, *recent = word + past.count - size + 1;
  for (int64_t i = 0; i + size <= past.count; i++)
    if (std::equal(word + i, word + i + size - 1, recent)) followers.push_back(word[i + size - 1]);
}

// Logits -> log-probabilities.
void log_softmax(float* logits, int64_t count) {
  const float peak = *std::max_element(logits, logits + count);
  double total = 0;
  for (int64_t i = 0; i < count; i++) total += std::exp(logits[i] - peak);
  const auto log_total = static_cast<float>(std::log(total)) + peak;
  for (int64_t i = 0; i < count; i++) logits[i] -= log_total;
}

}  // namespace

Continuations::Continuations(const Model& model, const LeftToRightOptions& options, const Ids* prefixes, int64_t wanted)
    : longest(std::min(options.max_decoding_length, model.config.max_target_positions - 1)),
      model_(model),
      config_(model.config),
      options_(options),
      prefixes_(prefixes),
      wanted_(wanted),
      biased_(prefixes && options.prefix_bias_beta > 0),
      ends_(options.end_token),
      banned_(config_.suppressed) {
  if (ends_.empty()) ends_.push_back(config_.eos);
  if (options.disable_unk) banned_.push_back(config_.unk);
  for (const auto& sequence : options.suppress_sequences) {
    if (sequence.size() == 1) banned_.push_back(sequence[0]);
    if (sequence.size() > 1) sequences_.push_back(sequence);
  }
  const bool by_row = options.no_repeat_ngram_size > 0 || !sequences_.empty();
  whole_ = options.repetition_penalty != 1 || biased_ || options.return_logits_vocab ||
           (options.renormalize_logits && by_row);
}

void Continuations::ask(const std::vector<Past>& rows) {
  const size_t count = rows.size();
  asked_.assign(count, -1);
  logits_.resize(count);
  log_probs_.resize(count);
  too_short_.assign(count, false);
  followers_.clear();
  owners_.clear();
  int64_t most = 0;
  bool free = false, any_too_short = false;
  for (size_t row = 0; row < count; row++) {
    const Past& past = rows[row];
    owners_.push_back(past.owner);
    too_short_[row] = past.count < options_.min_decoding_length;
    any_too_short |= too_short_[row];
    if (past.count >= longest)  // nothing but the end may follow
      asked_[row] = ends_[0];
    else if (forced(past.owner, past.count))
      asked_[row] = prefixes_->ids[prefixes_->offsets[past.owner] + past.count];
    free |= asked_[row] < 0;
    if (options_.no_repeat_ngram_size == 0 && sequences_.empty()) continue;
    auto& followers = followers_.emplace_back();
    if (options_.no_repeat_ngram_size > 0) repeated_ngrams(past, options_.no_repeat_ngram_size, followers);
    for (const auto& sequence : sequences_) {
      const auto size = static_cast<int64_t>(sequence.size()) - 1;
      if (past.count >= size && std::equal(sequence.begin(), sequence.end() - 1, past.words + past.count - size))
        followers.push_back(sequence.back());
    }
    std::sort(followers.begin(), followers.end());
    followers.erase(std::unique(followers.begin(), followers.end()), followers.end());
    most = std::max(most, static_cast<int64_t>(followers.size()));
  }
  const int64_t all = config_.target_vocab_size, ends = any_too_short ? static_cast<int64_t>(ends_.size()) : 0;
  const int64_t banned = static_cast<int64_t>(banned_.size()) + ends;
  used_bias_ = bias(any_too_short);
  k = whole_ || !free ? 1 : wanted_ ? std::min(wanted_ + banned + most, all) : all;
  width = whole_ ? all : k;
  if (wanted_) width = std::min(wanted_, width);
  ids.assign(count * width, ends_[0]);
  log_probs.assign(count * width, -INFINITY);
  if (!whole_) return;
  logits.resize(count * all);
  rows_ = rows;
}

// The vocabulary's bias; where what is forbidden gives its probability to the others, without it.
const float* Continuations::bias(bool too_short) {
  if (!options_.renormalize_logits || whole_) return model_.vocabulary.bias;
  if (!bias_.empty() && too_short == short_bias_) return bias_.data();
  short_bias_ = too_short;
  const int64_t panel = model_.kernels.panel, padded = (config_.target_vocab_size + panel - 1) / panel * panel;
  bias_.assign(model_.vocabulary.bias, model_.vocabulary.bias + padded);
  for (int32_t token : banned_) bias_[token] = -INFINITY;
  for (int32_t token : ends_)
    if (too_short) bias_[token] = -INFINITY;
  return bias_.data();
}

void Continuations::look_up(Forward& forward, float* hidden) {
  const auto rows = static_cast<int64_t>(asked_.size());
  forward.vocabulary(hidden, rows, owners_.data(), used_bias_, k, asked_.data(), logits_.data(), log_probs_.data(),
                     whole_ ? logits.data() : nullptr);
  if (!whole_) return;
  forward.team.share(rows, [&](int64_t begin, int64_t end) {
    std::vector<int32_t> order;
    for (int64_t row = begin; row < end; row++) weigh(row, order);
  });
}

bool Continuations::banned(int32_t token, int64_t row) const {
  if (std::find(banned_.begin(), banned_.end(), token) != banned_.end()) return true;
  if (too_short_[row] && ends(token)) return true;
  return !followers_.empty() && std::binary_search(followers_[row].begin(), followers_[row].end(), token);
}

// Of a row's logits: what the options make of them, and the best tokens.
void Continuations::weigh(int64_t row, std::vector<int32_t>& order) {
  const int64_t all = config_.target_vocab_size;
  const Past& past = rows_[row];
  float* scores = logits.data() + row * all;
  const bool renormalize = options_.renormalize_logits;
  if (!renormalize) log_softmax(scores, all);
  if (options_.repetition_penalty != 1) {
    order.assign(past.words, past.words + past.count);
    std::sort(order.begin(), order.end());
    order.erase(std::unique(order.begin(), order.end()), order.end());
    const auto penalty = static_cast<float>(options_.repetition_penalty);
    for (int32_t token : order) scores[token] = scores[token] < 0 ? scores[token] * penalty : scores[token] / penalty;
  }
  if (asked_[row] < 0 || renormalize) {
    for (int32_t token : banned_) scores[token] = -INFINITY;
    if (too_short_[row])
      for (int32_t token : ends_) scores[token] = -INFINITY;
    if (!followers_.empty())
      for (int32_t token : followers_[row]) scores[token] = -INFINITY;
  }
  std::vector<float> kept(scores, scores + all);
  if (renormalize) log_softmax(kept.data(), all);
  if (asked_[row] >= 0) {
    log_probs_[row] = kept[asked_[row]];
    return;
  }
  if (biased_ && past.count < prefixes_->length(past.owner)) {
    const int32_t* prefix = prefixes_->ids + prefixes_->offsets[past.owner];
    if (std::equal(prefix, prefix + past.count, past.words)) {
      const auto beta = static_cast<float>(options_.prefix_bias_beta);
      for (float& log_prob : kept) log_prob = (1 - beta) * std::exp(log_prob);
      kept[prefix[past.count]] += beta;
      for (float& probability : kept) probability = std::log(probability);
    }
  }
  order.resize(all);
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](int32_t a, int32_t b) {  // what is no number comes first, and is found
    const bool a_is = kept[a] == kept[a], b_is = kept[b] == kept[b];
    if (a_is != b_is) return b_is;
    return a_is && kept[a] != kept[b] ? kept[a] > kept[b] : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + width, order.end(), before);
  for (int64_t i = 0; i < width; i++) {
    ids[row * width + i] = order[i];
    log_probs[row * width + i] = kept[order[i]];
  }
}

void Continuations::filter(const Workspace& workspace) {
  const int64_t rows = static_cast<int64_t>(asked_.size());
  for (int64_t row = 0; row < rows; row++) {
    int32_t* to = ids.data() + row * width;
    float* value = log_probs.data() + row * width;
    if (asked_[row] >= 0) {
      to[0] = asked_[row];
      value[0] = log_probs_[row];
      if (options_.renormalize_logits && value[0] == -INFINITY) value[0] = 0;  // what would not be allowed
      continue;
    }
    if (whole_) continue;
    for (int64_t i = 0, held = 0; i < k && held < width; i++) {
      const int32_t token = workspace.best_tokens[row * k + i];
      if (token < 0 || banned(token, row)) continue;
      to[held] = token;
      value[held++] = workspace.best_log_probs[row * k + i];
    }
  }
}

}  // namespace janus_fast
