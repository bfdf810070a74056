// Binding of predict_lengths.
#include <tuple>

#include "csrc/cuda/binding.h"

namespace janus_fast {
namespace {

constexpr int64_t kMostClassesAndChannels = (96 << 10) / 16;

std::tuple<Tensor, Tensor> predict_lengths_cuda(const Tensor& encoded, const Tensor& offsets, const Tensor& weight,
                                                int64_t beam, bool window, int64_t min_length, int64_t max_length) {
  const char* op = "predict_lengths";
  const OnDevice device(op, encoded);
  check_rows(encoded, op, "encoded", 2);
  check_rows(weight, op, "weight", 2);
  const int64_t classes = weight.size(0), channels = weight.size(1), sources = check_sequences(offsets, op, "offsets");
  const bool bfloat16 = encoded.scalar_type() == ScalarType::BFloat16;
  JANUS_CHECK(bfloat16 || encoded.scalar_type() == ScalarType::Float, op, ": encoded must be float32 or bfloat16");
  JANUS_CHECK(encoded.size(1) == channels && encoded.scalar_type() == weight.scalar_type(), op,
              ": weight must have the columns and dtype of encoded");
  JANUS_CHECK(classes + channels <= kMostClassesAndChannels, op,
              ": length classes and channels must together be at most ", kMostClassesAndChannels,
              ", which shared memory holds, got ", classes + channels);
  JANUS_CHECK(0 <= min_length && min_length <= max_length && max_length < classes, op, ": lengths must be in [0, ",
              classes, "), got ", min_length, " to ", max_length);
  JANUS_CHECK(1 <= beam && beam <= max_length - min_length + 1, op, ": beam must be in [1, ",
              max_length - min_length + 1, "], got ", beam);
  device.check_same(encoded, offsets, weight);
  Tensor lengths = torch::stable::new_empty(encoded, {sources, beam}, ScalarType::Long);
  Tensor log_probs = torch::stable::new_empty(encoded, {sources, beam}, ScalarType::Float);
  device.check(janus_fast_predict_lengths(
      encoded.const_data_ptr(), data<int32_t>(offsets), weight.const_data_ptr(), encoded.stride(0), weight.stride(0),
      encoded.size(0), sources, classes, channels, beam, window, min_length, max_length, bfloat16,
      mutable_data<int64_t>(lengths), mutable_data<float>(log_probs), device.stream()));
  return {lengths, log_probs};
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CUDA, m) {
  m.impl("predict_lengths", TORCH_BOX(&janus_fast::predict_lengths_cuda));
}
