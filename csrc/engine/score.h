// Log-probabilities of given targets, left to right.
#pragma once

#include "csrc/engine/forward.h"
#include "csrc/engine/options.h"

namespace janus_fast {

// Of every token of a target but its first, in nats.
std::vector<std::vector<float>> score(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                                      const Ids& targets);

}  // namespace janus_fast
