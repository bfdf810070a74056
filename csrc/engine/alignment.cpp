// What rows look at: the weights of cross-attention, which attention itself does not keep.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "csrc/engine/forward.h"

namespace janus_fast {
namespace {

float number(const void* values, Numeric type, int64_t i) {
  if (type == Numeric::kFloat32) return static_cast<const float*>(values)[i];
  if (type == Numeric::kInt8) return static_cast<const int8_t*>(values)[i];
  const uint32_t bits = uint32_t{static_cast<const uint16_t*>(values)[i]} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

}  // namespace

void Forward::align(const float* query, int64_t query_stride, const Keys& keys, const Pass& pass) {
  const int64_t size = model.config.head_size(), every = model.config.attention_heads, width = pass.sources->longest();
  const int64_t heads = pass.alignment_heads ? std::min(pass.alignment_heads, every) : every;
  const float scale = 1 / std::sqrt(static_cast<float>(size));
  team.share(pass.last.sequences, [&](int64_t begin, int64_t end) {
    std::vector<float> weights(width);
    for (int64_t sequence = begin; sequence < end; sequence++) {
      const int64_t owner = keys.sequences[sequence], first = keys.offsets[owner];
      const int64_t count = keys.offsets[owner + 1] - first;
      for (int64_t row = pass.last.offsets[sequence]; row < pass.last.offsets[sequence + 1]; row++) {
        float* output = pass.attention + row * width;
        std::fill_n(output, width, 0.0f);
        for (int64_t head = 0; head < heads; head++) {
          const float* q = query + row * query_stride + head * size;
          float peak = -INFINITY, total = 0;
          for (int64_t i = 0; i < count; i++) {
            const int64_t key = head * keys.head_stride + (first + i) * keys.row_stride;
            float sum = 0;
            for (int64_t c = 0; c < size; c++) sum += q[c] * number(keys.key, keys.type, key + c);
            if (keys.key_scales) sum *= keys.key_scales[key / size];
            weights[i] = sum * scale;
            peak = std::max(peak, weights[i]);
          }
          for (int64_t i = 0; i < count; i++) total += weights[i] = std::exp(weights[i] - peak);
          for (int64_t i = 0; i < count; i++) output[i] += weights[i] / total / static_cast<float>(heads);
        }
      }
    }
  });
}

}  // namespace janus_fast
