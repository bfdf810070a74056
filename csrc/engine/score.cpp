#include "csrc/engine/score.h"

#include <algorithm>
#include <numeric>

#include "csrc/engine/step_decoder.h"

namespace janus_fast {

TeacherForcing::TeacherForcing(const Model& model, const Ids& targets, const std::vector<int32_t>& owners)
    : streams_(1 + model.config.two_stream), found_(targets.count) {
  const auto begin = [&](int64_t t) { return targets.ids + targets.offsets[t]; };
  const auto end = [&](int64_t t) { return targets.ids + targets.offsets[t + 1]; };
  std::vector<int64_t> order(targets.count);
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    if (owners[a] != owners[b]) return owners[a] < owners[b];
    return std::lexicographical_compare(begin(a), end(a), begin(b), end(b));
  });
  std::vector<int32_t> asked_places, asked_times, content, asked;  // the last two: rows of the target before
  int64_t first = 0;                                               // row of the sequence
  for (size_t i = 0; i < order.size(); i++) {
    const int64_t t = order[i], words = targets.length(t) - 1;
    int64_t common = 0;
    if (i > 0 && owners[order[i - 1]] == owners[t]) {
      const int64_t before = order[i - 1];
      common = std::mismatch(begin(before), end(before), begin(t), end(t)).first - begin(before);
    } else {
      first = static_cast<int64_t>(rows_.size());
      offsets_.push_back(static_cast<int32_t>(first));
      asked_offsets_.push_back(static_cast<int32_t>(asked_.size()));
      owners_.push_back(owners[t]);
      content.clear(), asked.clear();
    }
    while (static_cast<int64_t>(content.size()) > common) {
      visible_until_[content.back()] = static_cast<int32_t>(static_cast<int64_t>(rows_.size()) - first);
      content.pop_back();
    }
    asked.resize(std::min<int64_t>(asked.size(), std::max<int64_t>(common - 1, 0)));
    for (int64_t place = content.size(); place < words; place++) {
      content.push_back(static_cast<int32_t>(rows_.size()));
      times_.push_back(static_cast<int32_t>(static_cast<int64_t>(rows_.size()) - first));
      rows_.push_back(begin(t)[place]), places_.push_back(static_cast<int32_t>(place));
      visible_until_.push_back(INT32_MAX);
    }
    for (int64_t place = asked.size(); place < words; place++) {
      asked.push_back(static_cast<int32_t>(asked_.size()));
      asked_.push_back(begin(t)[place + 1]), asked_places.push_back(static_cast<int32_t>(place));
      asked_times.push_back(times_[content[place]]), asked_owners_.push_back(owners[t]);
    }
    most_keys_ = std::max(most_keys_, static_cast<int64_t>(rows_.size()) - first);
    found_[t] = asked;
  }
  sequences_ = static_cast<int64_t>(owners_.size());
  const int32_t rows = static_cast<int32_t>(rows_.size());
  offsets_.push_back(rows), asked_offsets_.push_back(static_cast<int32_t>(asked_.size()));
  keys_.resize(sequences_);
  std::iota(keys_.begin(), keys_.end(), 0);
  if (streams_ == 2) {
    rows_.insert(rows_.end(), asked_.size(), model.config.mask);
    places_.insert(places_.end(), asked_places.begin(), asked_places.end());
    times_.insert(times_.end(), asked_times.begin(), asked_times.end());
    for (int64_t s = 0; s < sequences_; s++) {
      offsets_.push_back(rows + asked_offsets_[s + 1]);
      keys_.push_back(keys_[s]), owners_.push_back(owners_[s]);
    }
  }
  logits_.resize(asked_.size()), log_probs_.resize(asked_.size());
}

void TeacherForcing::run(Forward& forward, const Ids& sources) {
  const int64_t content = static_cast<int64_t>(visible_until_.size()), rows = static_cast<int64_t>(rows_.size());
  const int64_t asked = static_cast<int64_t>(asked_.size());
  forward.reserve(rows, std::max(most_keys_, sources.longest()), sources.size());
  forward.reserve_vocabulary(asked, 1);
  const Queries all = {rows, streams_ * sequences_, offsets_.data(), times_.data()};
  const Queries last = {asked, sequences_, asked_offsets_.data(), times_.data() + rows - asked};
  const int32_t* selected = streams_ == 2 ? forward.workspace.identity.data() + content : nullptr;
  const Pass pass = {rows_.data(), places_.data(), content, all, last, selected, &sources, owners_.data()};
  const auto seen = forward.model.config.recurrent  // whose sequences are one target each
                        ? forward.recurrence(offsets_.data(), sequences_)
                        : forward.packed(offsets_.data(), keys_.data(), times_.data(), visible_until_.data());
  forward.vocabulary(forward.decode(pass, seen), asked, asked_owners_.data(), forward.model.vocabulary.bias, 1,
                     asked_.data(), logits_.data(), log_probs_.data());
}

std::vector<std::vector<float>> TeacherForcing::scores() const {
  std::vector<std::vector<float>> scores;
  for (const std::vector<int32_t>& own : found_) {
    scores.emplace_back();
    for (int32_t row : own) scores.back().push_back(log_probs_[row]);
  }
  return scores;
}

std::vector<std::vector<float>> score(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                                      const Ids& targets) {
  std::vector<int32_t> owners(sources.count);
  std::iota(owners.begin(), owners.end(), 0);
  TeacherForcing forcing(model, targets, owners);
  Forward forward(model, workspace, team);
  forward.encode(sources);
  forcing.run(forward, sources);
  return forcing.scores();
}

std::vector<std::vector<float>> score_in_steps(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                                               const Ids& targets, int64_t tokens) {
  StepDecoder decoder(model, workspace, sources, sources.count);
  for (int64_t s = 0; s < sources.count; s++) decoder.owners.push_back(static_cast<int32_t>(s));
  decoder.begins.assign(sources.count, 0);
  std::vector<int32_t> asked;  // -1 behind a target's end
  std::vector<float> logits(sources.count * tokens), log_probs(sources.count * tokens);
  std::vector<std::vector<float>> scores(sources.count);
  Forward forward(model, workspace, team);
  forward.encode(sources);
  forward.reserve((1 + model.config.two_stream) * sources.count * tokens, sources.longest(), sources.size());
  forward.reserve_vocabulary(sources.count * tokens, 1);
  const int64_t last = targets.longest() - 1;
  for (int64_t begin = 0; begin < last; begin += tokens) {
    const int64_t end = std::min(begin + tokens, last);
    decoder.tokens.clear();
    asked.clear();
    for (int64_t s = 0; s < sources.count; s++)
      for (int64_t place = begin; place < end; place++) {
        const bool within = place + 1 < targets.length(s);
        const int32_t* token = targets.ids + targets.offsets[s] + place;
        decoder.tokens.push_back(within ? token[0] : model.config.pad);
        asked.push_back(within ? token[1] : -1);
      }
    decoder.prepare();
    const int64_t rows = sources.count * (end - begin);
    forward.vocabulary(decoder.step(forward), rows, nullptr, model.vocabulary.bias, 1, asked.data(), logits.data(),
                       log_probs.data());
    for (int64_t row = 0; row < rows; row++)
      if (asked[row] >= 0) scores[row / (end - begin)].push_back(log_probs[row]);
    decoder.reorder(decoder.owners);
  }
  return scores;
}

}  // namespace janus_fast
