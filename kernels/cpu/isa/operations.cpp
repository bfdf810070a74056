#include "kernels/cpu/attention.h"
#include "kernels/cpu/dropout_add.h"
#include "kernels/cpu/isa/table.h"
#include "kernels/cpu/joint_loss.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/linear_topk.h"
#include "kernels/cpu/predict_lengths.h"

namespace janus_fast {
namespace JANUS_ISA {
template <typename T>
constexpr AttentionKernels<T> attention_kernels() {
  return {attention_fwd_scratch<T>, attention_bwd_scratch<T>, attention_fwd<T>, attention_bwd<T>};
}
template <typename T>
constexpr LinearTopkKernels<T> linear_topk_kernels() {
  return {linear_topk_scratch, linear_topk_panels<T>, linear_topk_merge<T>};
}
template <typename T>
constexpr JointLossKernels<T> joint_loss_kernels() {
  return {joint_loss_scratch<T>, joint_loss_pack<T>,      joint_loss_logits<T>,
          joint_loss_merge<T>,   joint_loss_gradients<T>, joint_loss_reduce<T>};
}
template <typename T>
constexpr PredictLengthsKernels<T> predict_lengths_kernels() {
  return {predict_lengths_scratch, predict_lengths<T>};
}
}  // namespace JANUS_ISA

const Kernels JANUS_JOIN(kernels, JANUS_ISA) = {
    JANUS_STRING(JANUS_ISA),
    JANUS_ISA::attention_kernels<float>(),
    JANUS_ISA::attention_kernels<double>(),
    JANUS_ISA::attention_kernels<BFloat16>(),
    JANUS_ISA::linear_topk_kernels<float>(),
    JANUS_ISA::linear_topk_kernels<BFloat16>(),
    JANUS_ISA::joint_loss_kernels<float>(),
    JANUS_ISA::joint_loss_kernels<BFloat16>(),
    JANUS_ISA::predict_lengths_kernels<float>(),
    JANUS_ISA::predict_lengths_kernels<BFloat16>(),
    JANUS_ISA::dropout_add<float, float>,
    JANUS_ISA::dropout_add<float, BFloat16>,
    JANUS_ISA::dropout_add<BFloat16, float>,
    JANUS_ISA::dropout_add<BFloat16, BFloat16>,
};
}  // namespace janus_fast
