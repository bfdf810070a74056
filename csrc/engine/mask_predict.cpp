#include "csrc/engine/mask_predict.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "csrc/engine/repeats.h"
#include "csrc/engine/score.h"
#include "kernels/cpu/update_mask.h"

namespace janus_fast {
namespace {

void require_finite(const char* what, const float* values, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (!std::isfinite(values[i]))
      throw NotFinite(std::string("generate: every ") + what + " must have a finite score, got NaN or infinity");
}

constexpr int32_t kNever = 1 << 30;  // when a mask is seen in a model of permuted prediction

struct Canvas {
  int64_t candidate, source, length;
};

// The canvases still being refined, packed, and what a pass reads of them; finished ones move to their hypotheses and
// leave. Every one of them has masked rows.
class Canvases {
 public:
  Canvases(const Config& config, const NonAutoregressiveOptions& options) : config_(config), options_(options) {}

  void add(int64_t source, int64_t length) {
    const Canvas canvas = {static_cast<int64_t>(results.size()), source, length};
    results.emplace_back();
    owners.push_back(static_cast<int32_t>(source));
    if (length <= 2) return;  // no words: nothing to refine
    std::vector<int64_t> tokens(length, config_.mask), masked(length - 2);
    const std::vector<float> scores(length);
    std::vector<int32_t> times(length, kNever);
    tokens.front() = config_.bos, tokens.back() = config_.eos;
    times.front() = 0, times.back() = 1;
    std::iota(masked.begin(), masked.end(), 1);
    if (options_.return_history) remember(canvas, tokens.data());
    append(canvas, 0, tokens.data(), scores.data(), times.data(), tokens.data(), masked.data(), length - 2);
  }

  // In a model of permuted prediction: puts behind the canvases' rows a query for each word to be predicted, a mask at
  // the place before it, which sees what was known before this pass. Returns how many rows are those of canvases.
  int64_t ask(int64_t iteration) {
    const size_t count = canvases_.size(), content = tokens_.size();
    if (!config_.permuted) return static_cast<int64_t>(content);
    keys.resize(2 * count);
    for (size_t i = 0; i < count; i++) {
      keys[i] = keys[count + i] = static_cast<int32_t>(i);
      offsets.push_back(static_cast<int32_t>(content) + masked_offsets[i + 1]);
      sources.push_back(sources[i]);
    }
    for (int32_t row : rows) {
      input.push_back(config_.mask);
      places.push_back(places[row] - 1);
      times.push_back(static_cast<int32_t>(iteration));
    }
    return static_cast<int64_t>(content);
  }

  void update(const int32_t* predicted, const float* log_probs, int64_t iteration) {
    const size_t count = tokens_.size(), canvases = canvases_.size();
    std::vector<int64_t> predicted_tokens(predicted, predicted + masked_.size());
    std::vector<float> predicted_scores(log_probs, log_probs + masked_.size());
    if (options_.ordered()) {  // the surest word of each canvas; but for "easy_first" there is no other
      for (size_t i = 0; i < canvases; i++) {
        const float* first = log_probs + masked_offsets[i];
        const int64_t best = std::max_element(first, log_probs + masked_offsets[i + 1]) - log_probs;
        times[masked_[best]] = static_cast<int32_t>(iteration) + 1;
        masked_[i] = masked_[best], predicted_tokens[i] = predicted[best], predicted_scores[i] = log_probs[best];
        masked_offsets[i] = static_cast<int32_t>(i);
      }
      masked_offsets[canvases] = static_cast<int32_t>(canvases);
      masked_.resize(canvases);
    }
    std::vector<int64_t> new_tokens(count), masked_tokens(count), next_rows(count);
    std::vector<float> new_scores(count);
    std::vector<int32_t> next_offsets(canvases + 1);
    std::vector<uint8_t> changed(canvases);
    int32_t not_finite = 0;
    UpdateMaskCall call = {};
    call.tokens = tokens_.data(), call.scores = scores_.data(), call.rows = masked_.data();
    call.predicted_tokens = predicted_tokens.data(), call.predicted_scores = predicted_scores.data();
    call.offsets = offsets.data(), call.row_offsets = masked_offsets.data();
    call.count = static_cast<int64_t>(count), call.row_capacity = static_cast<int64_t>(masked_.size());
    call.canvases = static_cast<int64_t>(canvases), call.mask_token = config_.mask;
    call.adaptive = options_.adaptive && !options_.ordered();
    if (!options_.ordered())  // else only what is a mask yet stays masked
      call.ratio = static_cast<float>(1.0 - static_cast<double>(iteration) / static_cast<double>(options_.iterations));
    call.new_tokens = new_tokens.data(), call.new_scores = new_scores.data();
    call.masked_tokens = masked_tokens.data(), call.next_rows = next_rows.data();
    call.next_offsets = next_offsets.data(), call.changed = reinterpret_cast<bool*>(changed.data());
    call.not_finite = &not_finite;
    update_mask(call);

    const std::vector<Canvas> before = std::move(canvases_);
    const std::vector<int32_t> begins = std::move(offsets), seen = std::move(times);
    canvases_.clear(), tokens_.clear(), scores_.clear(), masked_.clear(), input.clear(), places.clear(), rows.clear();
    times.clear(), row_sources.clear(), sources.clear(), offsets.assign(1, 0), masked_offsets.assign(1, 0), longest = 0;
    for (size_t i = 0; i < canvases; i++) {
      const int64_t begin = begins[i], masked = next_offsets[i + 1] - next_offsets[i];
      const bool done = masked == 0 || (!options_.ordered() && iteration == options_.iterations);
      // what is still masked of one that is done was filled by this pass
      if (options_.return_history) {
        remember(before[i], (done ? new_tokens : masked_tokens).data() + begin);
        Hypothesis& result = results[before[i].candidate];
        result.predictions.emplace_back(&new_tokens[begin + 1], &new_tokens[begin + before[i].length - 1]);
        result.prediction_scores.emplace_back(&new_scores[begin + 1], &new_scores[begin + before[i].length - 1]);
      }
      if (done)
        finish(before[i], new_tokens.data() + begin, new_scores.data() + begin, iteration);
      else
        append(before[i], begin, new_tokens.data() + begin, new_scores.data() + begin, seen.data() + begin,
               masked_tokens.data() + begin, next_rows.data() + next_offsets[i], masked);
    }
  }

  // The pass that scores all results, which are finished, left to right.
  TeacherForcing forced(const Model& model) const {
    std::vector<int32_t> ids, begins = {0};
    for (const Hypothesis& result : results) {
      ids.push_back(config_.bos);
      ids.insert(ids.end(), result.ids.begin(), result.ids.end());
      ids.push_back(config_.eos);
      begins.push_back(static_cast<int32_t>(ids.size()));
    }
    return {model, {ids.data(), begins.data(), static_cast<int64_t>(results.size())}, owners};
  }

  // What that pass found.
  void take(std::vector<std::vector<float>> scores) {
    for (size_t i = 0; i < results.size(); i++) {
      require_finite("candidate", scores[i].data(), static_cast<int64_t>(scores[i].size()));
      results[i].token_scores = std::move(scores[i]);
    }
  }

  std::vector<int32_t> input, places, offsets = {0}, rows, row_sources, masked_offsets = {0}, sources;
  std::vector<int32_t> times, keys;  // from when on each row is seen; of each sequence the one that it sees
  int64_t longest = 0;
  std::vector<Hypothesis> results;
  std::vector<int32_t> owners;  // the source of each result

 private:
  // A canvas that goes on. In `masked` its first row has the number `origin`; an order may predict one of them alone.
  void append(const Canvas& canvas, int64_t origin, const int64_t* tokens, const float* scores, const int32_t* seen,
              const int64_t* masked_tokens, const int64_t* masked, int64_t masked_count) {
    const int64_t begin = offsets.back(), length = canvas.length;
    canvases_.push_back(canvas);
    tokens_.insert(tokens_.end(), tokens, tokens + length);
    scores_.insert(scores_.end(), scores, scores + length);
    times.insert(times.end(), seen, seen + length);
    input.insert(input.end(), masked_tokens, masked_tokens + length);
    const bool first = options_.order == "left_to_right", last = options_.order == "right_to_left";
    for (int64_t m = last ? masked_count - 1 : 0; m < (first ? 1 : masked_count); m++) {
      masked_.push_back(masked[m] - origin + begin);
      rows.push_back(static_cast<int32_t>(masked_.back()));
      row_sources.push_back(static_cast<int32_t>(canvas.source));
    }
    for (int64_t place = 0; place < length; place++) places.push_back(static_cast<int32_t>(place));
    offsets.push_back(static_cast<int32_t>(begin + length));
    masked_offsets.push_back(static_cast<int32_t>(masked_.size()));
    sources.push_back(static_cast<int32_t>(canvas.source));
    longest = std::max(longest, length);
  }

  void finish(const Canvas& canvas, const int64_t* tokens, const float* scores, int64_t iterations) {
    Hypothesis& result = results[canvas.candidate];
    for (int64_t i = 1; i < canvas.length - 1; i++) {
      result.ids.push_back(static_cast<int32_t>(tokens[i]));
      result.token_scores.push_back(scores[i]);
    }
    if (options_.remove_repeats) remove_repeats(result);
    result.iterations = iterations;
  }

  void remember(const Canvas& canvas, const int64_t* tokens) {
    results[canvas.candidate].history.emplace_back(tokens + 1, tokens + canvas.length - 1);
  }

  const Config& config_;
  const NonAutoregressiveOptions& options_;
  std::vector<Canvas> canvases_;
  std::vector<int64_t> tokens_, masked_;
  std::vector<float> scores_;
};

// The candidates of one source, scored, best first.
void rank(std::vector<Hypothesis>& group, int64_t most_likely_length, const NonAutoregressiveOptions& options) {
  for (Hypothesis& candidate : group) {
    double sum = 0;
    for (float score : candidate.token_scores) sum += score;
    const double words = static_cast<double>(candidate.ids.size());
    if (options.rerank)
      candidate.score = sum / (words + 1);
    else if (options.score == "canvas")
      candidate.score = sum / (words + 2);
    else if (words > 0)
      candidate.score = sum / words;
    else
      candidate.score = most_likely_length == 2 ? 0.0 : -INFINITY;
  }
  std::stable_sort(group.begin(), group.end(),
                   [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
  if (static_cast<int64_t>(group.size()) > options.num_hypotheses) group.resize(options.num_hypotheses);
}

}  // namespace

Hypotheses mask_predict(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                        const NonAutoregressiveOptions& options) {
  const Config& config = model.config;
  const int64_t longest = std::min(config.max_target_positions, config.length_classes - 1), beam = options.length_beam;
  const int64_t width = config.d_model;
  Canvases canvases(config, options);
  std::vector<int64_t> lengths(sources.count * beam);
  std::vector<float> length_log_probs(sources.count * beam);

  Forward forward(model, workspace, team);
  forward.encode(sources, options.words);
  const PredictLengthsCall<float> call = {workspace.encoded.data(),
                                          width,
                                          sources.offsets,
                                          model.lengths,
                                          width,
                                          config.length_classes,
                                          width,
                                          beam,
                                          options.length_candidates == "window",
                                          2,
                                          longest,
                                          lengths.data(),
                                          length_log_probs.data()};
  team.share(sources.count, [&](int64_t begin, int64_t end, int part) {
    model.kernels.predict_lengths.run(call, begin, end, forward.scratch(part));
  });
  require_finite("length", length_log_probs.data(), sources.count * beam);
  for (int64_t s = 0; s < sources.count; s++)
    for (int64_t i = 0; i < beam; i++) {  // of equal lengths the first alone is refined
      const int64_t* own = lengths.data() + s * beam;
      if (std::find(own, own + i, own[i]) == own + i) canvases.add(s, own[i]);
    }
  forward.reserve(static_cast<int64_t>(canvases.input.size() + canvases.rows.size()),
                  std::max(canvases.longest, sources.longest()), sources.size());
  forward.reserve_vocabulary(static_cast<int64_t>(canvases.rows.size()), 1);

  const int64_t passes = options.ordered() ? canvases.longest : options.iterations;  // no word takes two
  for (int64_t iteration = 1; iteration <= passes && !canvases.rows.empty(); iteration++) {
    const int64_t count = static_cast<int64_t>(canvases.sources.size()), content = canvases.ask(iteration);
    const int64_t rows = static_cast<int64_t>(canvases.input.size());
    const int64_t masked = static_cast<int64_t>(canvases.rows.size());
    const bool asks = config.permuted;
    const int32_t *times = asks ? canvases.times.data() : nullptr, *queries = workspace.identity.data() + content;
    const Queries all = {rows, static_cast<int64_t>(canvases.sources.size()), canvases.offsets.data(), times};
    const Queries last = {masked, count, canvases.masked_offsets.data(), asks ? times + content : nullptr};
    const Pass pass = {canvases.input.data(),
                       canvases.places.data(),
                       content,
                       all,
                       last,  // only what is predicted
                       asks ? queries : canvases.rows.data(),
                       &sources,
                       canvases.sources.data()};
    const int32_t* keys = asks ? canvases.keys.data() : workspace.identity.data();
    float* hidden = forward.decode(pass, forward.packed(canvases.offsets.data(), keys, times));
    forward.vocabulary(hidden, masked, canvases.row_sources.data(), model.canvas_bias, 1);
    require_finite("prediction", workspace.best_log_probs.data(), masked);
    canvases.update(workspace.best_tokens.data(), workspace.best_log_probs.data(), iteration);
  }
  if (options.rerank) {
    TeacherForcing forcing = canvases.forced(model);
    forcing.run(forward, sources);
    canvases.take(forcing.scores());
  }

  Hypotheses groups(sources.count);
  for (size_t i = 0; i < canvases.results.size(); i++)
    groups[canvases.owners[i]].push_back(std::move(canvases.results[i]));
  for (int64_t s = 0; s < sources.count; s++) {
    const float* own = length_log_probs.data() + s * beam;
    rank(groups[s], lengths[s * beam + (std::max_element(own, own + beam) - own)], options);
  }
  return groups;
}

}  // namespace janus_fast
