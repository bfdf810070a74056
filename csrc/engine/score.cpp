#include "csrc/engine/score.h"

#include <algorithm>
#include <numeric>

#include "csrc/engine/step_decoder.h"

namespace janus_fast {

TeacherForcing::TeacherForcing(const Model& model, const Ids& targets, const std::vector<int32_t>& owners)
    : targets_(targets.count), streams_(1 + model.config.two_stream), longest_(targets.longest()) {
  for (int64_t t = 0; t < targets.count; t++) {
    const int32_t *first = targets.ids + targets.offsets[t], *last = targets.ids + targets.offsets[t + 1] - 1;
    rows_.insert(rows_.end(), first, last);
    asked_.insert(asked_.end(), first + 1, last + 1);
    for (int32_t place = 0; place < last - first; place++) places_.push_back(place);
  }
  const size_t content = rows_.size();
  for (int64_t stream = 0; stream < streams_; stream++)
    for (int64_t t = 0; t < targets.count; t++) {
      offsets_.push_back(offsets_.back() + static_cast<int32_t>(targets.length(t) - 1));
      keys_.push_back(static_cast<int32_t>(t));
      owners_.push_back(owners[t]);
    }
  if (streams_ == 2) {
    rows_.insert(rows_.end(), content, model.config.mask);
    places_.insert(places_.end(), places_.begin(), places_.begin() + content);
  }
  logits_.resize(content), log_probs_.resize(content);
}

void TeacherForcing::run(Forward& forward, const Ids& sources) {
  const int64_t content = static_cast<int64_t>(asked_.size()), rows = static_cast<int64_t>(rows_.size());
  forward.reserve(rows, std::max(longest_, sources.longest()), sources.size());
  forward.member.once([&] { forward.reserve_vocabulary(content, 1); });
  const Queries all = {rows, streams_ * targets_, offsets_.data(), places_.data()};
  const Queries last = {content, targets_, offsets_.data(), places_.data()};
  const int32_t* selected = streams_ == 2 ? forward.workspace.identity.data() + content : nullptr;
  const Pass pass = {rows_.data(), places_.data(), content, all, last, selected, &sources, owners_.data()};
  float* hidden = forward.decode(pass, forward.packed(offsets_.data(), keys_.data(), places_.data()));
  forward.vocabulary(hidden, content, forward.model.vocabulary.bias, 1, asked_.data(), logits_.data(),
                     log_probs_.data());
}

std::vector<std::vector<float>> TeacherForcing::scores() const {
  std::vector<std::vector<float>> scores;
  for (int64_t t = 0; t < targets_; t++)
    scores.emplace_back(log_probs_.begin() + offsets_[t], log_probs_.begin() + offsets_[t + 1]);
  return scores;
}

std::vector<std::vector<float>> score(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                                      const Ids& targets) {
  std::vector<int32_t> owners(sources.count);
  std::iota(owners.begin(), owners.end(), 0);
  TeacherForcing forcing(model, targets, owners);
  team.run([&](Member& member) {
    Forward forward(model, workspace, member);
    forward.encode(sources);
    forcing.run(forward, sources);
  });
  return forcing.scores();
}

std::vector<std::vector<float>> score_in_steps(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                                               const Ids& targets, int64_t tokens) {
  StepDecoder decoder(model, workspace, sources, sources.count);
  for (int64_t s = 0; s < sources.count; s++) decoder.owners.push_back(static_cast<int32_t>(s));
  std::vector<int32_t> asked;  // -1 behind a target's end
  std::vector<float> logits(sources.count * tokens), log_probs(sources.count * tokens);
  std::vector<std::vector<float>> scores(sources.count);
  team.run([&](Member& member) {
    Forward forward(model, workspace, member);
    forward.encode(sources);
    forward.reserve((1 + model.config.two_stream) * sources.count * tokens, sources.longest(), sources.size());
    member.once([&] { forward.reserve_vocabulary(sources.count * tokens, 1); });
    const int64_t last = targets.longest() - 1;
    for (int64_t begin = 0; begin < last; begin += tokens) {
      const int64_t end = std::min(begin + tokens, last);
      member.once([&] {
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
      });
      const int64_t rows = sources.count * (end - begin);
      forward.vocabulary(decoder.step(forward), rows, model.vocabulary.bias, 1, asked.data(), logits.data(),
                         log_probs.data());
      member.once([&] {
        for (int64_t row = 0; row < rows; row++)
          if (asked[row] >= 0) scores[row / (end - begin)].push_back(log_probs[row]);
        decoder.reorder(decoder.owners);
      });
    }
  });
  return scores;
}

}  // namespace janus_fast
