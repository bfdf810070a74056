// Included once by each instruction set's file, as isa/table.h is; the same rules hold.
#include "kernels/cpu/attention.h"
#include "kernels/cpu/cached_attention.h"
#include "kernels/cpu/multiply.h"
#include "kernels/cpu/predict_lengths.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/vocabulary.h"

#define JANUS_STRING_(x) #x
#define JANUS_STRING(x) JANUS_STRING_(x)
#define JANUS_TABLE_(isa) engine_##isa
#define JANUS_TABLE(isa) JANUS_TABLE_(isa)

namespace janus_fast {
const EngineKernels JANUS_TABLE(JANUS_ISA) = {
    JANUS_STRING(JANUS_ISA),
    JANUS_ISA::kPanelOutputs,
    JANUS_ISA::kVocabularyGroup,
    JANUS_ISA::panel_bytes,
    JANUS_ISA::pack,
    JANUS_ISA::multiply,
    JANUS_ISA::vocabulary_groups,
    JANUS_ISA::vocabulary_merge,
    JANUS_ISA::norm,
    JANUS_ISA::convert,
    JANUS_ISA::embed,
    JANUS_ISA::split_head,
    JANUS_ISA::attend_cached,
    {JANUS_ISA::attention_fwd_scratch<float>, nullptr, JANUS_ISA::attention_fwd<float>, nullptr},
    {JANUS_ISA::attention_fwd_scratch<float>, nullptr, JANUS_ISA::attention_fwd<float, BFloat16>, nullptr},
    {JANUS_ISA::predict_lengths_scratch, JANUS_ISA::predict_lengths<float>},
};
}  // namespace janus_fast
