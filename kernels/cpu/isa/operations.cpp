#include "kernels/cpu/attention.h"
#include "kernels/cpu/dropout_add.h"
#include "kernels/cpu/isa/table.h"
#include "kernels/cpu/joint_loss.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/linear_activation.h"
#include "kernels/cpu/linear_topk.h"
#include "kernels/cpu/predict_lengths.h"
#include "kernels/cpu/trained_linear.h"

namespace janus_fast {
namespace JANUS_ISA {
template <typename T>
constexpr PackRowsKernel<T> pack_rows() {
#ifdef __AMX_BF16__
  if constexpr (kNumeric<T> == Numeric::kBFloat16) return RowProducts<T>::pack;
#endif
  return nullptr;
}

template <typename T, typename TW>
constexpr TrainedLinearKernels<T, TW> trained_linear_kernels() {
  return {trained_linear_scratch<T, TW>, trained_linear_pack<T, TW>,      trained_linear_pack_rows<T, TW>,
          trained_linear<T, TW>,         trained_linear_grad_rows<T, TW>, trained_linear_grad_weight<T, TW>};
}

template <typename T>
constexpr KernelsOf<T> kernels_of() {
  return {{attention_fwd_scratch<T>, attention_bwd_scratch<T>, attention_fwd<T>, attention_bwd<T>},
          {linear_topk_scratch, linear_topk_panels<T>, linear_topk_merge<T>},
          {joint_loss_scratch<T>, joint_loss_pack<T>, joint_loss_logits<T>, joint_loss_merge<T>,
           joint_loss_gradients<T>, joint_loss_reduce<T>},
          {predict_lengths_scratch, predict_lengths<T>},
          pack_rows<T>(),
          linear_activation<T>,
          trained_linear_kernels<T, T>(),
          trained_linear_kernels<T, float>()};
}
template <>
constexpr KernelsOf<double> kernels_of<double>() {
  return {{attention_fwd_scratch<double>, attention_bwd_scratch<double>, attention_fwd<double>, attention_bwd<double>}};
}
}  // namespace JANUS_ISA

const Kernels JANUS_JOIN(kernels, JANUS_ISA) = {
    JANUS_STRING(JANUS_ISA),
    JANUS_ISA::kernels_of<float>(),
    JANUS_ISA::kernels_of<double>(),
    JANUS_ISA::kernels_of<BFloat16>(),
    JANUS_ISA::dropout_add<float, float>,
    JANUS_ISA::dropout_add<float, BFloat16>,
    JANUS_ISA::dropout_add<BFloat16, float>,
    JANUS_ISA::dropout_add<BFloat16, BFloat16>,
};
}  // namespace janus_fast
