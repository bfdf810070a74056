// Launcher of linear_activation.
#include <optional>
#include <string>

#include "csrc/cpu/launch.h"

namespace janus_fast {
namespace {

constexpr const char* kOp = "linear_activation";

template <typename T>
void launch(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias, Activation activation,
            Tensor& output) {
  LinearActivationCall<T> call = {};
  Tensor packed;
  call.x = row_factors<T>(x, packed), call.rows = x.size(0);
  call.weight = data<T>(weight), call.weight_stride = weight.stride(0);
  call.outputs = weight.size(0);
  call.bias = bias ? data<T>(*bias) : nullptr;
  call.activation = activation;
  call.output = mutable_data<T>(output);
  const int64_t tasks =
      (call.outputs + kLinearOutputs - 1) / kLinearOutputs * ((call.rows + kLinearChunk - 1) / kLinearChunk);
  const auto kernel = kernels_of<T>().linear_activation;
  parallel(tasks, 2.0 * call.rows * call.outputs * x.size(1),
           [&](int64_t begin, int64_t end) { kernel(call, begin, end); });
}

Tensor linear_activation_cpu(const Tensor& x, const Tensor& weight, std::optional<Tensor> bias,
                             std::string activation) {
  check_rows(x, kOp, "x", 2);
  check_rows(weight, kOp, "weight", 2);
  JANUS_CHECK(x.size(1) == weight.size(1) && x.scalar_type() == weight.scalar_type(), kOp,
              ": weight must have the columns and dtype of x");
  if (bias) check_vector(*bias, kOp, "bias", x.scalar_type(), weight.size(0));
  Tensor output = torch::stable::new_empty(x, {x.size(0), weight.size(0)});
  with_type<float, BFloat16>(x, kOp, "x must be float32 or bfloat16", [&](auto type) {
    launch<decltype(type)>(x, weight, bias, activation_of(kOp, activation), output);
  });
  return output;
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CPU, m) {
  m.impl("linear_activation", TORCH_BOX(&janus_fast::linear_activation_cpu));
}
