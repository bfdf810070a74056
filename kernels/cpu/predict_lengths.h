// Target lengths: mean over each source's rows, projection to the length classes, log-softmax, candidates.
#pragma once

#include "kernels/cpu/linear_topk.h"

namespace janus_fast {
namespace JANUS_ISA {

constexpr int64_t kSourceBlock = 16;  // sources that share one pass over the weight

// Logits, means and, for the best lengths, values and lengths of one source.
inline size_t predict_lengths_scratch(int64_t classes, int64_t channels) {
  return kSourceBlock * (round_up(classes, 4) + channels) + channels + 2 * classes;
}

// Sums in two levels, sixteen rows and then the sixteens, so that long sources keep float32's accuracy.
template <typename T>
void mean_rows(const T* rows, int64_t stride, int64_t count, int64_t channels, float* mean, float* part) {
  for (int64_t c = 0; c < channels; c++) mean[c] = 0;
  for (int64_t begin = 0; begin < count; begin += 16) {
    for (int64_t c = 0; c < channels; c++) part[c] = 0;
    for (int64_t row = begin; row < smaller(begin + 16, count); row++)
      for (int64_t c = 0; c < channels; c++) part[c] += widen(rows[row * stride + c]);
    for (int64_t c = 0; c < channels; c++) mean[c] += part[c];
  }
  for (int64_t c = 0; c < channels; c++) mean[c] /= static_cast<float>(larger(count, 1));
}

template <typename T>
void predict_lengths(const PredictLengthsCall<T>& call, int64_t source_begin, int64_t source_end, float* scratch) {
  const int64_t stride = round_up(call.classes, 4);
  float* means = scratch + kSourceBlock * stride;
  float* part = means + kSourceBlock * call.channels;
  float* values = part + call.channels;
  int32_t* best = reinterpret_cast<int32_t*>(values + call.classes);
  for (int64_t block = source_begin; block < source_end; block += kSourceBlock) {
    const int64_t sources = smaller(kSourceBlock, source_end - block);
    for (int64_t s = 0; s < sources; s++) {
      const int64_t row = call.offsets[block + s];
      mean_rows(call.encoded + row * call.encoded_stride, call.encoded_stride, call.offsets[block + s + 1] - row,
                call.channels, means + s * call.channels, part);
    }
    // [sources, C] x [L, C] -> [sources, L]
    dot_rows(means, call.channels, sources, call.weight, call.weight_stride, call.classes, call.channels, scratch,
             stride);
    for (int64_t s = 0; s < sources; s++) {
      float* logits = scratch + s * stride;
      const float peak = add_bias<float>(logits, nullptr, call.classes);
      const float log_total = logarithm(sum_exponentials(logits, call.classes, peak));
      if (call.window)
        best_of(logits, call.classes, 0, 1, values, best);
      else
        best_of(logits + call.min_length, call.max_length + 1 - call.min_length, static_cast<int32_t>(call.min_length),
                call.beam, values, best);
      for (int64_t i = 0; i < call.beam; i++) {
        const int64_t length = call.window ? best[0] - call.beam / 2 + i : best[i];
        const int64_t allowed = smaller(larger(length, call.min_length), call.max_length);
        call.lengths[(block + s) * call.beam + i] = allowed;
        call.log_probs[(block + s) * call.beam + i] = logits[allowed] - peak - log_total;
      }
    }
  }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
