// The step of a beam search, over sums and comparisons of few numbers: compiled once, for every processor.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "kernels/beam_step.h"

namespace janus_fast {

// What becomes of the hypotheses of one sentence, whoever keeps them.
class Beam {
 public:
  struct Candidate {
    float total, log_prob;
    int32_t row;  // of the hypothesis that it continues
    int64_t token, order;
  };
  std::vector<Candidate> finished, going;  // best first; of those that go on, ended ones, of no use, come last

  // Of `rows` hypotheses with `choices` tokens each: the best 2 * beams, of equals the first. Those among the first
  // `beams` that end, as `ends(token)` says, are finished; the best `beams` of the others go on. False where a
  // candidate is not a number: then the sentence has no output.
  // Before that, `edit(begin, end)` may change the best.
  template <typename Id, typename Ends, typename Edit>
  bool choose(const float* totals, const float* log_probs, const Id* ids, int64_t rows, int64_t choices, int64_t beams,
              const Ends& ends, const Edit& edit) {
    candidates_.clear();
    for (int64_t order = 0; order < rows * choices; order++) {
      const auto row = static_cast<int32_t>(order / choices);
      const float total = totals[row] + log_probs[order];
      if (std::isnan(total)) return false;
      candidates_.push_back({total, log_probs[order], row, ids[order], order});
    }
    const auto kept = candidates_.begin() + std::min(2 * beams, rows * choices);
    std::partial_sort(candidates_.begin(), kept, candidates_.end(), [](const Candidate& a, const Candidate& b) {
      return a.total != b.total ? a.total > b.total : a.order < b.order;
    });
    edit(candidates_.begin(), kept);
    finished.clear();
    going.clear();
    for (auto c = candidates_.begin(); c < kept && c - candidates_.begin() < beams; ++c)
      if (ends(c->token) && std::isfinite(c->total)) finished.push_back(*c);
    for (const bool ended : {false, true})
      for (auto c = candidates_.begin(); c < kept && static_cast<int64_t>(going.size()) < beams; ++c)
        if (ends(c->token) == ended) {
          going.push_back(*c);
          if (ended) going.back().total = -INFINITY;
        }
    return true;
  }
  template <typename Id, typename Ends>
  bool choose(const float* totals, const float* log_probs, const Id* ids, int64_t rows, int64_t choices, int64_t beams,
              const Ends& ends) {
    return choose(totals, log_probs, ids, rows, choices, beams, ends, [](auto, auto) {});
  }
  const Candidate& best() const { return candidates_.front(); }  // whether or not it ends

 private:
  std::vector<Candidate> candidates_;
};

// All sentences of a call, in place.
inline void beam_step(const BeamStepCall& call) {
  const int64_t beams = call.beams, last = call.most_steps - 1;
  Beam beam;
  std::vector<int32_t> old(beams), order(beams);
  for (int64_t s = 0; s < call.sentences; s++) {
    const int64_t step = call.steps[s], first = s * beams, table = first * call.most_steps;
    if (step > last) continue;
    int32_t& count = call.finished_count[s];
    int32_t *slots = call.slots + table, *history = call.history_tokens + table, *times = call.times + first;
    float* scores = call.history_scores + table;
    const bool broken =
        !beam.choose(call.totals + first, call.log_probs + first * call.choices, call.ids + first * call.choices, beams,
                     call.choices, beams, [&](int64_t token) { return token == call.eos; });
    if (broken) count = 0;
    for (size_t i = 0; !broken && i < beam.finished.size(); i++) {
      const Beam::Candidate& end = beam.finished[i];
      const int64_t to = 2 * first + count++;
      for (int64_t t = 0; t < step; t++) {
        const int64_t from = t * beams + (t + 1 < step ? slots[(t + 1) * beams + end.row] : end.row);
        call.finished_tokens[to * call.most_steps + t] = history[from];
        call.finished_scores[to * call.most_steps + t] = scores[from];
      }
      call.finished_scores[to * call.most_steps + step] = end.log_prob;
      call.finished_lengths[to] = static_cast<int32_t>(step);
      call.finished_totals[to] = end.total;
    }
    if (broken || count >= beams || step == last) {
      call.steps[s] = static_cast<int32_t>(call.most_steps);
      --*call.remaining;
      continue;
    }
    call.steps[s] = static_cast<int32_t>(step + 1);
    // The tree: hypotheses in the order of their parents, those of one parent as they come.
    std::copy_n(times, beams, old.begin());
    for (int64_t b = 0; b < beams; b++) order[b] = static_cast<int32_t>(b);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return old[beam.going[a].row] < old[beam.going[b].row]; });
    for (int64_t b = 0; b < beams; b++) times[order[b]] = static_cast<int32_t>(b);
    for (int64_t t = 0; t <= step + 1; t++) {
      int32_t *row = slots + t * beams, *from = call.visible_from + table + t * beams;
      int32_t* until = call.visible_until + table + t * beams;
      std::copy_n(row, beams, old.begin());
      std::fill_n(from, beams, static_cast<int32_t>(beams));
      std::fill_n(until, beams, 0);
      for (int64_t b = 0; b < beams; b++) {
        const int32_t parent = beam.going[b].row;
        row[b] = t < step ? old[parent] : t == step ? parent : static_cast<int32_t>(b);
        from[row[b]] = std::min(from[row[b]], times[b]);
        until[row[b]] = std::max(until[row[b]], times[b] + 1);
      }
    }
    for (int64_t b = 0; b < beams; b++) {
      const Beam::Candidate& next = beam.going[b];
      history[step * beams + b] = static_cast<int32_t>(next.token);
      scores[step * beams + b] = next.log_prob;
      call.tokens[first + b] = next.token;
      call.totals[first + b] = next.total;
    }
  }
}

}  // namespace janus_fast
