// Launcher of dropout_add.
#include <optional>

#include "csrc/cpu/launch.h"

namespace janus_fast {
namespace {

constexpr const char* kOp = "dropout_add";
constexpr double kWorkOfElement = 8;  // as long as so many floating-point operations take

template <typename TX, typename TO>
const DropoutAddKernel<TX, TO>& kernel_for() {
  const Kernels& table = kernels();
  if constexpr (sizeof(TX) == sizeof(float) && sizeof(TO) == sizeof(float))
    return table.dropout_add_float;
  else if constexpr (sizeof(TX) == sizeof(float))
    return table.dropout_add_float_bfloat16;
  else if constexpr (sizeof(TO) == sizeof(float))
    return table.dropout_add_bfloat16_float;
  else
    return table.dropout_add_bfloat16;
}

template <typename TX, typename TO>
Tensor run(const Tensor& x, const std::optional<Tensor>& residual, double p, const Tensor& seed, ScalarType dtype) {
  Tensor output = torch::stable::new_empty(x, x.sizes(), dtype);
  DropoutAddCall<TX, TO> call = {};
  call.x = data<TX>(x), call.residual = residual ? data<TO>(*residual) : nullptr;
  call.output = mutable_data<TO>(output), call.count = x.numel();
  call.seed = static_cast<uint64_t>(*data<int64_t>(seed));
  call.threshold = static_cast<uint32_t>(p * 4294967296.0), call.scale = static_cast<float>(1 / (1 - p));
  const auto kernel = kernel_for<TX, TO>();
  parallel((call.count + kDropoutGroup - 1) / kDropoutGroup, kWorkOfElement * call.count,
           [&](int64_t begin, int64_t end) { kernel(call, begin, end); });
  return output;
}

Tensor dropout_add_cpu(const Tensor& x, const std::optional<Tensor>& residual, double p, const Tensor& seed,
                       std::optional<ScalarType> dtype) {
  JANUS_CHECK(x.is_contiguous(), kOp, ": x must be contiguous");
  JANUS_CHECK(0 <= p && p < 1, kOp, ": p must be in [0, 1), got ", p);
  JANUS_CHECK(seed.numel() == 1 && seed.scalar_type() == ScalarType::Long, kOp, ": seed must be one int64");
  const ScalarType to = residual ? residual->scalar_type() : dtype.value_or(x.scalar_type());
  if (residual)
    JANUS_CHECK(residual->is_contiguous() && residual->numel() == x.numel(), kOp,
                ": residual must be contiguous and of as many elements as x");
  const auto from = x.scalar_type();
  if (from == ScalarType::Float && to == ScalarType::Float) return run<float, float>(x, residual, p, seed, to);
  if (from == ScalarType::Float && to == ScalarType::BFloat16) return run<float, BFloat16>(x, residual, p, seed, to);
  if (from == ScalarType::BFloat16 && to == ScalarType::Float) return run<BFloat16, float>(x, residual, p, seed, to);
  if (from == ScalarType::BFloat16 && to == ScalarType::BFloat16)
    return run<BFloat16, BFloat16>(x, residual, p, seed, to);
  fail(kOp, ": x and the result must be float32 or bfloat16");
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CPU, m) { m.impl("dropout_add", TORCH_BOX(&janus_fast::dropout_add_cpu)); }
