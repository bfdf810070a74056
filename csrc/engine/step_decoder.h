// One autoregressive step: feeds each hypothesis its next tokens, one or more, and leaves the hidden rows that predict
// what follows each.
#pragma once

#include "csrc/engine/forward.h"
#include "csrc/engine/options.h"

namespace janus_fast {

// Keys and values of all steps so far. Hypotheses find theirs through a table: continuing one moves integers alone.
// A recurrent decoder keeps in their stead the state, in float32, that the row of each place left behind.
//
// Each step of a two-stream model has two rows a token: the content row (the token) and the query row (a mask at the
// same position), or query rows of several streams. Only content rows are keys; in the last layer only the query rows
// go on. A one-stream model has the content row alone, which predicts.
class StepDecoder {
 public:
  // Up to `slots` hypotheses at once.
  StepDecoder(const Model& model, Workspace& workspace, const Ids& sources, int64_t slots);

  // A step for hypotheses whose `owners` (their sources; those of a source side by side), `tokens` (as many for each)
  // and `begins` (the place of each one's first token) have been set. Returns the hidden rows, those of a hypothesis
  // side by side: one a token that predicts, with its streams ahead, and one a mask but for the first.
  float* step(Forward& forward);
  // Hypothesis r of the next step continues the one that was origins[r], behind its tokens.
  void reorder(const std::vector<int32_t>& origins);
  // Those hypotheses, ascending, go on, wherever their next tokens begin.
  void keep(const std::vector<int32_t>& kept);
  // Makes room for the next step.
  //
  // With `masks` a hypothesis has so many masks behind its tokens, a draft of what follows: each sees what stands
  // before it, and the tokens that come later take their places. The first one stands for what the last token predicts,
  // too. Of its tokens the last `queries` alone predict, 0: all. Behind the query row of each are those of the streams
  // `ahead`, which see the same and stand so many places further on, for what comes behind the token that it predicts.
  // Each of these needs a two-stream model.
  void prepare(int64_t masks = 0, int64_t queries = 0, int64_t ahead = 0);

  std::vector<int32_t> tokens, owners, begins;
  // On request, as in Pass: what the rows of one token a hypothesis look at.
  float* attention = nullptr;
  int64_t alignment_heads = 0;

 private:
  void grow(int64_t places);
  void recur(Forward& forward, size_t layer);
  void attend(Forward& forward, size_t layer);

  const Model& model_;
  Workspace& workspace_;
  const Ids& sources_;
  const int64_t slots_, streams_, width_;
  int64_t capacity_ = 0, steps_ = 1, fed_ = 1;  // rows of a hypothesis that are keys; how many of them are tokens
  int64_t queries_ = 1, predicted_ = 1;         // its query rows; with masks that predict
  std::vector<int32_t> origin_, moved_;         // [capacity, slots]
  std::vector<int32_t> homes_;                  // the slot that each hypothesis writes to
  std::vector<int32_t> input_, places_, positions_, selected_, offsets_, query_owners_;
  std::vector<int32_t> last_places_, last_offsets_;  // of the rows that leave
  std::vector<int32_t> follow_;                      // of a recurrence: where the rows of each hypothesis begin
  std::vector<int64_t> before_, own_;                // and which states are each row's
};

}  // namespace janus_fast
