#include "csrc/engine/score.h"

#include <algorithm>

#include "csrc/engine/step_decoder.h"

namespace janus_fast {

std::vector<std::vector<float>> score(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                                      const Ids& targets) {
  // Content rows: the targets without their last token; then, with two streams, as many masks. Key j is seen from time
  // j on.
  const int64_t streams = 1 + model.config.two_stream;
  std::vector<int32_t> content, asked, places, offsets = {0}, owners;
  for (int64_t s = 0; s < sources.count; s++) {
    const int32_t *first = targets.ids + targets.offsets[s], *last = targets.ids + targets.offsets[s + 1];
    content.insert(content.end(), first, last - 1);
    asked.insert(asked.end(), first + 1, last);
    for (int32_t place = 0; place < last - 1 - first; place++) places.push_back(place);
  }
  const int64_t keys = static_cast<int64_t>(content.size());
  for (int64_t stream = 0; stream < streams; stream++)
    for (int64_t s = 0; s < sources.count; s++) {
      offsets.push_back(offsets.back() + static_cast<int32_t>(targets.length(s) - 1));
      owners.push_back(static_cast<int32_t>(s));
    }
  if (streams == 2) {
    content.insert(content.end(), keys, model.config.mask);
    places.insert(places.end(), places.begin(), places.begin() + keys);
  }
  std::vector<float> logits(keys), log_probs(keys);

  team.run([&](Member& member) {
    Forward forward(model, workspace, member);
    forward.encode(sources);
    forward.reserve(streams * keys, std::max(targets.longest(), sources.longest()), sources.size());
    member.once([&] { forward.reserve_vocabulary(keys, 1); });
    const Queries last = {keys, sources.count, offsets.data(), places.data()};
    const Queries all = {streams * keys, streams * sources.count, offsets.data(), places.data()};
    const int32_t* selected = streams == 2 ? workspace.identity.data() + keys : nullptr;
    const Pass pass = {content.data(), places.data(), keys, all, last, selected, &sources, owners.data()};
    float* hidden = forward.decode(pass, forward.packed(offsets.data(), owners.data(), places.data()));
    forward.vocabulary(hidden, keys, model.vocabulary.bias, 1, asked.data(), logits.data(), log_probs.data());
  });
  std::vector<std::vector<float>> scores;
  for (int64_t s = 0, row = 0; s < sources.count; s++) {
    const int64_t length = targets.length(s) - 1;
    scores.emplace_back(log_probs.begin() + row, log_probs.begin() + row + length);
    row += length;
  }
  return scores;
}

std::vector<std::vector<float>> score_in_steps(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                                               const Ids& targets, int64_t tokens) {
  StepDecoder decoder(model, workspace, sources, sources.count);
  for (int64_t s = 0; s < sources.count; s++) decoder.owners.push_back(static_cast<int32_t>(s));
  decoder.begins.assign(sources.count, 0);
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
