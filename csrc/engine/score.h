// Log-probabilities of given targets, left to right.
#pragma once

#include "csrc/engine/forward.h"
#include "csrc/engine/options.h"

namespace janus_fast {

// One pass that reads targets left to right, over sources that are encoded. Targets of one source share the rows of
// what they begin with: such a row appears when its own time comes and leaves when no target is to come that has it.
class TeacherForcing {
 public:
  // Target t belongs to the source owners[t]; of a one-stream model no two belong to the same.
  TeacherForcing(const Model& model, const Ids& targets, const std::vector<int32_t>& owners);
  void run(Forward& forward, const Ids& sources);
  // Of every token of a target but its first, in nats.
  std::vector<std::vector<float>> scores() const;

 private:
  const int64_t streams_;
  int64_t sequences_ = 0, most_keys_ = 0;  // one sequence for each source that has targets
  // Content rows, one for each beginning of a target; with two streams then masks, one for each token that follows one.
  std::vector<int32_t> rows_, places_, times_, offsets_, keys_, owners_;
  std::vector<int32_t> visible_until_;                         // of the content rows, which appear at their own times
  std::vector<int32_t> asked_, asked_offsets_, asked_owners_;  // the tokens that follow
  std::vector<std::vector<int32_t>> found_;                    // for each target, which of these are its own
  std::vector<float> logits_, log_probs_;
};

// Of every token of a target but its first, in nats.
std::vector<std::vector<float>> score(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                                      const Ids& targets);

// The same by the steps of autoregressive decoding, each of so many tokens of every target, over a cache of those
// before.
std::vector<std::vector<float>> score_in_steps(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                                               const Ids& targets, int64_t tokens);

}  // namespace janus_fast
