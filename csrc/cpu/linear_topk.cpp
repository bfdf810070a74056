// Launchers of linear_topk and of linear_argmax, which is its first column.
#include <optional>
#include <tuple>

#include "csrc/cpu/launch.h"

namespace janus_fast {
namespace {

// Fills tokens and log_probs, [N, k] elements each.
template <typename T>
void launch(const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& bias, int64_t k, Tensor& tokens,
            Tensor& log_probs) {
  LinearTopkCall<T> call = {};
  call.rows = hidden.size(0);
  call.weight = data<T>(weight), call.weight_stride = weight.stride(0);
  call.vocabulary = weight.size(0);
  call.bias = bias ? data<T>(*bias) : nullptr;
  call.k = k;
  call.tokens = mutable_data<int64_t>(tokens), call.log_probs = mutable_data<float>(log_probs);
  if (call.rows == 0) return;
  Tensor packed;
  call.hidden = row_factors<T>(hidden, packed);

  const int64_t panels = (call.vocabulary + kPanel - 1) / kPanel, kept = k < kPanel ? k : kPanel;
  const int64_t entries = call.rows * panels;
  Tensor partial = torch::stable::new_empty(hidden, {entries * (2 + kept)}, ScalarType::Float);
  Tensor partial_tokens = torch::stable::new_empty(hidden, {entries * kept}, ScalarType::Int);
  call.panel_max = mutable_data<float>(partial);
  call.panel_sum = call.panel_max + entries, call.panel_values = call.panel_sum + entries;
  call.panel_tokens = mutable_data<int32_t>(partial_tokens);

  const auto& table = kernels_of<T>().linear_topk;
  const double products = static_cast<double>(call.rows) * call.vocabulary * hidden.size(1);
  const int64_t chunks = (call.rows + kRowChunk - 1) / kRowChunk;
  parallel(panels * chunks, 2 * products,
           [&](int64_t begin, int64_t end) { table.panels(call, begin, end, thread_scratch<float>(table.scratch())); });
  parallel(call.rows, static_cast<double>(entries) * (4 + k),
           [&](int64_t begin, int64_t end) { table.merge(call, begin, end, thread_scratch<int32_t>(panels)); });
}

void run(const char* op, const Tensor& hidden, const Tensor& weight, const std::optional<Tensor>& bias, int64_t k,
         Tensor& tokens, Tensor& log_probs) {
  check_rows(hidden, op, "hidden", 2);
  check_rows(weight, op, "weight", 2);
  JANUS_CHECK(hidden.size(1) == weight.size(1) && hidden.scalar_type() == weight.scalar_type(), op,
              ": weight must have the columns and dtype of hidden");
  JANUS_CHECK(weight.size(0) <= INT32_MAX, op, ": weight must have at most 2^31 - 1 rows, got ", weight.size(0));
  JANUS_CHECK(k >= 1 && k <= weight.size(0), op, ": k must be in [1, V = ", weight.size(0), "], got ", k);
  if (bias) check_vector(*bias, op, "bias", hidden.scalar_type(), weight.size(0));
  with_type<float, BFloat16>(hidden, op, "hidden must be float32 or bfloat16",
                             [&](auto type) { launch<decltype(type)>(hidden, weight, bias, k, tokens, log_probs); });
}

std::tuple<Tensor, Tensor> linear_topk_cpu(const Tensor& hidden, const Tensor& weight, std::optional<Tensor> bias,
                                           int64_t k) {
  Tensor tokens = torch::stable::new_empty(hidden, {hidden.size(0), k}, ScalarType::Long);
  Tensor log_probs = torch::stable::new_empty(hidden, {hidden.size(0), k}, ScalarType::Float);
  run("linear_topk", hidden, weight, bias, k, tokens, log_probs);
  return {tokens, log_probs};
}

std::tuple<Tensor, Tensor> linear_argmax_cpu(const Tensor& hidden, const Tensor& weight, std::optional<Tensor> bias) {
  Tensor tokens = torch::stable::new_empty(hidden, {hidden.size(0)}, ScalarType::Long);
  Tensor log_probs = torch::stable::new_empty(hidden, {hidden.size(0)}, ScalarType::Float);
  run("linear_argmax", hidden, weight, bias, 1, tokens, log_probs);
  return {tokens, log_probs};
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CPU, m) {
  m.impl("linear_topk", TORCH_BOX(&janus_fast::linear_topk_cpu));
  m.impl("linear_argmax", TORCH_BOX(&janus_fast::linear_argmax_cpu));
}
