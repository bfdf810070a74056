// Binding of attention, forward.
#include <tuple>

#include "csrc/cuda/binding.h"

namespace janus_fast {
namespace {

bool is_aligned(const Tensor& tensor) {
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  return address % 16 == 0 && tensor.stride(0) % 8 == 0 && tensor.stride(1) % 8 == 0 && tensor.stride(2) == 1;
}

// Asynchronous copies move 16 bytes at a time. Slices of a fused projection are as they should be; others are copied.
Tensor aligned(const Tensor& tensor) {
  if (is_aligned(tensor)) return tensor;
  Tensor copy = torch::stable::contiguous(tensor);
  return is_aligned(copy) ? copy : torch::stable::clone(copy);
}

std::tuple<Tensor, Tensor> attention_cuda(const Tensor& query, const Tensor& key, const Tensor& value,
                                          const Tensor& query_offsets, const Tensor& key_offsets,
                                          const Tensor& key_sequences, const Tensor& query_times,
                                          const Tensor& visible_from, const Tensor& visible_until, double scale) {
  const char* op = "attention";
  const OnDevice device(op, query);
  const bool bfloat16 = query.scalar_type() == ScalarType::BFloat16;
  JANUS_CHECK(bfloat16 || query.scalar_type() == ScalarType::Half, op, ": query must be bfloat16 or float16");
  JANUS_CHECK(query.dim() == 3, op, ": query must have 3 dimensions, got ", query.dim());
  const int64_t queries = query.size(0), heads = query.size(1), size = query.size(2);
  JANUS_CHECK(size % 16 == 0 && 16 <= size && size <= 128, op,
              ": the head size must be a multiple of 16 from 16 to 128, got ", size);
  for (const Tensor* tensor : {&key, &value})
    JANUS_CHECK(tensor->dim() == 3 && tensor->size(0) == key.size(0) && tensor->size(1) == heads &&
                    tensor->size(2) == size && tensor->scalar_type() == query.scalar_type(),
                op, ": key and value must have as many rows, and the heads, head size and dtype of query");
  const int64_t keys = key.size(0), sequences = check_sequences(query_offsets, op, "query_offsets");
  const int64_t key_sequence_count = check_sequences(key_offsets, op, "key_offsets");
  check_vector(key_sequences, op, "key_sequences", ScalarType::Int, sequences);
  check_vector(query_times, op, "query_times", ScalarType::Int, queries);
  check_vector(visible_from, op, "visible_from", ScalarType::Int, keys);
  check_vector(visible_until, op, "visible_until", ScalarType::Int, keys);
  device.check_same(query, key, value, query_offsets, key_offsets, key_sequences, query_times, visible_from,
                    visible_until);
  Tensor output = torch::stable::new_empty(query, {queries, heads, size});
  Tensor lse = torch::stable::new_empty(query, {queries, heads}, ScalarType::Float);
  const Tensor q = aligned(query), k = aligned(key), v = aligned(value);
  device.check(janus_fast_attention(
      q.const_data_ptr(), k.const_data_ptr(), v.const_data_ptr(), q.stride(0), q.stride(1), k.stride(0), k.stride(1),
      v.stride(0), v.stride(1), data<int32_t>(query_offsets), data<int32_t>(key_offsets), data<int32_t>(key_sequences),
      data<int32_t>(query_times), data<int32_t>(visible_from), data<int32_t>(visible_until), queries, keys, sequences,
      key_sequence_count, heads, size, static_cast<float>(scale), bfloat16, 0, 0, output.mutable_data_ptr(),
      mutable_data<float>(lse), device.stream()));
  return {output, lse};
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CUDA, m) { m.impl("attention", TORCH_BOX(&janus_fast::attention_cuda)); }
