#include <algorithm>
#include <cmath>

#include "csrc/engine/autoregressive.h"
#include "csrc/engine/continuations.h"

namespace janus_fast {

int64_t draw(const float* log_probs, int64_t count, const AutoregressiveOptions& options, double uniform,
             std::vector<double>& weights) {
  weights.resize(count);
  const double peak = static_cast<double>(log_probs[0]) / options.sampling_temperature;
  double total = 0;
  for (int64_t i = 0; i < count; i++)
    total += weights[i] = std::exp(static_cast<double>(log_probs[i]) / options.sampling_temperature - peak);
  if (!std::isfinite(total)) throw NotFinite(kNoOutput);
  double before = 0, cumulative = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < count; i++) {
    const double weight = weights[i] / total, sum = before + weight;
    if (sum - weight >= options.sampling_topp)
      weights[i] = 0;
    else
      weights[i] = weight;
    before = sum;
    if (weights[i] > 0) last = i;
    cumulative += weights[i];
    weights[i] = cumulative;
  }
  int64_t drawn = 0;
  while (drawn < count && weights[drawn] <= uniform * cumulative) drawn++;
  return std::min(drawn, last);
}

}  // namespace janus_fast
