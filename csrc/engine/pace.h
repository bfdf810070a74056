// Whether drafts pay here, as measured while decoding: outputs do not depend on it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

namespace janus_fast {

// Chooses how many tokens to draft by the tokens a nanosecond that each choice had lately, and none unless that is
// clearly slower. Tries the others at intervals that double while they lose, so that what trying costs fades; seldom in
// larger batches, where the processor has enough to do. A choice that took several times as long as it does otherwise
// was disturbed by something else, which says nothing of drafts.
class Pace {
 public:
  // What must be like for times to be comparable: the drafter, the length asked for, and the batch's size.
  typedef std::tuple<int, int64_t, int64_t> Kind;

  static Kind kind(int drafter, int64_t draft_length, int64_t sentences) {
    int64_t size = 0;
    while (sentences >> size) size++;
    return {drafter, draft_length, size};
  }

  // 0, or some part of `draft_length` up to the whole of it.
  int64_t choose(const Kind& kind) {
    std::vector<Arm>& arms = arms_[kind];
    const int64_t size = std::get<2>(kind), first = size > 1 ? int64_t{8} << size : 1;
    if (arms.empty())
      for (const int64_t length : {int64_t{0}, std::get<1>(kind) / 4, std::get<1>(kind) / 2, std::get<1>(kind)})
        if (arms.empty() || length > arms.back().length)
          arms.push_back({length, 0, 0, 0, first, std::max(first, kShortest)});
    Arm* best = &arms[0];
    for (Arm& arm : arms)
      if (arm.rate() > kMargin * arms[0].rate() && arm.rate() > best->rate()) best = &arm;
    for (Arm& arm : arms)
      if (&arm != best && --arm.wait <= 0) {
        arm.interval = std::min<int64_t>((arm.rate() < kHopeless * best->rate() ? 4 : 2) * arm.interval, kLongest);
        arm.wait = arm.interval;
        return arm.length;
      }
    best->interval = std::max(first, kShortest);
    return best->length;
  }

  // What came of a choice: so many tokens in so much time.
  void record(const Kind& kind, int64_t length, int64_t tokens, double nanoseconds) {
    for (Arm& arm : arms_[kind])
      if (arm.length == length) {
        const double usual = arm.choices > 0 ? arm.nanoseconds / arm.choices : nanoseconds;
        if (nanoseconds * kDisturbed < usual) arm.tokens = arm.nanoseconds = arm.choices = 0;
        arm.choices = arm.choices * kMemory + 1;
        arm.tokens = arm.tokens * kMemory + static_cast<double>(tokens);
        arm.nanoseconds = arm.nanoseconds * kMemory + std::min(nanoseconds, kDisturbed * usual);
      }
  }

 private:
  static constexpr int64_t kShortest = 4, kLongest = 2048;  // choices between trials
  static constexpr double kMemory = 0.95, kMargin = 1.1, kHopeless = 0.7, kDisturbed = 3;
  struct Arm {
    int64_t length;
    double tokens, nanoseconds, choices;  // sums, of which what is long past counts less
    int64_t wait, interval;
    double rate() const { return nanoseconds > 0 ? tokens / nanoseconds : 0; }
  };
  std::map<Kind, std::vector<Arm>> arms_;
};

}  // namespace janus_fast
