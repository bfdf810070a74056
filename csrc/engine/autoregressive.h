// Autoregressive decoding: greedy and beam search, sampling.
#pragma once

#include "csrc/engine/forward.h"
#include "csrc/engine/options.h"

namespace janus_fast {

// The num_hypotheses best outputs of every source, best first. Each step keeps, of all continuations of a sentence's
// hypotheses, the best 2 * beam_size; those among the first beam_size that end are finished, the best beam_size of the
// others go on. A sentence is done when beam_size hypotheses are finished. Sampling, they are independent samples.
Hypotheses beam_search(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                       const AutoregressiveOptions& options, const Ids* prefixes);

// Which of a row's continuations, best first, a uniform number in [0, 1) draws: in proportion to their weights at this
// temperature, among the fewest that hold `topp` of them. `weights` is scratch.
int64_t draw(const float* log_probs, int64_t count, const AutoregressiveOptions& options, double uniform,
             std::vector<double>& weights);

}  // namespace janus_fast
