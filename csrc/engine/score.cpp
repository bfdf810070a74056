#include "csrc/engine/score.h"

#include <algorithm>

namespace janus_fast {

std::vector<std::vector<float>> score(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                                      const Ids& targets) {
  const Config& config = model.config;
  const int64_t streams = 1 + config.two_stream, width = config.d_model, source_rows = sources.offsets[sources.count];
  // Content rows: the targets without their last token; then, with two streams, as many masks. Key j is seen from time
  // j on.
  std::vector<int32_t> content, asked, places, offsets = {0}, key_sequences;
  int64_t longest = 0, longest_source = 0;
  for (int64_t s = 0; s < sources.count; s++) {
    const int32_t *first = targets.ids + targets.offsets[s], *last = targets.ids + targets.offsets[s + 1];
    longest_source = std::max(longest_source, sources.length(s));
    longest = std::max(longest, targets.length(s));
    content.insert(content.end(), first, last - 1);
    asked.insert(asked.end(), first + 1, last);
    for (int32_t place = 0; place < last - 1 - first; place++) places.push_back(place);
  }
  const int64_t keys = static_cast<int64_t>(content.size());
  for (int64_t stream = 0; stream < streams; stream++)
    for (int64_t s = 0; s < sources.count; s++) {
      offsets.push_back(offsets.back() + static_cast<int32_t>(targets.length(s) - 1));
      key_sequences.push_back(static_cast<int32_t>(s));
    }
  if (streams == 2) {
    content.insert(content.end(), keys, config.mask);
    places.insert(places.end(), places.begin(), places.begin() + keys);
  }
  std::vector<float> logits(keys), log_probs(keys);

  team.run([&](Member& member) {
    Forward forward(model, workspace, member);
    forward.encode(sources.ids, sources.offsets, sources.count);
    forward.reserve(streams * keys, std::max(longest, longest_source), source_rows);
    member.once([&] { forward.reserve_vocabulary(keys, 1); });
    float *x = workspace.x.data(), *wide = workspace.wide.data();
    const int64_t rows = streams * keys, count = streams * sources.count;
    const Layout self = {rows,    count,         offsets.data(), offsets.data(), key_sequences.data(),
                         longest, places.data(), places.data()};
    const Layout cross = {rows,           count,   offsets.data(), sources.offsets, key_sequences.data(),
                          longest_source, nullptr, nullptr};
    forward.embed(model.decoder, content.data(), places.data(), rows, x);
    for (size_t i = 0; i < model.decoder.layers.size(); i++) {
      const Layer& layer = model.decoder.layers[i];
      const Operand in = forward.enter(layer.self_norm, x, rows);
      forward.multiply(
          {{in, rows, &layer.self.q, wide, 3 * width}, {in, keys, &layer.self.kv, wide + width, 3 * width}});
      forward.attend(wide, 3 * width, forward.rows_of(wide + width, 3 * width), self, workspace.attended.data());
      forward.after_self_attention(layer, forward.cross(static_cast<int64_t>(i), source_rows), x, cross);
    }
    forward.change_rows();  // content rows stay behind
    forward.vocabulary(x + (streams - 1) * keys * width, keys, model.vocabulary.bias, 1, asked.data(), logits.data(),
                       log_probs.data());
  });
  std::vector<std::vector<float>> scores;
  for (int64_t s = 0, row = 0; s < sources.count; s++) {
    const int64_t length = targets.length(s) - 1;
    scores.emplace_back(log_probs.begin() + row, log_probs.begin() + row + length);
    row += length;
  }
  return scores;
}

}  // namespace janus_fast
