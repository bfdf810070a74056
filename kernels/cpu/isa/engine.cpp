#include "kernels/cpu/attention.h"
#include "kernels/cpu/cached_attention.h"
#include "kernels/cpu/isa/table.h"
#include "kernels/cpu/multiply.h"
#include "kernels/cpu/predict_lengths.h"
#include "kernels/cpu/recurrence.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/vocabulary.h"

namespace janus_fast {
const EngineKernels JANUS_JOIN(engine, JANUS_ISA) = {
    JANUS_STRING(JANUS_ISA),
    JANUS_ISA::kPanelOutputs,
    JANUS_ISA::kVocabularyGroup,
    JANUS_ISA::panel_bytes,
    JANUS_ISA::pack,
    JANUS_ISA::gather,
    JANUS_ISA::multiply,
    JANUS_ISA::vocabulary_groups,
    JANUS_ISA::vocabulary_merge,
    JANUS_ISA::norm,
    JANUS_ISA::convert,
    JANUS_ISA::embed,
    JANUS_ISA::split_head,
    JANUS_ISA::attend_cached,
    JANUS_ISA::recur,
    {JANUS_ISA::attention_fwd_scratch<float>, nullptr, JANUS_ISA::attention_fwd<float>, nullptr},
    {JANUS_ISA::attention_fwd_scratch<float>, nullptr, JANUS_ISA::attention_fwd<float, BFloat16>, nullptr},
    {JANUS_ISA::attention_fwd_scratch<float>, nullptr, JANUS_ISA::attention_fwd<float, int8_t>, nullptr},
    {JANUS_ISA::predict_lengths_scratch, JANUS_ISA::predict_lengths<float>},
};
}  // namespace janus_fast
