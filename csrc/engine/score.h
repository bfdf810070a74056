// Log-probabilities of given targets, left to right.
#pragma once

#include "csrc/engine/forward.h"
#include "csrc/engine/options.h"

namespace janus_fast {

// Of every token of a target but its first, in nats.
std::vector<std::vector<float>> score(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                                      const Ids& targets);

// The same by the steps of autoregressive decoding, each of so many tokens of every target, over a cache of those
// before.
std::vector<std::vector<float>> score_in_steps(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                                               const Ids& targets, int64_t tokens);

}  // namespace janus_fast
