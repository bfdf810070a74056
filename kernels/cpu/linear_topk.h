// Projection to the vocabulary, its log-sum-exp and its best tokens, panel by panel: logits exist only as a
// [kRowChunk, kPanel] tile in cache. Every product runs along the channels in one order, panels are cut by token alone
// and merged in order, so a row's result does not depend on the other rows or on the number of threads.
#pragma once

#include "kernels/cpu/matmul.h"
#include "kernels/cpu/row_products.h"

namespace janus_fast {
namespace JANUS_ISA {

inline size_t linear_topk_scratch() { return kRowChunk * kPanel; }

// The best of `count` values, best first, among equals the lowest index first; NaN counts as minus infinity. `tokens`
// are first_token + index. The list may hold some already, of lower tokens.
JANUS_INLINE void best_of(const float* values, int64_t count, int32_t first_token, int64_t k, float* best,
                          int32_t* tokens, int64_t held = 0) {
  constexpr int64_t lanes = kLanes<float>, kWidth = 4 * lanes;
  const auto enter = [&](int64_t j) __attribute__((always_inline)) {
    const float value = values[j] == values[j] ? values[j] : -INFINITY;
    if (held == k && !(value > best[k - 1])) return;
    int64_t place = held < k ? held++ : k - 1;
    for (; place > 0 && value > best[place - 1]; place--) {
      best[place] = best[place - 1];
      tokens[place] = tokens[place - 1];
    }
    best[place] = value;
    tokens[place] = first_token + static_cast<int32_t>(j);
  };
  for (int64_t j = 0; j < count;) {
    if (held < k || j + kWidth > count) {
      enter(j++);
      continue;
    }
    // What cannot enter is skipped, four vectors at a time.
    IntVec<float> above[4];
    for (int i = 0; i < 4; i++) above[i] = load(values + j + i * lanes) > best[k - 1];
    if (any(above[0] | above[1] | above[2] | above[3]))
      for (int i = 0; i < 4; i++)
        for (uint32_t some = lanes_set(above[i]); some; some &= some - 1) enter(j + i * lanes + __builtin_ctz(some));
    j += kWidth;
  }
}

// Adds the bias in place; returns the maximum (minus infinity when every token is forbidden or NaN).
template <typename T>
JANUS_INLINE float add_bias(float* logits, const T* bias, int64_t count) {
  Vec<float> top = splat(-INFINITY);
  int64_t j = 0;
  for (; j + kLanes<float> <= count; j += kLanes<float>) {
    Vec<float> s = load(logits + j);
    if (bias) store(logits + j, s += load(bias + j));
    top = maximum<float>(s, top);
  }
  float peak = maximum<float>(top);
  for (; j < count; j++) {
    if (bias) logits[j] += widen(bias[j]);
    if (logits[j] > peak) peak = logits[j];
  }
  return peak;
}

// The sum of exp(logits - peak); with a peak of minus infinity, 0 or NaN.
JANUS_INLINE float sum_exponentials(const float* logits, int64_t count, float peak) {
  const float shift = peak == -INFINITY ? 0.0f : peak;
  Vec<float> total = {};
  int64_t j = 0;
  for (; j + kLanes<float> <= count; j += kLanes<float>) total += exponential(load(logits + j) - shift);
  if (j < count) {
    Vec<float> rest = splat(-INFINITY);
    for (int64_t i = 0; j + i < count; i++) rest[i] = logits[j + i];
    total += exponential(rest - shift);
  }
  return sum<float>(total);
}

// What pieces of a row's logits add up to: its maximum and, above that, the logarithm of its sum of exponentials. A
// piece without an allowed token adds nothing; NaN passes through.
struct LogSum {
  float peak, log_total;
  float log_prob(float logit) const { return logit - peak - log_total; }
};
JANUS_INLINE LogSum merge_sums(const float* peaks, const float* sums, int64_t pieces) {
  float peak = -INFINITY, total = 0;
  for (int64_t p = 0; p < pieces; p++) peak = peaks[p] > peak ? peaks[p] : peak;
  for (int64_t p = 0; p < pieces; p++)
    total += peaks[p] == -INFINITY ? sums[p] * 0 : sums[p] * __builtin_expf(peaks[p] - peak);
  return {peak, logarithm(total)};
}

// The k best of lists of best tokens [lists, length], which end with their first token of -1: calls take(i, value,
// token), the latter -1 when there are no more. `taken` is scratch of one integer a list.
template <typename F>
JANUS_INLINE void merge_lists(const float* values, const int32_t* tokens, int64_t lists, int64_t length, int64_t k,
                              int32_t* taken, const F& take) {
  for (int64_t l = 0; l < lists; l++) taken[l] = 0;
  for (int64_t i = 0; i < k; i++) {
    float value = -INFINITY;
    int32_t token = -1;
    int64_t from = 0;
    for (int64_t l = 0; l < lists; l++) {
      if (taken[l] == length) continue;
      const float v = values[l * length + taken[l]];
      const int32_t t = tokens[l * length + taken[l]];
      if (t >= 0 && (token < 0 || v > value || (v == value && t < token))) value = v, token = t, from = l;
    }
    if (token >= 0) taken[from]++;
    take(i, value, token);
  }
}

template <typename T>
void linear_topk_panels(const LinearTopkCall<T>& call, int64_t task_begin, int64_t task_end, float* tile) {
  constexpr int64_t kStep = 64;  // tokens whose weights stay in the second-level cache while the rows pass
  const int64_t chunks = (call.rows + kRowChunk - 1) / kRowChunk, panels = (call.vocabulary + kPanel - 1) / kPanel;
  const int64_t kept = smaller(call.k, kPanel);
  const RowProducts<T> products;
  for (int64_t task = task_begin; task < task_end; task++) {
    const int64_t panel = task / chunks, row = task % chunks * kRowChunk, rows = smaller(kRowChunk, call.rows - row);
    const int64_t first = panel * kPanel, count = smaller(kPanel, call.vocabulary - first);
    for (int64_t j = 0; j < count; j += kStep)
      products.each_tile(row, row + rows, [&](int64_t at, int64_t height) {
        products.multiply(call.hidden, at, height, call.weight + (first + j) * call.weight_stride, call.weight_stride,
                          smaller(kStep, count - j), tile + (at - row) * kPanel + j, kPanel);
      });
    for (int64_t i = 0; i < rows; i++) {
      float* logits = tile + i * kPanel;
      const int64_t to = (row + i) * panels + panel;
      call.panel_max[to] = add_bias(logits, call.bias ? call.bias + first : nullptr, count);
      call.panel_sum[to] = sum_exponentials(logits, count, call.panel_max[to]);
      best_of(logits, count, static_cast<int32_t>(first), smaller(kept, count), call.panel_values + to * kept,
              call.panel_tokens + to * kept);
      for (int64_t j = count; j < kept; j++) call.panel_tokens[to * kept + j] = -1;
    }
  }
}

// `taken` holds one integer a panel.
template <typename T>
void linear_topk_merge(const LinearTopkCall<T>& call, int64_t row_begin, int64_t row_end, int32_t* taken) {
  const int64_t panels = (call.vocabulary + kPanel - 1) / kPanel, kept = smaller(call.k, kPanel);
  for (int64_t row = row_begin; row < row_end; row++) {
    const LogSum all = merge_sums(call.panel_max + row * panels, call.panel_sum + row * panels, panels);
    merge_lists(call.panel_values + row * panels * kept, call.panel_tokens + row * panels * kept, panels, kept, call.k,
                taken, [&](int64_t i, float value, int32_t token) {
                  call.tokens[row * call.k + i] = token;
                  call.log_probs[row * call.k + i] = all.log_prob(value);
                });
  }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
