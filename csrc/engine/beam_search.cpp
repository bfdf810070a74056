#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <numeric>

#include "csrc/engine/autoregressive.h"
#include "csrc/engine/continuations.h"
#include "kernels/cpu/beam_step.h"

namespace janus_fast {
namespace {

constexpr float kLast = -1e10f;  // the sum of log-probabilities of an output behind all others

// The hypotheses of the sentences that are not done, sentence after sentence, as many for each. A sample is a sentence
// of its own with one hypothesis, which continues as its random number says.
class Search {
 public:
  Search(const Model& model, Workspace& workspace, const Ids& sources, const AutoregressiveOptions& options,
         const Ids* prefixes)
      : options_(options),
        sources_(sources),
        sampling_(options.sampling()),
        looks_(options.return_attention || options.coverage_penalty != 0),
        each_(sampling_ ? options.num_hypotheses : 1),
        beam_(sampling_ ? 1 : options.beam_size),
        wanted_(std::max<int64_t>(1, static_cast<int64_t>(beam_ * options.patience + 0.5))),
        vocabulary_(model.config.target_vocab_size),
        pad_(model.config.pad),
        prefixes_(prefixes),
        best_ended_(sources.count * each_),
        decoder(model, workspace, sources, sources.count * each_ * beam_),
        continuations(model, options, prefixes, sampling_ ? options.sampling_topk : 2 * beam_),
        finished(sources.count * each_) {
    steps_ = continuations.longest + options.forced_eos;
    const int64_t sentences = sources.count * each_;
    active_.resize(sentences);
    std::iota(active_.begin(), active_.end(), 0);
    for (int32_t sentence : active_) decoder.owners.push_back(owner(sentence));
    decoder.tokens.assign(sentences, model.config.decoder_start);
    decoder.begins.assign(sentences, 0);
    decoder.alignment_heads = options.alignment_heads;
    rows_.resize(sentences);
    totals_.assign(sentences, 0.0f);
  }

  bool done() const { return active_.empty(); }

  void prepare() {
    decoder.prepare();
    pasts_.clear();
    for (size_t row = 0; row < rows_.size(); row++)
      pasts_.push_back({rows_[row].tokens.data(), static_cast<int64_t>(rows_[row].tokens.size()), decoder.owners[row]});
    continuations.ask(pasts_);
    if (!looks_) return;
    attention_.resize(rows_.size() * sources_.longest());
    decoder.attention = attention_.data();
  }

  // Extends the hypotheses by a step's continuations.
  void extend(const Workspace& workspace, int64_t step) {
    continuations.filter(workspace);
    const int64_t width = static_cast<int64_t>(rows_.size() / active_.size()), choices = continuations.width;
    const bool last = step + 1 == steps_;
    next_rows_.clear();
    next_totals_.clear();
    next_active_.clear();
    origins_.clear();
    decoder.tokens.clear();
    decoder.owners.clear();
    if (looks_ || options_.return_logits_vocab) keep_what_steps_say();
    for (size_t i = 0; i < active_.size(); i++) {
      const int64_t row = static_cast<int64_t>(i) * width;
      const int32_t sentence = active_[i];
      const float* log_probs = continuations.log_probs.data() + row * choices;
      const int32_t* ids = continuations.ids.data() + row * choices;
      if (sampling_) {
        const double uniform = options_.uniforms[sentence * options_.steps + step];
        const int64_t drawn = draw(log_probs, choices, options_, uniform, weights_);
        log_probs += drawn, ids += drawn;
      }
      const bool forced = continuations.forced(owner(sentence), step), all_end = last && !options_.forced_eos;
      const auto ends = [&](int64_t token) { return all_end || (!forced && continuations.ends(token)); };
      const auto edit = [&](auto begin, auto end) {
        if (options_.prefix_alone != "any" && continuations.begins(owner(sentence), step)) give_up_ends(begin + 1, end);
      };
      if (!step_.choose(totals_.data() + row, log_probs, ids, width, sampling_ ? 1 : choices, beam_, ends, edit))
        throw NotFinite(kNoOutput);
      if (forced) free_of_charge();
      if (options_.callback && report(sentence, step, forced)) {
        if (step_.finished.empty()) step_.finished.push_back(step_.going[0]);
        step_.going.clear();
      }
      for (const Beam::Candidate& end : step_.finished) finish(sentence, row, end, step);
      if (last || enough(sentence, step)) continue;
      next_active_.push_back(sentence);
      const bool alone = step_.going.size() == 1;
      for (const Beam::Candidate& next : step_.going) {
        Row& from = rows_[row + next.row];
        next_rows_.push_back(alone ? std::move(from) : from);
        next_rows_.back().tokens.push_back(static_cast<int32_t>(next.token));
        next_rows_.back().scores.push_back(next.log_prob);
        next_totals_.push_back(next.total);
        origins_.push_back(static_cast<int32_t>(row + next.row));
        decoder.tokens.push_back(static_cast<int32_t>(next.token));
        decoder.owners.push_back(owner(sentence));
      }
    }
    rows_.swap(next_rows_);
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
  struct Row {  // the last two where they are asked for
    std::vector<int32_t> tokens;
    std::vector<float> scores;
    std::vector<std::vector<float>> attention, logits;
  };

  int32_t owner(int32_t sentence) const { return static_cast<int32_t>(sentence / each_); }

  void keep_what_steps_say() {
    for (size_t row = 0; row < rows_.size() && looks_; row++) {
      const float* begin = attention_.data() + static_cast<int64_t>(row) * sources_.longest();
      rows_[row].attention.emplace_back(begin, begin + sources_.length(pasts_[row].owner));
    }
    for (size_t row = 0; row < rows_.size() && options_.return_logits_vocab; row++) {
      const float* begin = continuations.logits.data() + static_cast<int64_t>(row) * vocabulary_;
      rows_[row].logits.emplace_back(begin, begin + vocabulary_);
    }
  }

  // Behind a prefix, of the candidates but the best one.
  template <typename Iterator>
  void give_up_ends(Iterator begin, Iterator end) {
    for (auto c = begin; c < end; ++c) {
      if (!continuations.ends(c->token) || !std::isfinite(c->total)) continue;
      c->total = options_.prefix_alone == "last" ? kLast : -INFINITY;
      if (options_.prefix_alone == "best") c->token = pad_;  // it keeps its place
    }
  }

  // What a prefix forces counts in the length alone.
  void free_of_charge() {
    for (auto* candidates : {&step_.finished, &step_.going})
      for (Beam::Candidate& candidate : *candidates)
        if (std::isfinite(candidate.total)) candidate.total = 0;
  }

  // Tells the callback of the one token; whether it ends the output.
  bool report(int32_t sentence, int64_t step, bool forced) {
    const bool ended = !step_.finished.empty();
    const Beam::Candidate& said = ended ? step_.finished[0] : step_.going[0];
    if (!std::isfinite(said.total)) return false;
    return options_.callback(
        {owner(sentence), sentence % each_, step, static_cast<int32_t>(said.token), forced ? 0 : said.log_prob, ended});
  }

  void finish(int32_t sentence, int64_t first, const Beam::Candidate& end, int64_t step) {
    const Row& row = rows_[first + end.row];
    Hypothesis hypothesis = {row.tokens, end.total, row.scores, step + 1, {}, {}, {}, row.attention, row.logits};
    auto& scores = hypothesis.token_scores;
    scores.push_back(end.log_prob);
    if (options_.return_end_token || !continuations.ends(end.token))
      hypothesis.ids.push_back(static_cast<int32_t>(end.token));
    if (sampling_) {
      const int64_t free =
          prefixes_ && continuations.forced(owner(sentence), 0) ? prefixes_->length(owner(sentence)) : 0;
      hypothesis.score = std::accumulate(scores.begin() + std::min<int64_t>(free, step + 1), scores.end(), 0.0);
    }
    hypothesis.score /= std::pow(static_cast<double>(step + 1), options_.length_penalty);
    if (options_.coverage_penalty != 0) hypothesis.score += options_.coverage_penalty * coverage(hypothesis.attention);
    if (options_.return_attention)
      hypothesis.attention.resize(hypothesis.ids.size());
    else
      hypothesis.attention.clear();
    finished[sentence].push_back(std::move(hypothesis));
  }

  // The sum of log(min(attention that a source token got, 1)) over those that got any.
  static double coverage(const std::vector<std::vector<float>>& attention) {
    double sum = 0;
    for (size_t i = 0; i < attention[0].size(); i++) {
      float covered = 0;
      for (const auto& row : attention) covered += row[i];
      if (covered > 0) sum += std::log(std::min(covered, 1.0f));
    }
    return sum;
  }

  // Whether a sentence's search is over.
  bool enough(int32_t sentence, int64_t step) {
    const auto& done = finished[sentence];
    const auto count = static_cast<int64_t>(done.size());
    const auto best = std::find_if(step_.going.begin(), step_.going.end(),
                                   [](const Beam::Candidate& c) { return std::isfinite(c.total); });
    if (best == step_.going.end()) return true;
    if (options_.early_stopping == "true") return count >= wanted_;
    if (options_.early_stopping == "first") {
      best_ended_[sentence] = best_ended_[sentence] || continuations.ends(step_.best().token);
      if (options_.length_penalty != 0 || options_.coverage_penalty != 0) return count >= wanted_;
      return best_ended_[sentence] && count >= options_.num_hypotheses;
    }
    if (count < beam_) return false;
    std::vector<double> scores;
    for (const Hypothesis& hypothesis : done) scores.push_back(hypothesis.score);
    std::nth_element(scores.begin(), scores.begin() + beam_ - 1, scores.end(), std::greater<double>());
    const bool longest = options_.early_stopping == "never" && options_.length_penalty > 0;
    const double length = static_cast<double>(longest ? steps_ : step + 1);
    return best->total / std::pow(length, options_.length_penalty) <= scores[beam_ - 1];
  }

  const AutoregressiveOptions& options_;
  const Ids& sources_;
  const bool sampling_, looks_;
  const int64_t each_, beam_, wanted_;  // sentences of a source; hypotheses of a sentence, and finished ones
  const int64_t vocabulary_;
  const int32_t pad_;
  const Ids* prefixes_;
  int64_t steps_;
  std::vector<int32_t> active_, next_active_, origins_;
  std::vector<Row> rows_, next_rows_;
  std::vector<float> totals_, next_totals_, attention_;
  std::vector<bool> best_ended_;
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
  Forward forward(model, workspace, team);
  forward.encode(sources, options.words);
  forward.reserve((1 + model.config.two_stream) * rows, sources.longest(), sources.size());
  for (int64_t step = 0; !search.done(); step++) {
    search.prepare();
    forward.reserve_vocabulary(static_cast<int64_t>(search.decoder.tokens.size()), search.continuations.k);
    float* hidden = search.decoder.step(forward);
    search.continuations.look_up(forward, hidden);
    search.extend(workspace, step);
  }
  return search.results();
}

}  // namespace janus_fast
