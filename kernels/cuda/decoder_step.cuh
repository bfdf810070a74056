// All layers of a decoder over a few rows, as in a step of greedy search: one launch instead of a dozen a layer.
//
// Idea: at few rows a product takes as long as its weights take to be read, and less than a launch. So blocks, one on
// each multiprocessor, stay for the whole step, and share out the output channels of each product, and heads and rows
// of attention. Between these stages, eight a layer, all wait for each other (a cooperative launch lets them). What
// stages hand on lies in `work`, in float32, and passes through the second-level cache. Norms are computed by every
// block for itself.
// Tiles: a warp takes one output channel and all rows, which lie in shared memory; a block takes a row and a head of
// attention, its warps every 16th key. Bytes: the parameters and the keys and values that rows see, once each. FLOPs: 2
// for each weight and row, 4 C for each pair of a row and a key. Sums are float32, in one order.
#pragma once

#include "kernels/activation.h"
#include "kernels/cuda/collectives.cuh"

namespace janus_fast::cuda {

constexpr int kStepRows = 8;  // at most
constexpr int kStepThreads = 512;
constexpr int kStepHeadSize = 128;  // at most

// As a Visibility has them, for rows that follow no number out of bounds.
struct StepKeys {
  const int32_t *query_offsets, *key_offsets, *key_sequences, *query_times, *visible_from, *visible_until;
  int64_t query_sequences, key_sequence_count, rows;
};

template <typename T>
struct DecoderStepCall {
  const T* x;             // [N, C]
  T* caches;              // [L, Nk, 2, H, D]
  const int64_t* places;  // [R] rows of the caches for keys and values of the first R rows
  const T* cross;         // [L, Ns, 2, H, D]
  const T* parameters;    // [L, P], as in janus_fast/reference/decoder_step.py
  int64_t cross_layer_stride, cross_row_stride;
  StepKeys self_keys, cross_keys;
  int rows, content, layers, heads, size, hidden;
  Activation activation;
  bool before;  // pre-norm
  float eps, scale;
  float* work;  // N (3 C + F)
  T* output;    // [N, C]
};

inline size_t step_shared(int64_t rows, int64_t channels, int64_t hidden, int threads) {
  const int64_t widest = channels < hidden ? hidden : channels;
  return static_cast<size_t>(rows * widest + 2 * kStepRows + kStepHeadSize + threads / kWarp * (kStepHeadSize + 2)) * 4;
}

template <typename T>
struct StepNorm {
  const T *weight, *bias;  // null: there is none
};

template <typename T>
struct StepLinear {
  const T *weight, *bias;
  int inputs, outputs;
};

// Takes what a layer has, one after another.
template <typename T>
struct StepReader {
  const T* at;
  __device__ __forceinline__ const T* take(int64_t count) { return (at += count) - count; }
  __device__ __forceinline__ StepLinear<T> linear(int inputs, int outputs) {
    const T* weight = take(static_cast<int64_t>(inputs) * outputs);
    return {weight, take(outputs), inputs, outputs};
  }
  __device__ __forceinline__ StepNorm<T> norm(int channels) {
    const T* weight = take(channels);
    return {weight, take(channels)};
  }
};

struct StepShared {
  float *x, *mean, *scale, *query, *parts;
  template <typename T>
  __device__ __forceinline__ float normed(float value, int row, int channel, StepNorm<T> norm) const {
    if (!norm.weight) return value;
    return (value - mean[row]) * scale[row] * widen(norm.weight[channel]) + widen(norm.bias[channel]);
  }
};

template <typename T>
struct alignas(16) Eight {
  T of[8];
};

// The products of a row of weights with all rows, in every lane.
template <typename T>
__device__ __forceinline__ void step_products(float (&sums)[kStepRows], const T* weight, const float* x, int rows,
                                              int inputs) {
#pragma unroll
  for (int r = 0; r < kStepRows; r++) sums[r] = 0.0f;
#pragma unroll 4
  for (int k = lane() * 8; k < inputs; k += kWarp * 8) {
    const auto loaded = *reinterpret_cast<const Eight<T>*>(weight + k);
#pragma unroll
    for (int r = 0; r < kStepRows; r++)
      if (r < rows)
#pragma unroll
        for (int i = 0; i < 8; i++) sums[r] += widen(loaded.of[i]) * x[r * inputs + k + i];
  }
#pragma unroll
  for (int r = 0; r < kStepRows; r++)
    if (r < rows) sums[r] = warp_sum(sums[r]);
}

// finish(row, output, value) for this block's share of a linear layer of the rows in shared memory.
template <typename T, typename Finish>
__device__ __forceinline__ void step_linear(const StepLinear<T>& linear, const float* x, int rows, Finish finish) {
  const int blocks = static_cast<int>(gridDim.x), warps = static_cast<int>(blockDim.x) / kWarp;
  for (int o = warp() * blocks + static_cast<int>(blockIdx.x); o < linear.outputs; o += warps * blocks) {
    float sums[kStepRows];
    step_products(sums, linear.weight + static_cast<int64_t>(o) * linear.inputs, x, rows, linear.inputs);
    const float bias = widen(linear.bias[o]);
#pragma unroll
    for (int r = 0; r < kStepRows; r++)
      if (r < rows && lane() == r) finish(r, o, sums[r] + bias);
  }
}

// Rows of the work space, behind a norm if there is one, to shared memory, where a barrier stands before.
template <typename T>
__device__ __forceinline__ void step_load(const StepShared& shared, const float* from, int rows, int channels,
                                          StepNorm<T> norm, float eps) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (int i = thread; i < rows * channels; i += threads) shared.x[i] = from[i];
  __syncthreads();
  if (!norm.weight) return;
  for (int r = warp(); r < rows; r += threads / kWarp) {
    const float* row = shared.x + r * channels;
    float sum = 0.0f, squares = 0.0f;
    for (int c = lane(); c < channels; c += kWarp) sum += row[c];
    const float mean = warp_sum(sum) / static_cast<float>(channels);
    for (int c = lane(); c < channels; c += kWarp) squares += (row[c] - mean) * (row[c] - mean);
    squares = warp_sum(squares);
    if (lane() == 0)
      shared.mean[r] = mean, shared.scale[r] = 1.0f / sqrtf(squares / static_cast<float>(channels) + eps);
  }
  __syncthreads();
  for (int i = thread; i < rows * channels; i += threads)
    shared.x[i] = shared.normed(shared.x[i], i / channels, i % channels, norm);
  __syncthreads();
}

// What the query in shared memory, of a row and a head, gathers of the values, [D], as the whole block. `keys` are
// those of a head; values lie a row of channels behind them.
template <typename T>
__device__ __forceinline__ void step_attend(const StepShared& shared, const StepKeys& seen, const T* keys,
                                            int64_t stride, int channels, int size, int row, float scale, float* to) {
  const int thread = static_cast<int>(threadIdx.x), warps = static_cast<int>(blockDim.x) / kWarp;
  int64_t sequence = 0, begin = 0, end = 0;
  while (sequence < seen.query_sequences && seen.query_offsets[sequence + 1] <= row) sequence++;
  if (sequence < seen.query_sequences) {
    const int64_t named = seen.key_sequences[sequence];
    if (named >= 0 && named < seen.key_sequence_count) {
      begin = larger<int64_t>(seen.key_offsets[named], 0);
      end = smaller<int64_t>(seen.key_offsets[named + 1], seen.rows);
    }
  }
  const int32_t time = seen.query_times[row];
  constexpr int kEach = kStepHeadSize / kWarp;  // channels of a lane
  float output[kEach] = {}, top = -INFINITY, total = 0.0f;
  for (int64_t key = begin + warp(); key < end; key += warps) {
    if (time < seen.visible_from[key] || time >= seen.visible_until[key]) continue;  // one answer for the warp
    const T* at = keys + key * stride;
    float score = 0.0f;
#pragma unroll
    for (int i = 0; i < kEach; i++)
      if (const int c = lane() + i * kWarp; c < size) score += shared.query[c] * widen(at[c]);
    score = warp_sum(score) * scale;
    const float before = top;
    top = fmaxf(top, score);
    const float factor = expf(before - top), weight = expf(score - top);
    total = total * factor + weight;
#pragma unroll
    for (int i = 0; i < kEach; i++)
      if (const int c = lane() + i * kWarp; c < size) output[i] = output[i] * factor + weight * widen(at[channels + c]);
  }
  constexpr int kPart = kStepHeadSize + 2;
  float* part = shared.parts + warp() * kPart;
#pragma unroll
  for (int i = 0; i < kEach; i++) part[lane() + i * kWarp] = output[i];
  if (lane() == 0) part[kStepHeadSize] = top, part[kStepHeadSize + 1] = total;
  __syncthreads();  // and nobody reads the query any more
  for (int c = thread; c < size; c += static_cast<int>(blockDim.x)) {
    float peak = -INFINITY, sum = 0.0f, weights = 0.0f;
    for (int w = 0; w < warps; w++) peak = fmaxf(peak, shared.parts[w * kPart + kStepHeadSize]);
    for (int w = 0; w < warps; w++) {
      const float* from = shared.parts + w * kPart;
      if (from[kStepHeadSize + 1] == 0.0f) continue;  // it has seen nothing
      const float factor = expf(from[kStepHeadSize] - peak);
      sum += from[c] * factor, weights += from[kStepHeadSize + 1] * factor;
    }
    to[c] = weights == 0.0f ? 0.0f : sum / weights;
  }
}

__device__ __forceinline__ float step_activation(float x, Activation activation) {
  switch (activation) {
    case Activation::kRelu:
      return x < 0.0f ? 0.0f : x;
    case Activation::kGelu:
      return 0.5f * x * erfcf(x * -0.70710678f);
    case Activation::kSilu:
      return x / (1.0f + expf(-x));
    case Activation::kGeluNew:  // by a hyperbolic tangent
      return x / (1.0f + expf(x * (-1.5957691216f - 0.0713548162726f * x * x)));
    case Activation::kQuickGelu:
      return x / (1.0f + expf(-1.702f * x));
    default:
      return x;
  }
}

template <typename T>
__global__ void __launch_bounds__(kStepThreads, 1) decoder_step_kernel(DecoderStepCall<T> call) {
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
  const int rows = call.rows, size = call.size, hidden = call.hidden, channels = call.heads * size;
  DYNAMIC_SHARED(shared_memory);
  StepShared shared;
  shared.mean = reinterpret_cast<float*>(shared_memory);  // [kStepRows], as the next
  shared.scale = shared.mean + kStepRows;
  shared.query = shared.scale + kStepRows;                    // [kStepHeadSize]
  shared.x = shared.query + kStepHeadSize;                    // [N, larger(C, F)]
  shared.parts = shared.x + rows * larger(channels, hidden);  // [warps, kStepHeadSize + 2]
  float* sum = call.work;                                     // the residual stream, before the norm that is to come
  float* query = sum + rows * channels;
  float* attended = query + rows * channels;
  float* inner = attended + rows * channels;  // [N, F]

  for (int i = block * threads + thread; i < rows * channels; i += blocks * threads) sum[i] = widen(call.x[i]);
  grid_barrier();

  const StepNorm<T> none = {};
  StepNorm<T> last = none;  // post-norm: what comes behind the sum; its statistics are those in shared memory
  StepReader<T> reader = {call.parameters};
  for (int layer = 0; layer < call.layers; layer++) {
    const StepLinear<T> qkv = reader.linear(channels, 3 * channels), out = reader.linear(channels, channels);
    const StepNorm<T> self_norm = reader.norm(channels);
    const StepLinear<T> cross_query = reader.linear(channels, channels), cross_out = reader.linear(channels, channels);
    const StepNorm<T> cross_norm = reader.norm(channels);
    const StepLinear<T> first = reader.linear(channels, hidden), second = reader.linear(hidden, channels);
    const StepNorm<T> final_norm = reader.norm(channels);
    T* own = call.caches + layer * call.self_keys.rows * 2 * channels;
    const T* cross = call.cross + layer * call.cross_layer_stride;

    // Adds a linear layer of `from` to the residual stream.
    auto add = [&](const StepLinear<T>& linear, const float* from) {
      const StepNorm<T> pending = call.before ? none : last;
      step_load(shared, from, rows, linear.inputs, none, call.eps);
      step_linear(linear, shared.x, rows, [&](int r, int o, float value) {
        float* at = sum + r * channels + o;
        *at = shared.normed(*at, r, o, pending) + value;
      });
      grid_barrier();  // and so is the sum
    };
    // The rows that the next block reads, which a norm stands before or behind.
    auto load = [&](StepNorm<T> own_norm) {
      step_load(shared, sum, rows, channels, call.before ? own_norm : last, call.eps);
    };

    // What all rows and heads gather, of queries, keys and values that blocks are writing.
    auto attend = [&](const StepKeys& seen, const T* keys, int64_t stride) {
      grid_barrier();  // they are there
      for (int item = block; item < rows * call.heads; item += blocks) {
        const int row = item / call.heads, from = item % call.heads * size, at = row * channels + from;
        for (int c = thread; c < size; c += threads) shared.query[c] = query[at + c];
        __syncthreads();
        step_attend(shared, seen, keys + from, stride, channels, size, row, call.scale, attended + at);
      }
      grid_barrier();
    };

    load(self_norm);
    step_linear(qkv, shared.x, rows, [&](int r, int o, float value) {
      if (o < channels) {
        query[r * channels + o] = value;
      } else if (r < call.content) {
        const int64_t place = call.places[r];
        if (place >= 0 && place < call.self_keys.rows) own[place * 2 * channels + o - channels] = narrow<T>(value);
      }
    });
    attend(call.self_keys, own, 2 * channels);
    add(out, attended);
    last = self_norm;

    load(cross_norm);
    step_linear(cross_query, shared.x, rows, [&](int r, int o, float value) { query[r * channels + o] = value; });
    attend(call.cross_keys, cross, call.cross_row_stride);
    add(cross_out, attended);
    last = cross_norm;

    load(final_norm);
    step_linear(first, shared.x, rows,
                [&](int r, int o, float value) { inner[r * hidden + o] = step_activation(value, call.activation); });
    grid_barrier();
    add(second, inner);
    last = final_norm;
  }

  for (int row = block; row < rows; row += blocks) {
    step_load(shared, sum + row * channels, 1, channels, call.before ? none : last, call.eps);
    for (int c = thread; c < channels; c += threads) call.output[row * channels + c] = narrow<T>(shared.x[c]);
  }
}

}  // namespace janus_fast::cuda
