// Log-probabilities of given targets, left to right.
#pragma once

#include "csrc/engine/forward.h"
#include "csrc/engine/options.h"

namespace janus_fast {

// One pass that reads targets left to right, over sources that are encoded.
class TeacherForcing {
 public:
  // Target t belongs to the source owners[t]. By one member alone.
  TeacherForcing(const Model& model, const Ids& targets, const std::vector<int32_t>& owners);
  // One member's part.
  void run(Forward& forward, const Ids& sources);
  // Of every token of a target but its first, in nats.
  std::vector<std::vector<float>> scores() const;

 private:
  const int64_t targets_, streams_;
  // Content rows: the targets without their last token; then, with two streams, as many masks. Key j is seen from time
  // j on.
  std::vector<int32_t> rows_, asked_, places_, offsets_ = {0}, keys_, owners_;
  int64_t longest_ = 0;
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
