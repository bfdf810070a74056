// Attention of a hypothesis's newest rows over cached rows that other hypotheses may have left.
#pragma once

#include "kernels/cpu/engine.h"
#include "kernels/cpu/vec.h"

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

// Asks for rows that are needed soon: a head's are a piece of memory of its own.
template <typename T>
JANUS_INLINE void prefetch_cached(const T* base, const int64_t* rows, int64_t count, int64_t size) {
  for (int64_t t = 0; t < count; t++) prefetch(base + rows[t], size);
}

template <typename T>
void attend_cached_as(const CachedAttentionCall& call, int64_t task_begin, int64_t task_end) {
  constexpr int64_t lanes = kLanes<float>;
  constexpr int kVectors = JANUS_VECTOR_BYTES == 64 ? 8 : 4;  // none waits for its last addition
  const int64_t size = call.size;
  const int64_t head_stride = call.slots * call.capacity * size;
  for (int64_t task = task_begin; task < task_end; task++) {
    const int64_t hypothesis = task / call.heads, head = task % call.heads;
    const int64_t row_begin = hypothesis * call.steps, row_end = row_begin + call.steps;
    const int32_t* origin = call.origin + hypothesis;
    T *key = static_cast<T*>(call.key) + head * head_stride, *value = static_cast<T*>(call.value) + head * head_stride;
    for (int64_t row = row_begin; row < row_end && call.new_key; row++) {
      const int64_t from = row * call.new_stride + head * size, place = call.places[row];
      const int64_t to = (origin[place * call.slots] * call.capacity + place) * size;
      for (int64_t c = 0; c < size; c += lanes) {
        store_part(key + to + c, load_part(call.new_key + from + c, size - c), size - c);
        store_part(value + to + c, load_part(call.new_value + from + c, size - c), size - c);
      }
    }
    for (int64_t row = row_begin; row < row_end; row++) {
      const float* query = call.query + row * call.query_stride + head * size;
      float* output = call.output + row * call.output_stride + head * size;
      const int64_t seen = call.places[row] + 1;
      const bool more = row + 1 == row_end && head + 1 < call.heads && task + 1 < task_end;
      for (int64_t c = 0; c < size; c++) output[c] = 0;
      float peak = -INFINITY, total = 0;
      for (int64_t begin = 0; begin < seen; begin += kKeyBlock) {
        const int64_t count = smaller(kKeyBlock, seen - begin);
        int64_t rows[kKeyBlock + 4];
        alignas(64) float scores[kKeyBlock + lanes];
        for (int64_t t = 0; t < count; t++)
          rows[t] = (origin[(begin + t) * call.slots] * call.capacity + begin + t) * size;
        prefetch_cached(value, rows, count, size);
        for (int64_t t = 0; t < count; t += 4) {
          const T* keys[4];
          for (int i = 0; i < 4; i++) keys[i] = key + rows[smaller(t + i, count - 1)];
          dot_keys<T>(query, keys, size, scores + t);
        }
        for (int64_t t = count; t < round_up(count, lanes); t++) scores[t] = -INFINITY;
        Vec<float> top = splat(-INFINITY);
        for (int64_t t = 0; t < count; t += lanes) {
          const Vec<float> s = load(scores + t) * call.scale;
          store(scores + t, s);
          top = maximum<float>(s, top);
        }
        const float before = peak, here = maximum<float>(top);
        peak = here > peak ? here : peak;
        const float decay = begin == 0 ? 0 : exponential(splat(before - peak))[0];
        Vec<float> sums = {};
        for (int64_t t = 0; t < count; t += lanes) {
          const Vec<float> p = exponential(load(scores + t) - peak);
          store(scores + t, p);
          sums += p;
        }
        total = total * decay + sum<float>(sums);
        if (more) prefetch_cached(key + head_stride, rows, count, size);
        add_values<kVectors, T>(scores, rows, count, value, decay, output, size);
      }
      for (int64_t c = 0; c < size; c++) output[c] /= total;
    }
  }
}

inline void attend_cached(const CachedAttentionCall& call, int64_t task_begin, int64_t task_end) {
  if (call.type == Numeric::kFloat32)
    attend_cached_as<float>(call, task_begin, task_end);
  else
    attend_cached_as<BFloat16>(call, task_begin, task_end);
}

template <typename T>
void split_head_as(const float* x, int64_t rows, int64_t size, int64_t stride, T* output) {
  for (int64_t row = 0; row < rows; row++)
    for (int64_t c = 0; c < size; c += kLanes<float>)
      store_part(output + row * size + c, load_part(x + row * stride + c, size - c), size - c);
}

inline void split_head(const float* x, int64_t rows, int64_t size, int64_t stride, Numeric type, void* output) {
  if (type == Numeric::kFloat32)
    split_head_as(x, rows, size, stride, static_cast<float*>(output));
  else
    split_head_as(x, rows, size, stride, static_cast<BFloat16*>(output));
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
