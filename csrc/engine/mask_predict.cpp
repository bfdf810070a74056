#include "csrc/engine/mask_predict.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/cpu/update_mask.h"

namespace janus_fast {
namespace {

// A canvas that a pass did not change is done once at most one word of so many is still masked. Agreement before that
// says little: most words were guessed beside masks.
constexpr int64_t kFew = 3;

struct Canvas {
  int64_t candidate, source, length, passes;
};

// The canvases still being refined, packed; finished ones move to their hypotheses and leave.
class Canvases {
 public:
  Canvases(const Config& config, const NonAutoregressiveOptions& options) : config_(config), options_(options) {}

  void add(int64_t source, int64_t length) {
    const int64_t candidate = static_cast<int64_t>(results.size());
    results.emplace_back();
    owners.push_back(source);
    if (length <= 2) return;  // no words: nothing to refine
    canvases_.push_back({candidate, source, length, 0});
    const int64_t begin = static_cast<int64_t>(tokens_.size());
    tokens_.push_back(config_.bos);
    tokens_.insert(tokens_.end(), length - 2, config_.mask);
    tokens_.push_back(config_.eos);
    scores_.insert(scores_.end(), length, 0.0f);
    for (int64_t i = 1; i < length - 1; i++) masked_.push_back(begin + i);
  }

  // What a pass reads, for the canvases and masks of now.
  void layout() {
    const int64_t count = static_cast<int64_t>(canvases_.size());
    offsets.assign(1, 0);
    masked_offsets.assign(1, 0);
    places.clear();
    sources.clear();
    rows.assign(masked_.begin(), masked_.end());
    input.assign(tokens_.begin(), tokens_.end());
    for (int64_t row : masked_) input[row] = config_.mask;
    int64_t passed = 0;
    longest = 0;
    for (int64_t i = 0; i < count; i++) {
      const Canvas& canvas = canvases_[i];
      for (int64_t place = 0; place < canvas.length; place++) places.push_back(static_cast<int32_t>(place));
      offsets.push_back(offsets.back() + static_cast<int32_t>(canvas.length));
      while (passed < static_cast<int64_t>(masked_.size()) && masked_[passed] < offsets.back()) passed++;
      masked_offsets.push_back(static_cast<int32_t>(passed));
      sources.push_back(static_cast<int32_t>(canvas.source));
      longest = std::max(longest, canvas.length);
    }
  }

  void update(const int32_t* predicted, const float* log_probs, int64_t iteration) {
    const int64_t count = static_cast<int64_t>(tokens_.size());
    for (size_t i = 0; i < canvases_.size(); i++) {
      const bool predicts = masked_offsets[i] < masked_offsets[i + 1];
      canvases_[i].passes += predicts;
      if (options_.return_history && iteration == 1 && predicts) remember(i, input);
    }
    predicted_.assign(predicted, predicted + masked_.size());
    new_tokens_.resize(count);
    new_scores_.resize(count);
    changed_.resize(canvases_.size());
    UpdateMaskCall call = {};
    call.tokens = tokens_.data();
    call.rows = masked_.data();
    call.predicted_tokens = predicted_.data();
    call.scores = scores_.data();
    call.predicted_scores = log_probs;
    call.offsets = offsets.data();
    call.count = count;
    call.masked = static_cast<int64_t>(masked_.size());
    call.canvases = static_cast<int64_t>(canvases_.size());
    call.mask_token = config_.mask;
    call.ratio = static_cast<float>(1.0 - static_cast<double>(iteration) / static_cast<double>(options_.iterations));
    call.new_tokens = new_tokens_.data();
    call.new_scores = new_scores_.data();
    call.changed = reinterpret_cast<bool*>(changed_.data());
    masked_ = update_mask(call);
    tokens_.swap(new_tokens_);
    scores_.swap(new_scores_);
    if (options_.return_history) {
      const std::vector<int32_t> before = masked_offsets;
      layout();
      for (size_t i = 0; i < canvases_.size(); i++)
        if (before[i] < before[i + 1]) remember(i, input);
    }
    retire(iteration == options_.iterations);
    layout();
  }

  std::vector<int32_t> input, places, offsets, rows, masked_offsets, sources;
  int64_t longest = 0;
  std::vector<Hypothesis> results;
  std::vector<int64_t> owners;  // the source of each result

 private:
  void remember(size_t i, const std::vector<int32_t>& canvas) {
    const auto begin = canvas.begin() + offsets[i];
    results[canvases_[i].candidate].history.emplace_back(begin + 1, begin + canvases_[i].length - 1);
  }

  void retire(bool all) {
    size_t kept = 0, rows_kept = 0;
    int64_t to = 0, passed = 0;
    for (size_t i = 0; i < canvases_.size(); i++) {
      const int64_t begin = offsets[i], length = canvases_[i].length;
      const int64_t first = passed;
      while (passed < static_cast<int64_t>(masked_.size()) && masked_[passed] < begin + length) passed++;
      const bool few_left = kFew * (passed - first) <= length - 2;
      if (all || first == passed || (options_.adaptive && !changed_[i] && few_left)) {
        Hypothesis& result = results[canvases_[i].candidate];
        result.ids.assign(tokens_.begin() + begin + 1, tokens_.begin() + begin + length - 1);
        result.token_scores.assign(scores_.begin() + begin + 1, scores_.begin() + begin + length - 1);
        result.iterations = canvases_[i].passes;
        if (!result.history.empty()) result.history.back() = result.ids;  // what was still masked is filled
        continue;
      }
      std::copy_n(tokens_.begin() + begin, length, tokens_.begin() + to);
      std::copy_n(scores_.begin() + begin, length, scores_.begin() + to);
      for (int64_t m = first; m < passed; m++) masked_[rows_kept++] = masked_[m] - begin + to;
      to += length;
      canvases_[kept++] = canvases_[i];
    }
    canvases_.resize(kept);
    tokens_.resize(to);
    scores_.resize(to);
    masked_.resize(rows_kept);
  }

  const Config& config_;
  const NonAutoregressiveOptions& options_;
  std::vector<Canvas> canvases_;
  std::vector<int64_t> tokens_, masked_, predicted_, new_tokens_;
  std::vector<float> scores_, new_scores_;
  std::vector<uint8_t> changed_;
};

// The candidates of one source, scored, best first.
void rank(std::vector<Hypothesis>& group, int64_t most_likely_length, const NonAutoregressiveOptions& options) {
  for (Hypothesis& candidate : group) {
    double sum = 0;
    for (float score : candidate.token_scores) sum += score;
    const double words = static_cast<double>(candidate.ids.size());
    if (options.score == "canvas")
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

void require_finite(const char* what, const float* values, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    if (!std::isfinite(values[i]))
      throw NotFinite(std::string("generate: every ") + what + " must have a finite score, got NaN or infinity");
}

}  // namespace

Hypotheses mask_predict(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                        const NonAutoregressiveOptions& options) {
  const Config& config = model.config;
  const int64_t longest = std::min(config.max_target_positions, config.length_classes - 1), beam = options.length_beam;
  const int64_t width = config.d_model, source_rows = sources.offsets[sources.count];
  Canvases canvases(config, options);
  std::vector<int64_t> lengths(sources.count * beam);
  std::vector<float> length_log_probs(sources.count * beam);
  int64_t longest_source = 0;
  for (int64_t s = 0; s < sources.count; s++) longest_source = std::max(longest_source, sources.length(s));

  team.run([&](Member& member) {
    Forward forward(model, workspace, member);
    forward.encode(sources.ids, sources.offsets, sources.count);
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
    member.share(sources.count, [&](int64_t begin, int64_t end) {
      model.kernels.predict_lengths.run(call, begin, end, forward.scratch());
    });
    member.once([&] {
      require_finite("length", length_log_probs.data(), sources.count * beam);
      for (int64_t s = 0; s < sources.count; s++)
        for (int64_t i = 0; i < beam; i++) {  // of equal lengths the first alone is refined
          const int64_t* own = lengths.data() + s * beam;
          if (std::find(own, own + i, own[i]) == own + i) canvases.add(s, own[i]);
        }
      canvases.layout();
    });
    forward.reserve(static_cast<int64_t>(canvases.input.size()), std::max(canvases.longest, longest_source),
                    source_rows);
    member.once([&] { forward.reserve_vocabulary(static_cast<int64_t>(canvases.rows.size()), 1); });

    const auto& layers = model.decoder.layers;
    float *x = workspace.x.data(), *wide = workspace.wide.data(), *attended = workspace.attended.data();
    for (int64_t iteration = 1; iteration <= options.iterations && !canvases.rows.empty(); iteration++) {
      const int64_t rows = static_cast<int64_t>(canvases.input.size());
      const int64_t masked = static_cast<int64_t>(canvases.rows.size());
      const int64_t count = static_cast<int64_t>(canvases.sources.size());
      const int32_t* identity = workspace.identity.data();
      Layout self = {rows,    count,  canvases.offsets.data(), canvases.offsets.data(), identity, canvases.longest,
                     nullptr, nullptr};
      Layout cross = {
          rows,    count,  canvases.offsets.data(), sources.offsets, canvases.sources.data(), longest_source,
          nullptr, nullptr};
      forward.embed(model.decoder, canvases.input.data(), canvases.places.data(), rows, x);
      for (size_t i = 0; i < layers.size(); i++) {
        const Layer& layer = layers[i];
        const Operand in = forward.enter(layer.self_norm, x, rows);
        float* hidden = x;
        if (i + 1 < layers.size()) {
          forward.multiply(
              {{in, rows, &layer.self.q, wide, 3 * width}, {in, rows, &layer.self.kv, wide + width, 3 * width}});
          forward.attend(wide, 3 * width, forward.rows_of(wide + width, 3 * width), self, attended);
        } else {  // only what is predicted leaves the last layer
          forward.multiply({{in, rows, &layer.self.kv, wide + width, 3 * width}});
          hidden = workspace.last.data();
          member.share(masked, [&](int64_t begin, int64_t end) {
            for (int64_t m = begin; m < end; m++)
              std::memcpy(hidden + m * width, x + canvases.rows[m] * width, width * sizeof(float));
          });
          forward.change_rows();
          self.queries = cross.queries = masked;
          self.query_offsets = cross.query_offsets = canvases.masked_offsets.data();
          const Operand queries = forward.enter(layer.self_norm, hidden, masked);
          forward.multiply({{queries, masked, &layer.self.q, wide, 3 * width}});
          forward.attend(wide, 3 * width, forward.rows_of(wide + width, 3 * width), self, attended);
        }
        forward.after_self_attention(layer, forward.cross(static_cast<int64_t>(i), source_rows), hidden, cross);
      }
      forward.vocabulary(workspace.last.data(), masked, model.canvas_bias, 1);
      member.once([&] {
        require_finite("prediction", workspace.best_log_probs.data(), masked);
        canvases.update(workspace.best_tokens.data(), workspace.best_log_probs.data(), iteration);
      });
    }
  });

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
