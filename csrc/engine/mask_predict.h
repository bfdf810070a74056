// Non-autoregressive decoding: predict lengths, fill every mask at once, refine.
// Source: Mask-Predict (Ghazvininejad et al. 2019), as the authors of JANUS run it.
#pragma once

#include "csrc/engine/forward.h"
#include "csrc/engine/options.h"

namespace janus_fast {

Hypotheses mask_predict(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                        const NonAutoregressiveOptions& options);

}  // namespace janus_fast
