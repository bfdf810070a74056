// Binding of decoder_step, which writes keys and values in place.
#include <string>

#include "csrc/cuda/binding.h"

namespace janus_fast {
namespace {

constexpr const char* kOp = "decoder_step";

struct Seen {
  const Tensor &query_offsets, &key_offsets, &key_sequences, &query_times, &visible_from, &visible_until;
  void check(const OnDevice& device, int64_t rows, int64_t keys) const {
    check_vector(key_sequences, kOp, "key_sequences", ScalarType::Int, check_sequences(query_offsets, kOp, "offsets"));
    check_sequences(key_offsets, kOp, "key_offsets");
    check_vector(query_times, kOp, "query_times", ScalarType::Int, rows);
    check_vector(visible_from, kOp, "visible_from", ScalarType::Int, keys);
    check_vector(visible_until, kOp, "visible_until", ScalarType::Int, keys);
    device.check_same(query_offsets, key_offsets, key_sequences, query_times, visible_from, visible_until);
  }
};

Tensor decoder_step_cuda(const Tensor& x, Tensor caches, const Tensor& places, const Tensor& cross_keys,
                         const Tensor& parameters, const Tensor& query_offsets, const Tensor& key_offsets,
                         const Tensor& key_sequences, const Tensor& query_times, const Tensor& visible_from,
                         const Tensor& visible_until, const Tensor& cross_query_offsets,
                         const Tensor& cross_key_offsets, const Tensor& cross_key_sequences,
                         const Tensor& cross_query_times, const Tensor& cross_visible_from,
                         const Tensor& cross_visible_until, const std::string& activation, bool normalize_before,
                         double eps) {
  const OnDevice device(kOp, x);
  device.check_same(x, caches, places, cross_keys, parameters);
  const bool bfloat16 = x.scalar_type() == ScalarType::BFloat16;
  JANUS_CHECK(bfloat16 || x.scalar_type() == ScalarType::Float, kOp, ": x must be float32 or bfloat16");
  const bool same = caches.scalar_type() == x.scalar_type() && cross_keys.scalar_type() == x.scalar_type() &&
                    parameters.scalar_type() == x.scalar_type();
  JANUS_CHECK(same, kOp, ": caches, cross_keys and parameters must have the dtype of x");
  JANUS_CHECK(x.dim() == 2 && caches.dim() == 5 && cross_keys.dim() == 5 && parameters.dim() == 2, kOp,
              ": x, caches, cross_keys and parameters must have 2, 5, 5 and 2 dimensions, got ", x.dim(), ", ",
              caches.dim(), ", ", cross_keys.dim(), " and ", parameters.dim());
  const int64_t rows = x.size(0), channels = x.size(1), layers = caches.size(0), keys = caches.size(1);
  const int64_t heads = caches.size(3), size = caches.size(4), sources = cross_keys.size(1);
  JANUS_CHECK(heads * size == channels && caches.size(2) == 2 && caches.is_contiguous(), kOp,
              ": caches must be contiguous, [L, Nk, 2, H, D] with H D = ", channels);
  JANUS_CHECK(cross_keys.size(0) == layers && cross_keys.size(2) == 2 && cross_keys.size(3) == heads &&
                  cross_keys.size(4) == size && cross_keys.stride(4) == 1 && cross_keys.stride(3) == size &&
                  cross_keys.stride(2) == channels,
              kOp, ": cross_keys must be [", layers, ", Ns, 2, ", heads, ", ", size, "], the last three contiguous");
  const int64_t own = parameters.size(1) - 6 * channels * channels - 13 * channels;
  const int64_t hidden = own / (2 * channels + 1);
  JANUS_CHECK(parameters.size(0) == layers && parameters.is_contiguous() && hidden > 0 &&
                  hidden * (2 * channels + 1) == own &&
                  reinterpret_cast<uintptr_t>(parameters.const_data_ptr()) % 16 == 0,
              kOp, ": parameters must be contiguous, [L, 6 C^2 + 2 C F + 13 C + F], and begin at 16 bytes");
  check_vector(places, kOp, "places", ScalarType::Long, -1);
  JANUS_CHECK(places.numel() <= rows, kOp, ": places must have at most ", rows, " elements, got ", places.numel());
  const Seen seen = {query_offsets, key_offsets, key_sequences, query_times, visible_from, visible_until};
  const Seen cross = {cross_query_offsets, cross_key_offsets,  cross_key_sequences,
                      cross_query_times,   cross_visible_from, cross_visible_until};
  seen.check(device, rows, keys);
  cross.check(device, rows, sources);
  const Tensor input = torch::stable::contiguous(x);
  Tensor output = torch::stable::new_empty(x, {rows, channels});
  Tensor work = torch::stable::new_empty(x, {rows * (3 * channels + hidden)}, ScalarType::Float);
  device.check(janus_fast_decoder_step(
      input.const_data_ptr(), caches.mutable_data_ptr(), data<int64_t>(places), cross_keys.const_data_ptr(),
      parameters.const_data_ptr(), data<int32_t>(query_offsets), data<int32_t>(key_offsets),
      data<int32_t>(key_sequences), data<int32_t>(query_times), data<int32_t>(visible_from),
      data<int32_t>(visible_until), data<int32_t>(cross_query_offsets), data<int32_t>(cross_key_offsets),
      data<int32_t>(cross_key_sequences), data<int32_t>(cross_query_times), data<int32_t>(cross_visible_from),
      data<int32_t>(cross_visible_until), rows, places.numel(), layers, heads, size, hidden, keys, sources,
      key_sequences.numel(), key_offsets.numel() - 1, cross_key_sequences.numel(), cross_key_offsets.numel() - 1,
      cross_keys.stride(0), cross_keys.stride(1), static_cast<int32_t>(activation_of(kOp, activation)),
      normalize_before, static_cast<float>(eps), bfloat16, 0, 0, mutable_data<float>(work), output.mutable_data_ptr(),
      device.stream()));
  return output;
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CUDA, m) { m.impl("decoder_step", TORCH_BOX(&janus_fast::decoder_step_cuda)); }
