// Launchers of attention and its gradient.
#include <algorithm>
#include <tuple>
#include <vector>

#include "csrc/cpu/launch.h"

namespace janus_fast {
namespace {

struct Integers {
  const Tensor &query_offsets, &key_offsets, &key_sequences, &query_times, &visible_from, &visible_until;
};

template <typename T>
Rows<T> rows_of(const Tensor& tensor) {
  return {data<T>(tensor), tensor.stride(0), tensor.stride(1)};
}

void check_operand(const Tensor& tensor, const Tensor& query, const char* op, const char* name, int64_t rows) {
  check_rows(tensor, op, name, 3);
  JANUS_CHECK(tensor.size(0) == rows && tensor.size(1) == query.size(1) && tensor.size(2) == query.size(2) &&
                  tensor.scalar_type() == query.scalar_type(),
              op, ": ", name, " must have ", rows, " rows and the heads, head size and dtype of query");
}

// Checks everything that both directions read, and fills in their common part.
template <typename T>
AttentionCall<T> prepare(const char* op, const Tensor& query, const Tensor& key, const Tensor& value,
                         const Integers& integers, double scale) {
  check_operand(query, query, op, "query", query.size(0));
  check_operand(key, query, op, "key", key.size(0));
  check_operand(value, query, op, "value", key.size(0));
  AttentionCall<T> call = {};
  call.query = rows_of<T>(query), call.key = rows_of<T>(key), call.value = rows_of<T>(value);
  call.query_offsets = check_offsets(integers.query_offsets, op, "query_offsets", query.size(0));
  call.key_offsets = check_offsets(integers.key_offsets, op, "key_offsets", key.size(0));
  const int64_t sequences = integers.query_offsets.numel() - 1, key_sequences = integers.key_offsets.numel() - 1;
  check_vector(integers.key_sequences, op, "key_sequences", ScalarType::Int, sequences);
  check_vector(integers.query_times, op, "query_times", ScalarType::Int, query.size(0));
  check_vector(integers.visible_from, op, "visible_from", ScalarType::Int, key.size(0));
  check_vector(integers.visible_until, op, "visible_until", ScalarType::Int, key.size(0));
  call.key_sequences = data<int32_t>(integers.key_sequences);
  for (int64_t s = 0; s < sequences; s++)
    JANUS_CHECK(call.key_sequences[s] >= 0 && call.key_sequences[s] < key_sequences, op,
                ": key_sequences must be in [0, ", key_sequences, "), got ", call.key_sequences[s]);
  call.query_times = data<int32_t>(integers.query_times);
  call.visible_from = data<int32_t>(integers.visible_from);
  call.visible_until = data<int32_t>(integers.visible_until);
  call.heads = query.size(1), call.size = query.size(2), call.scale = static_cast<Accumulator<T>>(scale);
  return call;
}

// Rows of the longest key sequence, and multiplications of one product over all pairs of a head.
template <typename T>
std::pair<int64_t, double> extent(const AttentionCall<T>& call, const Integers& integers) {
  int64_t longest = 0;
  double pairs = 0;
  for (int64_t s = 0; s + 1 < integers.key_offsets.numel(); s++)
    longest = std::max<int64_t>(longest, call.key_offsets[s + 1] - call.key_offsets[s]);
  for (int64_t s = 0; s + 1 < integers.query_offsets.numel(); s++) {
    const int32_t* keys = call.key_offsets + call.key_sequences[s];
    pairs += static_cast<double>(call.query_offsets[s + 1] - call.query_offsets[s]) * (keys[1] - keys[0]);
  }
  return {longest, pairs * call.heads * call.size};
}

template <typename T>
std::tuple<Tensor, Tensor> forward(const Tensor& query, const Tensor& key, const Tensor& value,
                                   const Integers& integers, double scale) {
  auto call = prepare<T>("attention", query, key, value, integers, scale);
  Tensor output = torch::stable::new_empty(query, query.sizes());
  const auto lse_dtype = query.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
  Tensor lse = torch::stable::new_empty(query, {query.size(0), query.size(1)}, lse_dtype);
  call.output = mutable_data<T>(output);
  call.lse = mutable_data<Accumulator<T>>(lse);
  const auto [longest, pairs] = extent(call, integers);
  const auto& table = kernels_of<T>().attention;
  const size_t scratch = table.fwd_scratch(longest, call.size);
  parallel((integers.query_offsets.numel() - 1) * call.heads, 4 * pairs,
           [&](int64_t begin, int64_t end) { table.fwd(call, begin, end, thread_scratch<Accumulator<T>>(scratch)); });
  return {output, lse};
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_output, const Tensor& query, const Tensor& key,
                                            const Tensor& value, const Integers& integers, double scale) {
  const char* op = "attention_bwd";
  auto call = prepare<T>(op, query, key, value, integers, scale);
  check_operand(grad_output, query, op, "grad_output", query.size(0));
  Tensor grad_query = torch::stable::new_empty(query, query.sizes());
  Tensor grad_key = torch::stable::new_empty(key, key.sizes());
  Tensor grad_value = torch::stable::new_empty(value, value.sizes());
  call.grad_output = rows_of<T>(grad_output);
  call.grad_query = mutable_data<T>(grad_query), call.grad_key = mutable_data<T>(grad_key);
  call.grad_value = mutable_data<T>(grad_value);

  // Query sequences sorted by their key sequence, in their own order within it.
  const int64_t sequences = integers.query_offsets.numel() - 1, key_sequences = integers.key_offsets.numel() - 1;
  std::vector<int32_t> order_offsets(key_sequences + 1, 0), order(sequences);
  for (int64_t s = 0; s < sequences; s++) order_offsets[call.key_sequences[s] + 1]++;
  for (int64_t s = 0; s < key_sequences; s++) order_offsets[s + 1] += order_offsets[s];
  std::vector<int32_t> next(order_offsets.begin(), order_offsets.end() - 1);
  for (int64_t s = 0; s < sequences; s++) order[next[call.key_sequences[s]]++] = static_cast<int32_t>(s);
  call.order_offsets = order_offsets.data(), call.query_order = order.data();

  const auto [longest, pairs] = extent(call, integers);
  const auto& table = kernels_of<T>().attention;
  const size_t scratch = table.bwd_scratch(longest, call.size);
  parallel(key_sequences * call.heads, 10 * pairs,
           [&](int64_t begin, int64_t end) { table.bwd(call, begin, end, thread_scratch<Accumulator<T>>(scratch)); });
  return {grad_query, grad_key, grad_value};
}

std::tuple<Tensor, Tensor> attention_cpu(const Tensor& query, const Tensor& key, const Tensor& value,
                                         const Tensor& query_offsets, const Tensor& key_offsets,
                                         const Tensor& key_sequences, const Tensor& query_times,
                                         const Tensor& visible_from, const Tensor& visible_until, double scale) {
  const Integers integers = {query_offsets, key_offsets, key_sequences, query_times, visible_from, visible_until};
  JANUS_CHECK(query.dim() == 3, "attention: query must have 3 dimensions, got ", query.dim());
  return with_type<float, double, BFloat16>(
      query, "attention", "query must be float32, float64 or bfloat16",
      [&](auto type) { return forward<decltype(type)>(query, key, value, integers, scale); });
}

// The softmax is recomputed as a whole; the results of the forward pass are for devices that keep no row of scores.
std::tuple<Tensor, Tensor, Tensor> attention_bwd_cpu(const Tensor& grad_output, const Tensor& /*output*/,
                                                     const Tensor& /*lse*/, const Tensor& query, const Tensor& key,
                                                     const Tensor& value, const Tensor& query_offsets,
                                                     const Tensor& key_offsets, const Tensor& key_sequences,
                                                     const Tensor& query_times, const Tensor& visible_from,
                                                     const Tensor& visible_until, double scale) {
  const Integers integers = {query_offsets, key_offsets, key_sequences, query_times, visible_from, visible_until};
  JANUS_CHECK(query.dim() == 3, "attention_bwd: query must have 3 dimensions, got ", query.dim());
  return with_type<float, double, BFloat16>(
      query, "attention_bwd", "query must be float32, float64 or bfloat16",
      [&](auto type) { return backward<decltype(type)>(grad_output, query, key, value, integers, scale); });
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CPU, m) {
  m.impl("attention", TORCH_BOX(&janus_fast::attention_cpu));
  m.impl("attention_bwd", TORCH_BOX(&janus_fast::attention_bwd_cpu));
}
