// Launchers of trained_linear and its gradients.
#include <tuple>

#include "csrc/cpu/launch.h"

namespace janus_fast {
namespace {

constexpr const char* kOp = "trained_linear";
constexpr int64_t kPanelSize = 64, kSizes = 32;

int64_t ceil_divide(int64_t n, int64_t by) { return (n + by - 1) / by; }

template <typename T, typename TW>
const TrainedLinearKernels<T, TW>& kernels_for() {
  if constexpr (std::is_same_v<T, TW>)
    return kernels_of<T>().trained_linear;
  else
    return kernels_of<T>().trained_linear_float;
}

template <typename T, typename TW>
TrainedLinearCall<T, TW> call_of(const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu, Tensor& panels) {
  TrainedLinearCall<T, TW> call = {};
  call.x = data<T>(x), call.x_stride = x.stride(0), call.rows = x.size(0), call.channels = x.size(1);
  call.weight = data<TW>(weight), call.weight_stride = weight.stride(0), call.outputs = weight.size(0);
  call.bias = data<TW>(bias), call.relu = relu;
  panels = torch::stable::new_empty(x, {call.channels * call.outputs});
  call.panels = mutable_data<T>(panels);
  return call;
}

void check(const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check_rows(x, kOp, "x", 2);
  check_rows(weight, kOp, "weight", 2);
  JANUS_CHECK(x.size(1) == weight.size(1), kOp, ": weight must have the columns of x");
  JANUS_CHECK(weight.size(0) % kSizes == 0 && weight.size(1) % kSizes == 0, kOp, ": weight must have multiples of ",
              kSizes, " outputs and channels");
  JANUS_CHECK(weight.scalar_type() == x.scalar_type() || weight.scalar_type() == ScalarType::Float, kOp,
              ": weight must be of the dtype of x or float32");
  check_vector(bias, kOp, "bias", weight.scalar_type(), weight.size(0));
}

// Calls run(T(), TW()) with the element types of x and weight.
template <typename F>
auto with_types(const Tensor& x, const Tensor& weight, const F& run) {
  return with_type<float, BFloat16>(x, kOp, "x must be float32 or bfloat16", [&](auto type) {
    return weight.scalar_type() == ScalarType::Float ? run(type, float()) : run(type, type);
  });
}

template <typename T, typename TW>
Tensor forward(const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu) {
  Tensor panels, output = torch::stable::new_empty(x, {x.size(0), weight.size(0)});
  auto call = call_of<T, TW>(x, weight, bias, relu, panels);
  call.output = mutable_data<T>(output);
  const auto& table = kernels_for<T, TW>();
  const size_t scratch = table.scratch(call);
  parallel(ceil_divide(call.outputs, kPanelSize), 8.0 * weight.numel(),
           [&](int64_t begin, int64_t end) { table.pack(call, begin, end, thread_scratch<unsigned char>(scratch)); });
  parallel(ceil_divide(call.rows, kTrainedRows), 2.0 * call.rows * weight.numel(),
           [&](int64_t begin, int64_t end) { table.fwd(call, begin, end, thread_scratch<unsigned char>(scratch)); });
  return output;
}

template <typename T, typename TW>
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& output, const Tensor& x,
                                            const Tensor& weight, const Tensor& bias, bool relu) {
  Tensor panels, masked, grad_x = torch::stable::new_empty(x, x.sizes());
  auto call = call_of<T, TW>(x, weight, bias, relu, panels);
  Tensor packed = torch::stable::new_empty(x, {kTrainedChunk * call.channels});
  Tensor weight_sums = torch::stable::new_empty(weight, weight.sizes(), ScalarType::Float);
  Tensor bias_sums = torch::stable::new_empty(weight, {call.outputs}, ScalarType::Float);
  call.grad_output = data<T>(grad_output), call.grad_stride = grad_output.stride(0);
  call.packed_x = mutable_data<T>(packed), call.grad_x = mutable_data<T>(grad_x);
  call.weight_sums = mutable_data<float>(weight_sums), call.bias_sums = mutable_data<float>(bias_sums);
  if (relu) {
    call.output = const_cast<T*>(data<T>(output));
    masked = torch::stable::new_empty(x, {kTrainedChunk, call.outputs});
    call.masked = mutable_data<T>(masked);
  }
  const auto& table = kernels_for<T, TW>();
  const size_t scratch = table.scratch(call);
  parallel(ceil_divide(call.channels, kPanelSize), 8.0 * weight.numel(), [&](int64_t begin, int64_t end) {
    table.pack_rows(call, begin, end, thread_scratch<unsigned char>(scratch));
  });
  if (call.rows == 0) {
    std::fill_n(call.weight_sums, weight.numel(), 0.0f);
    std::fill_n(call.bias_sums, call.outputs, 0.0f);
  }
  for (int64_t chunk = 0; chunk < call.rows; chunk += kTrainedChunk) {
    const int64_t rows = std::min(kTrainedChunk, call.rows - chunk);
    const double work = 2.0 * rows * weight.numel();
    parallel(ceil_divide(rows, kTrainedRows), work, [&](int64_t begin, int64_t end) {
      table.grad_rows(call, chunk, begin, end, thread_scratch<unsigned char>(scratch));
    });
    parallel(ceil_divide(call.outputs, kPanelSize), work, [&](int64_t begin, int64_t end) {
      table.grad_weight(call, chunk, begin, end, thread_scratch<unsigned char>(scratch));
    });
  }
  if constexpr (std::is_same_v<TW, float>) return {grad_x, weight_sums, bias_sums};
  const auto type = weight.scalar_type();
  return {grad_x, torch::stable::to(weight_sums, type), torch::stable::to(bias_sums, type)};
}

Tensor trained_linear_cpu(const Tensor& x, const Tensor& weight, const Tensor& bias, bool relu) {
  check(x, weight, bias);
  return with_types(x, weight, [&](auto of_x, auto of_weight) {
    return forward<decltype(of_x), decltype(of_weight)>(x, weight, bias, relu);
  });
}

std::tuple<Tensor, Tensor, Tensor> trained_linear_bwd_cpu(const Tensor& grad_output, const Tensor& output,
                                                          const Tensor& x, const Tensor& weight, const Tensor& bias,
                                                          bool relu) {
  check(x, weight, bias);
  for (const Tensor* tensor : {&grad_output, &output}) {
    if (tensor == &output && !relu) continue;
    check_rows(*tensor, kOp, tensor == &output ? "output" : "grad_output", 2);
    JANUS_CHECK(
        tensor->size(0) == x.size(0) && tensor->size(1) == weight.size(0) && tensor->scalar_type() == x.scalar_type(),
        kOp, ": output and its gradient must have the rows and dtype of x and the outputs of weight");
  }
  JANUS_CHECK(!relu || output.is_contiguous(), kOp, ": output must be contiguous");
  return with_types(x, weight, [&](auto of_x, auto of_weight) {
    return backward<decltype(of_x), decltype(of_weight)>(grad_output, output, x, weight, bias, relu);
  });
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CPU, m) {
  m.impl("trained_linear", TORCH_BOX(&janus_fast::trained_linear_cpu));
  m.impl("trained_linear_bwd", TORCH_BOX(&janus_fast::trained_linear_bwd_cpu));
}
