#include <algorithm>
#include <cmath>

#include "csrc/engine/autoregressive.h"
#include "csrc/engine/continuations.h"

namespace janus_fast {
namespace {

// The hypotheses of the sentences that are not done, sentence after sentence, as many for each.
class Search {
 public:
  Search(const Model& model, Workspace& workspace, const Ids& sources, const AutoregressiveOptions& options,
         const Ids* prefixes)
      : config_(model.config),
        options_(options),
        beam_(options.beam_size),
        decoder(model, workspace, sources, sources.count * options.beam_size),
        continuations(model, options, prefixes, 2 * options.beam_size),
        finished(sources.count) {
    for (int64_t s = 0; s < sources.count; s++) active_.push_back(static_cast<int32_t>(s));
    decoder.owners = active_;
    decoder.tokens.assign(sources.count, config_.decoder_start);
    tokens_.assign(sources.count, {config_.decoder_start});
    scores_.resize(sources.count);
    totals_.assign(sources.count, 0.0f);
  }

  bool done() const { return active_.empty(); }

  void prepare(int64_t step) {
    decoder.prepare();
    continuations.ask(step, tokens_, decoder.owners);
  }

  // Extends the hypotheses by a step's continuations.
  void extend(const Workspace& workspace, int64_t step) {
    continuations.filter(workspace);
    const int64_t width = static_cast<int64_t>(tokens_.size() / active_.size()), choices = continuations.width;
    const int64_t keep = std::min(2 * beam_, width * choices);
    const auto better = [](const Candidate& a, const Candidate& b) {
      return a.total != b.total ? a.total > b.total : a.order < b.order;
    };
    next_tokens_.clear();
    next_scores_.clear();
    next_totals_.clear();
    next_active_.clear();
    origins_.clear();
    decoder.tokens.clear();
    decoder.owners.clear();
    for (size_t i = 0; i < active_.size(); i++) {
      candidates_.clear();
      for (int64_t w = 0; w < width; w++) {
        const int64_t row = static_cast<int64_t>(i) * width + w;
        for (int64_t c = 0; c < choices; c++) {
          const float log_prob = continuations.log_probs[row * choices + c];
          if (std::isnan(log_prob)) throw NotFinite(kNoOutput);
          candidates_.push_back(
              {totals_[row] + log_prob, w * choices + c, row, continuations.ids[row * choices + c], log_prob});
        }
      }
      std::partial_sort(candidates_.begin(), candidates_.begin() + keep, candidates_.end(), better);
      auto& done = finished[active_[i]];
      for (int64_t c = 0; c < std::min(beam_, keep); c++) {
        const Candidate& best = candidates_[c];
        if (best.token != config_.eos || !std::isfinite(best.total) || full(done)) continue;
        Hypothesis hypothesis;
        hypothesis.ids.assign(tokens_[best.row].begin() + 1, tokens_[best.row].end());
        hypothesis.token_scores = scores_[best.row];
        hypothesis.token_scores.push_back(best.log_prob);
        hypothesis.score = best.total / std::pow(static_cast<double>(step + 1), options_.length_penalty);
        hypothesis.iterations = step + 1;
        done.push_back(std::move(hypothesis));
      }
      if (full(done) || step >= continuations.longest) continue;
      next_active_.push_back(active_[i]);
      int64_t going = 0;  // ended ones go behind all others, and never win
      for (const bool ended : {false, true})
        for (int64_t c = 0; c < keep && going < beam_; c++)
          if ((candidates_[c].token == config_.eos) == ended) go_on(candidates_[c], active_[i]), going++;
    }
    tokens_.swap(next_tokens_);
    scores_.swap(next_scores_);
    totals_.swap(next_totals_);
    active_.swap(next_active_);
    decoder.reorder(origins_);
  }

 private:
  struct Candidate {
    float total;
    int64_t order, row;
    int32_t token;
    float log_prob;
  };

  bool full(const std::vector<Hypothesis>& done) const { return static_cast<int64_t>(done.size()) >= beam_; }

  void go_on(const Candidate& candidate, int32_t source) {
    const bool dead = candidate.token == config_.eos || candidate.token < 0;
    const int32_t token = candidate.token < 0 ? config_.eos : candidate.token;
    next_tokens_.push_back(tokens_[candidate.row]);
    next_tokens_.back().push_back(token);
    next_scores_.push_back(scores_[candidate.row]);
    next_scores_.back().push_back(candidate.log_prob);
    next_totals_.push_back(dead ? -INFINITY : candidate.total);
    origins_.push_back(static_cast<int32_t>(candidate.row));
    decoder.tokens.push_back(token);
    decoder.owners.push_back(source);
  }

  const Config& config_;
  const AutoregressiveOptions& options_;
  const int64_t beam_;
  std::vector<int32_t> active_, next_active_, origins_;
  std::vector<std::vector<int32_t>> tokens_, next_tokens_;
  std::vector<std::vector<float>> scores_, next_scores_;
  std::vector<float> totals_, next_totals_;
  std::vector<Candidate> candidates_;

 public:
  StepDecoder decoder;
  Continuations continuations;
  Hypotheses finished;
};

}  // namespace

Hypotheses beam_search(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                       const AutoregressiveOptions& options, const Ids* prefixes) {
  Search search(model, workspace, sources, options, prefixes);
  const int64_t rows = sources.count * options.beam_size;
  team.run([&](Member& member) {
    Forward forward(model, workspace, member);
    forward.encode(sources);
    forward.reserve((1 + model.config.two_stream) * rows, sources.longest(), sources.size());
    for (int64_t step = 0; !search.done(); step++) {
      member.once([&] {
        search.prepare(step);
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
  for (auto& group : search.finished) {
    if (group.empty()) throw NotFinite(kNoOutput);
    std::stable_sort(group.begin(), group.end(),
                     [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
    if (static_cast<int64_t>(group.size()) > options.num_hypotheses) group.resize(options.num_hypotheses);
  }
  return std::move(search.finished);
}

}  // namespace janus_fast
