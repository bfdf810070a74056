#include <algorithm>
#include <cmath>

#include "csrc/engine/autoregressive.h"
#include "csrc/engine/continuations.h"

namespace janus_fast {
namespace {

// Which of a row's continuations, best first, a uniform number in [0, 1) draws: in proportion to their weights at this
// temperature, among the fewest that hold `topp` of them.
int64_t draw(const float* log_probs, int64_t count, const AutoregressiveOptions& options, double uniform,
             std::vector<double>& weights) {
  weights.resize(count);
  const double peak = static_cast<double>(log_probs[0]) / options.sampling_temperature;
  double total = 0;
  for (int64_t i = 0; i < count; i++)
    total += weights[i] = std::exp(static_cast<double>(log_probs[i]) / options.sampling_temperature - peak);
  if (!std::isfinite(total)) throw NotFinite(kNoOutput);
  double before = 0, cumulative = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < count; i++) {
    const double weight = weights[i] / total, sum = before + weight;
    if (sum - weight >= options.sampling_topp)
      weights[i] = 0;
    else
      weights[i] = weight;
    before = sum;
    if (weights[i] > 0) last = i;
    cumulative += weights[i];
    weights[i] = cumulative;
  }
  int64_t drawn = 0;
  while (drawn < count && weights[drawn] <= uniform * cumulative) drawn++;
  return std::min(drawn, last);
}

}  // namespace

Hypotheses sample(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                  const AutoregressiveOptions& options, const Ids* prefixes) {
  const Config& config = model.config;
  const int64_t count = options.num_hypotheses, rows = sources.count * count;
  StepDecoder decoder(model, workspace, sources, rows);
  Continuations continuations(model, options, prefixes, options.sampling_topk);
  std::vector<std::vector<int32_t>> tokens(rows, {config.decoder_start});
  std::vector<std::vector<float>> scores(rows);
  std::vector<int32_t> active, origins;  // the samples that have not ended
  std::vector<double> weights;
  std::vector<Hypothesis> results(rows);
  for (int64_t r = 0; r < rows; r++) {
    active.push_back(static_cast<int32_t>(r));
    decoder.tokens.push_back(config.decoder_start);
    decoder.owners.push_back(static_cast<int32_t>(r / count));
  }
  // Ends or extends every sample by what its random number draws.
  const auto extend = [&](int64_t step) {
    continuations.filter(workspace);
    std::vector<int32_t> next_active, next_owners, next_tokens;
    std::vector<std::vector<int32_t>> kept_tokens;
    std::vector<std::vector<float>> kept_scores;
    origins.clear();
    for (size_t i = 0; i < active.size(); i++) {
      const float* log_probs = continuations.log_probs.data() + i * continuations.width;
      const int64_t drawn =
          draw(log_probs, continuations.width, options, options.uniforms[active[i] * options.steps + step], weights);
      const int32_t token = continuations.ids[i * continuations.width + drawn];
      scores[i].push_back(log_probs[drawn]);
      if (token == config.eos) {
        Hypothesis& result = results[active[i]];
        result.ids.assign(tokens[i].begin() + 1, tokens[i].end());
        double sum = 0;
        for (float score : scores[i]) sum += score;
        result.score = sum / std::pow(static_cast<double>(step + 1), options.length_penalty);
        result.token_scores = std::move(scores[i]);
        result.iterations = step + 1;
        continue;
      }
      tokens[i].push_back(token);
      kept_tokens.push_back(std::move(tokens[i]));
      kept_scores.push_back(std::move(scores[i]));
      next_active.push_back(active[i]);
      next_owners.push_back(decoder.owners[i]);
      next_tokens.push_back(token);
      origins.push_back(static_cast<int32_t>(i));
    }
    active.swap(next_active);
    decoder.owners.swap(next_owners);
    decoder.tokens.swap(next_tokens);
    tokens.swap(kept_tokens);
    scores.swap(kept_scores);
    decoder.reorder(origins);
  };
  team.run([&](Member& member) {
    Forward forward(model, workspace, member);
    forward.encode(sources);
    forward.reserve((1 + config.two_stream) * rows, sources.longest(), sources.size());
    for (int64_t step = 0; !active.empty(); step++) {
      member.once([&] {
        decoder.prepare();
        continuations.ask(step, tokens, decoder.owners);
        forward.reserve_vocabulary(static_cast<int64_t>(active.size()), continuations.k);
      });
      const int64_t hypotheses = static_cast<int64_t>(active.size());
      float* hidden = decoder.step(forward);
      forward.vocabulary(hidden, hypotheses, model.vocabulary.bias, continuations.k, continuations.asked(),
                         continuations.asked_logits(), continuations.asked_log_probs());
      member.once([&] { extend(step); });
    }
  });
  Hypotheses groups(sources.count);
  for (int64_t s = 0; s < sources.count; s++) {
    groups[s].assign(std::make_move_iterator(results.begin() + s * count),
                     std::make_move_iterator(results.begin() + (s + 1) * count));
    std::stable_sort(groups[s].begin(), groups[s].end(),
                     [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
  }
  return groups;
}

}  // namespace janus_fast
