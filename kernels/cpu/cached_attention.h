// Attention of a hypothesis's newest rows over cached rows that other hypotheses may have left.
#pragma once

#include "kernels/cpu/engine.h"
#include "kernels/cpu/packed_matrix.h"

namespace janus_fast {
namespace JANUS_ISA {

constexpr int64_t kKeyBlock = 128;  // keys whose scores lie on the stack; the softmax goes on from block to block

// The products of a query with four keys.
template <typename T>
JANUS_INLINE void dot_keys(const float* query, const T* const key[4], int64_t size, float* out) {
  constexpr int64_t lanes = kLanes<float>;
  Vec<float> sums[4] = {};
  int64_t c = 0;
  for (; c + lanes <= size; c += lanes) {
    const Vec<float> q = load(query + c);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) sums[i] += q * load(key[i] + c);
  }
  if (c < size) {
    const Vec<float> q = load_first(query + c, size - c);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) sums[i] += q * load_first(key[i] + c, size - c);
  }
  store_sums(sums[0], sums[1], sums[2], sums[3], out);
}

// output = output * decay + the weighted sum of values, in strips of NV vectors, then of narrower ones.
template <int NV, typename T>
JANUS_INLINE void add_values(const float* weights, const int64_t* rows, int64_t count, const T* value, float decay,
                             float* output, int64_t size) {
  constexpr int64_t lanes = kLanes<float>;
  int64_t c = 0;
  for (; NV == 1 ? c < size : c + NV * lanes <= size; c += NV * lanes) {
    Vec<float> sums[NV];
#pragma GCC unroll 8
    for (int j = 0; j < NV; j++) sums[j] = load_part(output + c + j * lanes, size - c) * decay;
    for (int64_t t = 0; t < count; t++)
#pragma GCC unroll 8
      for (int j = 0; j < NV; j++) sums[j] += weights[t] * load_part(value + rows[t] + c + j * lanes, size - c);
#pragma GCC unroll 8
    for (int j = 0; j < NV; j++) store_part(output + c + j * lanes, sums[j], size - c);
  }
  if constexpr (NV > 1)
    if (c < size) add_values<NV / 2>(weights, rows, count, value + c, decay, output + c, size - c);
}

// A row of a head as caches keep it.
template <typename T>
JANUS_INLINE void keep_row(const float* x, int64_t size, T* to, float* scale) {
  const auto value = [&](int64_t c) { return load_part(x + c, size - c); };
  if constexpr (std::is_same<T, int8_t>::value) {
    const Quantisation quantised = quantisation_of(size, value);
    *scale = quantised.scale;
    for (int64_t c = 0; c < size; c += kLanes<float>)
      store_part(to + c, nearest(value(c) * quantised.inverse), size - c);
  } else {
    (void)scale;
    for (int64_t c = 0; c < size; c += kLanes<float>) store_part(to + c, value(c), size - c);
  }
}

// What caches hold of a head; slot after slot, [slots, capacity, D] and [slots, capacity].
template <typename T>
struct HeadCache {
  HeadCache(const CachedAttentionCall& call, int64_t head)
      : key(static_cast<T*>(call.key) + head * call.slots * call.capacity * call.size),
        value(static_cast<T*>(call.value) + head * call.slots * call.capacity * call.size) {
    if (!kScaled) return;
    key_scales = call.key_scales + head * call.slots * call.capacity;
    value_scales = call.value_scales + head * call.slots * call.capacity;
  }

  // Asks for what a hypothesis is about to read, up to a block of its past: no processor foresees it.
  JANUS_INLINE void prefetch_past(const CachedAttentionCall& call, int64_t hypothesis) const {
    const int64_t count = smaller(call.places[(hypothesis + 1) * call.steps - 1], kKeyBlock);
    for (int64_t t = 0; t < count; t++) {
      const int64_t at = call.origin[t * call.slots + hypothesis] * call.capacity + t;
      prefetch(key + at * call.size, call.size);
      prefetch(value + at * call.size, call.size);
      if (kScaled && t % kLanes<float> == 0) __builtin_prefetch(key_scales + at), __builtin_prefetch(value_scales + at);
    }
  }

  static constexpr bool kScaled = std::is_same<T, int8_t>::value;
  T *key, *value;
  float *key_scales = nullptr, *value_scales = nullptr;
};

template <typename T>
void attend_cached_as(const CachedAttentionCall& call, int64_t task_begin, int64_t task_end) {
  constexpr int64_t lanes = kLanes<float>;
  constexpr int kVectors = JANUS_VECTOR_BYTES == 64 ? 8 : 4;  // none waits for its last addition
  constexpr bool kScaled = HeadCache<T>::kScaled;
  const int64_t size = call.size;
  for (int64_t task = task_begin; task < task_end; task++) {
    const int64_t head = task / call.hypotheses, hypothesis = task % call.hypotheses, next = task + 1;
    const int32_t* origin = call.origin + hypothesis;
    const HeadCache<T> cache(call, head);
    const T *key = cache.key, *value = cache.value;
    if (next < task_end) HeadCache<T>(call, next / call.hypotheses).prefetch_past(call, next % call.hypotheses);
    for (int64_t row = hypothesis * call.steps; row < (hypothesis + 1) * call.steps && call.new_key; row++) {
      const int64_t from = row * call.new_stride + head * size, place = call.places[row];
      const int64_t to = origin[place * call.slots] * call.capacity + place;
      keep_row(call.new_key + from, size, cache.key + to * size, cache.key_scales + to);
      keep_row(call.new_value + from, size, cache.value + to * size, cache.value_scales + to);
    }
    const int32_t* query_places = call.query_places ? call.query_places : call.places + call.first_query;
    for (int64_t number = call.only_queries ? call.steps : 0; number < call.steps + call.queries; number++) {
      const bool step = number < call.steps;
      const int64_t own = step ? hypothesis * call.steps + number : hypothesis * call.queries + number - call.steps;
      const int64_t row = step ? own : call.first_query + own;
      const float* query = call.query + row * call.query_stride + head * size;
      float* output = call.output + row * call.output_stride + head * size;
      const int64_t seen = (step ? call.places : query_places)[own] + 1;
      for (int64_t c = 0; c < size; c++) output[c] = 0;
      float peak = -INFINITY, total = 0;
      for (int64_t begin = 0; begin < seen; begin += kKeyBlock) {
        const int64_t count = smaller(kKeyBlock, seen - begin);
        int64_t rows[kKeyBlock + 4];
        alignas(64) float scores[kKeyBlock + lanes];
        alignas(64) float factors[kKeyBlock + lanes], shares[kKeyBlock + lanes];  // int8: the scales
        for (int64_t t = 0; t < count; t++) {
          const int64_t at = origin[(begin + t) * call.slots] * call.capacity + begin + t;
          rows[t] = at * size;
          if (kScaled) factors[t] = cache.key_scales[at], shares[t] = cache.value_scales[at];
        }
        for (int64_t t = 0; t < count; t += 4) {
          const T* keys[4];
          for (int i = 0; i < 4; i++) keys[i] = key + rows[smaller(t + i, count - 1)];
          dot_keys<T>(query, keys, size, scores + t);
        }
        for (int64_t t = count; t < round_up(count, lanes); t++) scores[t] = -INFINITY, factors[t] = 1, shares[t] = 1;
        Vec<float> top = splat(-INFINITY);
        for (int64_t t = 0; t < count; t += lanes) {
          Vec<float> s = load(scores + t) * call.scale;
          if (kScaled) s *= load(factors + t);
          store(scores + t, s);
          top = maximum<float>(s, top);
        }
        const float before = peak, here = maximum<float>(top);
        peak = here > peak ? here : peak;
        const float decay = begin == 0 ? 0 : exponential(splat(before - peak))[0];
        Vec<float> sums = {};
        for (int64_t t = 0; t < count; t += lanes) {
          const Vec<float> p = exponential(load(scores + t) - peak);
          store(scores + t, kScaled ? p * load(shares + t) : p);
          sums += p;
        }
        total = total * decay + sum<float>(sums);
        add_values<kVectors, T>(scores, rows, count, value, decay, output, size);
      }
      for (int64_t c = 0; c < size; c++) output[c] /= total;
    }
  }
}

inline void attend_cached(const CachedAttentionCall& call, int64_t task_begin, int64_t task_end) {
  if (call.type == Numeric::kFloat32)
    attend_cached_as<float>(call, task_begin, task_end);
  else if (call.type == Numeric::kBFloat16)
    attend_cached_as<BFloat16>(call, task_begin, task_end);
  else
    attend_cached_as<int8_t>(call, task_begin, task_end);
}

template <typename T>
void split_head_as(const float* x, int64_t rows, int64_t size, int64_t stride, T* output, float* scales) {
  for (int64_t row = 0; row < rows; row++) keep_row(x + row * stride, size, output + row * size, scales + row);
}

inline void split_head(const float* x, int64_t rows, int64_t size, int64_t stride, Numeric type, void* output,
                       float* scales) {
  if (type == Numeric::kFloat32)
    split_head_as(x, rows, size, stride, static_cast<float*>(output), scales);
  else if (type == Numeric::kBFloat16)
    split_head_as(x, rows, size, stride, static_cast<BFloat16*>(output), scales);
  else
    split_head_as(x, rows, size, stride, static_cast<int8_t*>(output), scales);
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
