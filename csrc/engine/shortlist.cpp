#include "csrc/engine/shortlist.h"

#include <algorithm>

namespace janus_fast {

void Shortlist::load(const Model& model, const Ids* words) {
  tokens_.clear();
  if (!words) return;
  kernels_ = &model.kernels;
  places_.assign(model.vocabulary.outputs, -1);
  for (int64_t i = 0; i < words->size(); i++) places_[words->ids[i]] = 0;
  for (int32_t token = 0; token < model.vocabulary.outputs; token++) {
    if (places_[token] < 0) continue;
    places_[token] = static_cast<int32_t>(tokens_.size());
    tokens_.push_back(token);
  }
  const auto count = static_cast<int64_t>(tokens_.size());
  const int64_t groups = (count + kernels_->group - 1) / kernels_->group;
  words_.assign(words->ids, words->ids + words->size());
  offsets_.assign(words->offsets, words->offsets + words->count + 1);
  outputs_.clear(), starts_.clear();
  for (int32_t word : words_) outputs_.push_back(places_[word]);
  for (int64_t s = 0; s < words->count; s++) {
    const auto begin = outputs_.begin(), own = begin + offsets_[s], end = begin + offsets_[s + 1];
    for (int64_t group = 0; group <= groups; group++)
      starts_.push_back(static_cast<int32_t>(std::lower_bound(own, end, group * kernels_->group) - begin));
  }
  padded_ = (count + kernels_->panel - 1) / kernels_->panel * kernels_->panel;
  const Matrix& all = model.vocabulary;
  matrix_ = {all.type,
             count,
             all.inputs,
             panels_.grow(static_cast<int64_t>(kernels_->panel_bytes(all.type, count, all.inputs))),
             bias_.grow(padded_),
             scales_.grow(padded_),
             sums_.grow(padded_)};
  lists_ = {outputs_.data(), words_.data(), offsets_.data(), starts_.data(), nullptr, nullptr, words->longest()};
}

void Shortlist::gather(const Model& model, int64_t panel_begin, int64_t panel_end) {
  kernels_->gather(model.vocabulary, tokens_.data(), matrix_.outputs, panel_begin, panel_end, panels_.data(),
                   scales_.data(), sums_.data());
}

void Shortlist::begin(const float* bias, const int32_t* rows, float* logits) {
  for (int64_t i = 0; i < padded_; i++) bias_[i] = i < matrix_.outputs ? bias[tokens_[i]] : 0;
  lists_.rows = rows, lists_.logits = logits;
}

}  // namespace janus_fast
