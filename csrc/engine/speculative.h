// Greedy decoding by drafts that the model checks itself.
#pragma once

#include "csrc/engine/forward.h"
#include "csrc/engine/options.h"

namespace janus_fast {

// The greedy output of every source, to the bit that of beam_search with one hypothesis. `drafts` (or null) has for
// each source what its output may be. Hypothesis.iterations counts passes; each adds one token to those that it
// accepts.
Hypotheses speculative(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                       const SpeculativeOptions& options, const Ids* prefixes, const Ids* drafts);

}  // namespace janus_fast
