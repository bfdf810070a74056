// Launcher of predict_lengths.
#include "csrc/cuda/launch.h"
#include "kernels/cuda/predict_lengths.cuh"

namespace {

template <typename T>
int run(const void* encoded, const int32_t* offsets, const void* weight, int64_t encoded_stride, int64_t weight_stride,
        int64_t rows, int64_t sources, int64_t classes, int64_t channels, int64_t beam, bool window, int64_t min_length,
        int64_t max_length, int64_t* lengths, float* log_probs, void* stream) {
  using namespace janus_fast::cuda;
  PredictLengthsCall<T> call = {};
  call.encoded = static_cast<const T*>(encoded), call.encoded_stride = encoded_stride, call.rows = rows;
  call.weight = static_cast<const T*>(weight), call.weight_stride = weight_stride;
  call.offsets = offsets, call.sources = sources, call.window = window;
  call.classes = static_cast<int>(classes), call.channels = static_cast<int>(channels);
  call.beam = static_cast<int>(beam);
  call.min_length = static_cast<int>(min_length), call.max_length = static_cast<int>(max_length);
  call.lengths = lengths, call.log_probs = log_probs;
  const auto blocks = static_cast<unsigned>((sources + kLengthSources - 1) / kLengthSources);
  if (blocks == 0) return 0;
  return launch(predict_lengths_kernel<T>, blocks, kLengthThreads, predict_lengths_shared(call.classes, call.channels),
                stream, call);
}

}  // namespace

extern "C" int janus_fast_predict_lengths(const void* encoded, const int32_t* offsets, const void* weight,
                                          int64_t encoded_stride, int64_t weight_stride, int64_t rows, int64_t sources,
                                          int64_t classes, int64_t channels, int64_t beam, bool window,
                                          int64_t min_length, int64_t max_length, bool bfloat16, int64_t* lengths,
                                          float* log_probs, void* stream) {
  auto* launcher = bfloat16 ? run<__nv_bfloat16> : run<float>;
  return launcher(encoded, offsets, weight, encoded_stride, weight_stride, rows, sources, classes, channels, beam,
                  window, min_length, max_length, lengths, log_probs, stream);
}
