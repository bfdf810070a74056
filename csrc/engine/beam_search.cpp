#include <algorithm>
#include <cmath>
#include <numeric>

#include "csrc/engine/autoregressive.h"
#include "csrc/engine/continuations.h"
#include "kernels/cpu/beam_step.h"

namespace janus_fast {
namespace {

// The hypotheses of the sentences that are not done, sentence after sentence, as many for each. A sample is a sentence
// of its own with one hypothesis, which continues as its random number says.
class Search {
 public:
  Search(const Model& model, Workspace& workspace, const Ids& sources, const AutoregressiveOptions& options,
         const Ids* prefixes)
      : config_(model.config),
        options_(options),
        sampling_(options.sampling()),
        each_(sampling_ ? options.num_hypotheses : 1),
        beam_(sampling_ ? 1 : options.beam_size),
        decoder(model, workspace, sources, sources.count * each_ * beam_),
        continuations(model, options, prefixes, sampling_ ? options.sampling_topk : 2 * beam_),
        finished(sources.count * each_) {
    const int64_t sentences = sources.count * each_;
    active_.resize(sentences);
    std::iota(active_.begin(), active_.end(), 0);
    for (int32_t sentence : active_) decoder.owners.push_back(owner(sentence));
    decoder.tokens.assign(sentences, config_.decoder_start);
    decoder.begins.assign(sentences, 0);
    tokens_.resize(sentences);
    scores_.resize(sentences);
    totals_.assign(sentences, 0.0f);
  }

  bool done() const { return active_.empty(); }

  void prepare() {
    decoder.prepare();
    pasts_.clear();
    for (size_t row = 0; row < tokens_.size(); row++)
      pasts_.push_back({tokens_[row].data(), static_cast<int64_t>(tokens_[row].size()), decoder.owners[row]});
    continuations.ask(pasts_);
  }

  // Extends the hypotheses by a step's continuations.
  void extend(const Workspace& workspace, int64_t step) {
    continuations.filter(workspace);
    const int64_t width = static_cast<int64_t>(tokens_.size() / active_.size()), choices = continuations.width;
    next_tokens_.clear();
    next_scores_.clear();
    next_totals_.clear();
    next_active_.clear();
    origins_.clear();
    decoder.tokens.clear();
    decoder.owners.clear();
    for (size_t i = 0; i < active_.size(); i++) {
      const int64_t row = static_cast<int64_t>(i) * width;
      auto& done = finished[active_[i]];
      const float* log_probs = continuations.log_probs.data() + row * choices;
      const int32_t* ids = continuations.ids.data() + row * choices;
      if (sampling_) {
        const double uniform = options_.uniforms[active_[i] * options_.steps + step];
        const int64_t drawn = draw(log_probs, choices, options_, uniform, weights_);
        log_probs += drawn, ids += drawn;
      }
      if (!step_.choose(totals_.data() + row, log_probs, ids, width, sampling_ ? 1 : choices, beam_,
                        beam_ - static_cast<int64_t>(done.size()), config_.eos))
        throw NotFinite(kNoOutput);
      for (const Beam::Candidate& end : step_.finished) {
        Hypothesis hypothesis = {tokens_[row + end.row], end.total, scores_[row + end.row], step + 1, {}};
        auto& scores = hypothesis.token_scores;
        scores.push_back(end.log_prob);
        if (sampling_) hypothesis.score = std::accumulate(scores.begin(), scores.end(), 0.0);
        hypothesis.score /= std::pow(static_cast<double>(step + 1), options_.length_penalty);
        done.push_back(std::move(hypothesis));
      }
      if (static_cast<int64_t>(done.size()) == beam_ || step >= continuations.longest) continue;
      next_active_.push_back(active_[i]);
      const bool alone = step_.going.size() == 1;
      for (const Beam::Candidate& next : step_.going) {
        auto& tokens = tokens_[row + next.row];
        auto& scores = scores_[row + next.row];
        next_tokens_.push_back(alone ? std::move(tokens) : tokens);
        next_tokens_.back().push_back(static_cast<int32_t>(next.token));
        next_scores_.push_back(alone ? std::move(scores) : scores);
        next_scores_.back().push_back(next.log_prob);
        next_totals_.push_back(next.total);
        origins_.push_back(static_cast<int32_t>(row + next.row));
        decoder.tokens.push_back(static_cast<int32_t>(next.token));
        decoder.owners.push_back(owner(active_[i]));
      }
    }
    tokens_.swap(next_tokens_);
    scores_.swap(next_scores_);
    totals_.swap(next_totals_);
    active_.swap(next_active_);
    decoder.reorder(origins_);
  }

  // Of every source, best first.
  Hypotheses results() {
    Hypotheses groups(finished.size() / each_);
    for (size_t s = 0; s < finished.size(); s++) {
      if (finished[s].empty()) throw NotFinite(kNoOutput);
      std::move(finished[s].begin(), finished[s].end(), std::back_inserter(groups[s / each_]));
    }
    for (auto& group : groups) {
      std::stable_sort(group.begin(), group.end(),
                       [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
      if (static_cast<int64_t>(group.size()) > options_.num_hypotheses) group.resize(options_.num_hypotheses);
    }
    return groups;
  }

 private:
  int32_t owner(int32_t sentence) const { return static_cast<int32_t>(sentence / each_); }

  const Config& config_;
  const AutoregressiveOptions& options_;
  const bool sampling_;
  const int64_t each_, beam_;  // sentences of a source, hypotheses of a sentence
  std::vector<int32_t> active_, next_active_, origins_;
  std::vector<std::vector<int32_t>> tokens_, next_tokens_;
  std::vector<std::vector<float>> scores_, next_scores_;
  std::vector<float> totals_, next_totals_;
  std::vector<Past> pasts_;
  std::vector<double> weights_;
  Beam step_;

 public:
  StepDecoder decoder;
  Continuations continuations;
  Hypotheses finished;  // of every sentence
};

}  // namespace

Hypotheses beam_search(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                       const AutoregressiveOptions& options, const Ids* prefixes) {
  Search search(model, workspace, sources, options, prefixes);
  const int64_t rows = sources.count * (options.sampling() ? options.num_hypotheses : options.beam_size);
  team.run([&](Member& member) {
    Forward forward(model, workspace, member);
    forward.encode(sources);
    forward.reserve((1 + model.config.two_stream) * rows, sources.longest(), sources.size());
    for (int64_t step = 0; !search.done(); step++) {
      member.once([&] {
        search.prepare();
        forward.reserve_vocabulary(static_cast<int64_t>(search.decoder.tokens.size()), search.continuations.k);
      });
      const int64_t hypotheses = static_cast<int64_t>(search.decoder.tokens.size());
      float* hidden = search.decoder.step(forward);
      Continuations& next = search.continuations;
      forward.vocabulary(hidden, hypotheses, model.vocabulary.bias, next.k, next.asked(), next.asked_logits(),
                         next.asked_log_probs());
      member.once([&] { search.extend(workspace, step); });
    }
  });
  return search.results();
}

}  // namespace janus_fast
