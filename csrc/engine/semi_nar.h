// Decoding left to right in blocks, whose words the model does not check.
#pragma once

#include "csrc/engine/forward.h"
#include "csrc/engine/options.h"

namespace janus_fast {

// The output of every source. Hypothesis.iterations counts passes: each reads `block_length` words of a prefix, or adds
// as many.
Hypotheses semi_nar(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                    const SemiAutoregressiveOptions& options, const Ids* prefixes);

}  // namespace janus_fast
