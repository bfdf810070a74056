// Launcher of predict_lengths.
#include <algorithm>
#include <cmath>
#include <tuple>

#include "csrc/cpu/launch.h"

namespace janus_fast {
namespace {

std::tuple<Tensor, Tensor> predict_lengths_cpu(const Tensor& encoded, const Tensor& offsets, const Tensor& weight,
                                               int64_t beam, bool window, int64_t min_length, int64_t max_length) {
  const char* op = "predict_lengths";
  check_rows(encoded, op, "encoded", 2);
  check_rows(weight, op, "weight", 2);
  JANUS_CHECK(encoded.size(1) == weight.size(1) && encoded.scalar_type() == weight.scalar_type(), op,
              ": weight must have the columns and dtype of encoded");
  JANUS_CHECK(0 <= min_length && min_length <= max_length && max_length < weight.size(0), op,
              ": lengths must be in [0, ", weight.size(0), "), got ", min_length, " to ", max_length);
  JANUS_CHECK(1 <= beam && beam <= max_length - min_length + 1, op, ": beam must be in [1, ",
              max_length - min_length + 1, "], got ", beam);
  const int32_t* starts = check_offsets(offsets, op, "offsets", encoded.size(0));
  const int64_t sources = offsets.numel() - 1;
  Tensor lengths = torch::stable::new_empty(encoded, {sources, beam}, ScalarType::Long);
  Tensor log_probs = torch::stable::new_empty(encoded, {sources, beam}, ScalarType::Float);
  with_type<float, BFloat16>(encoded, op, "encoded must be float32 or bfloat16", [&](auto type) {
    typedef decltype(type) T;
    PredictLengthsCall<T> call = {};
    call.encoded = data<T>(encoded), call.encoded_stride = encoded.stride(0), call.offsets = starts;
    call.weight = data<T>(weight), call.weight_stride = weight.stride(0);
    call.classes = weight.size(0), call.channels = weight.size(1), call.beam = beam;
    call.window = window, call.min_length = min_length, call.max_length = max_length;
    call.lengths = mutable_data<int64_t>(lengths), call.log_probs = mutable_data<float>(log_probs);
    const auto& table = kernels_of<T>().predict_lengths;
    const double products = static_cast<double>(call.classes) * call.channels * sources;
    parallel(sources, 2 * products + encoded.numel(), [&](int64_t begin, int64_t end) {
      table.run(call, begin, end, thread_scratch<float>(table.scratch(call.classes, call.channels)));
      for (int64_t i = begin * beam; i < end * beam; i++)  // what is no number has no order: the first class is best
        if (std::isnan(call.log_probs[i])) {
          const int64_t length = window ? std::max(i % beam - beam / 2, min_length) : min_length + i % beam;
          call.lengths[i] = std::min(length, max_length);
        }
    });
  });
  return {lengths, log_probs};
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CPU, m) {
  m.impl("predict_lengths", TORCH_BOX(&janus_fast::predict_lengths_cpu));
}
