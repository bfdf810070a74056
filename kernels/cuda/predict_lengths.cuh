// Target lengths: mean over each source's rows, projection to the length classes, log-softmax, candidates.
//
// Idea: a block owns four sources from their rows to their candidates, so nothing but the results leaves the
// multiprocessor. The weight is read once for the four; means and logits stay in shared memory.
// Tiles: 4 sources, 16 warps; a warp takes four length classes at once, its lanes stride over the channels.
// Bytes: S / 4 times the weight (L C elements, from the second-level cache but for the first time), the encoded rows
// once, 12 S beam written. FLOPs: 2 S L C + Ns C. All sums are float32; those of a mean go in two levels, sixteen rows
// and then the sixteens, so that long sources keep float32's accuracy.
#pragma once

#include "kernels/cuda/collectives.cuh"

namespace janus_fast::cuda {

template <typename T>
struct PredictLengthsCall {
  const T* encoded;
  int64_t encoded_stride, rows;
  const int32_t* offsets;
  const T* weight;
  int64_t weight_stride;
  int classes, channels, beam, min_length, max_length;
  int64_t sources;
  bool window;
  // [S, beam]
  int64_t* lengths;
  float* log_probs;
};

constexpr int kLengthSources = 4;  // of a block
constexpr int kLengthThreads = 512;
constexpr int kLengthsAtOnce = 4;  // of a warp: a load takes long, and so many are under way together
constexpr int kMeanRows = 16;

inline size_t predict_lengths_shared(int classes, int channels) {
  return kLengthSources * (static_cast<size_t>(classes) + static_cast<size_t>(channels)) * sizeof(float);
}

template <typename T>
__device__ __forceinline__ float column_mean(const T* column, int64_t stride, int64_t begin, int64_t end) {
  float sum = 0.0f;
  for (int64_t first = begin; first < end; first += kMeanRows) {
    float part = 0.0f;
#pragma unroll
    for (int i = 0; i < kMeanRows; i++)
      if (first + i < end) part += widen(column[(first + i) * stride]);
    sum += part;
  }
  return sum / static_cast<float>(larger<int64_t>(end - begin, 1));
}

// The best of [begin, end) behind `previous`, in the order best first, among equals the smaller index first.
struct Ranked {
  uint32_t key;
  int index;
};
__device__ __forceinline__ Ranked next_best(const float* logits, int begin, int end, bool not_a_number,
                                            Ranked previous) {
  Ranked best = {0, end};
  for (int i = begin + lane(); i < end; i += kWarp) {
    const uint32_t key = not_a_number ? 1u : ordered(logits[i], kOrderedHighest);  // all are NaN, or none is
    const bool behind = key < previous.key || (key == previous.key && i > previous.index);
    if (behind && key > best.key) best = {key, i};
  }
  const uint32_t key = __reduce_max_sync(kAllLanes, best.key);
  return {key, __reduce_min_sync(kAllLanes, best.key == key ? best.index : end)};
}

// Candidates of one source; called by a warp.
template <typename T>
__device__ __forceinline__ void choose_lengths(const PredictLengthsCall<T>& call, const float* logits, int64_t source) {
  float peak = -INFINITY;
  for (int i = lane(); i < call.classes; i += kWarp) peak = peak < logits[i] ? logits[i] : peak;
  peak = warp_max(peak);
  float total = 0.0f;
  for (int i = lane(); i < call.classes; i += kWarp) total += expf(logits[i] - peak);
  total = warp_sum(total);  // NaN if any logit is, or if all or the highest are infinite: log-softmax is, too
  const bool not_a_number = total != total;
  const float log_total = logf(total);
  auto write = [&](int i, int length) {
    call.lengths[source * call.beam + i] = length;
    call.log_probs[source * call.beam + i] = not_a_number ? total : logits[length] - peak - log_total;
  };
  Ranked best = {0xffffffffu, -1};
  if (call.window) {
    best = next_best(logits, 0, call.classes, not_a_number, best);
    for (int i = lane(); i < call.beam; i += kWarp)
      write(i, smaller(larger(best.index - call.beam / 2 + i, call.min_length), call.max_length));
  } else {
    for (int i = 0; i < call.beam; i++) {
      best = next_best(logits, call.min_length, call.max_length + 1, not_a_number, best);
      if (lane() == 0) write(i, best.index);
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kLengthThreads) predict_lengths_kernel(PredictLengthsCall<T> call) {
  DYNAMIC_SHARED(shared_memory);
  float* means = reinterpret_cast<float*>(shared_memory);  // [kLengthSources, C]
  float* logits = means + kLengthSources * call.channels;  // [kLengthSources, L]
  const int64_t first_source = static_cast<int64_t>(blockIdx.x) * kLengthSources;
  const int thread = static_cast<int>(threadIdx.x);

  for (int s = 0; s < kLengthSources; s++) {
    const int64_t source = smaller(first_source + s, call.sources);  // the one behind the last has no rows
    const int64_t begin = larger<int64_t>(call.offsets[source], 0);
    const int64_t end = source < call.sources ? smaller<int64_t>(call.offsets[source + 1], call.rows) : begin;
    for (int c = thread; c < call.channels; c += kLengthThreads)
      means[s * call.channels + c] = column_mean(call.encoded + c, call.encoded_stride, begin, end);
  }
  __syncthreads();

  // [kLengthSources, C] x [L, C] -> [kLengthSources, L]
  for (int first = warp() * kLengthsAtOnce; first < call.classes; first += kLengthThreads / kWarp * kLengthsAtOnce) {
    float sums[kLengthsAtOnce][kLengthSources] = {};
#pragma unroll 4
    for (int c = lane(); c < call.channels; c += kWarp) {
      float weight[kLengthsAtOnce];
#pragma unroll
      for (int i = 0; i < kLengthsAtOnce; i++)
        weight[i] = widen(call.weight[smaller(first + i, call.classes - 1) * call.weight_stride + c]);
#pragma unroll
      for (int s = 0; s < kLengthSources; s++) {
        const float mean = means[s * call.channels + c];
#pragma unroll
        for (int i = 0; i < kLengthsAtOnce; i++) sums[i][s] += weight[i] * mean;
      }
    }
#pragma unroll
    for (int i = 0; i < kLengthsAtOnce; i++)
#pragma unroll
      for (int s = 0; s < kLengthSources; s++) {
        const float sum = warp_sum(sums[i][s]);
        if (lane() == 0 && first + i < call.classes) logits[s * call.classes + first + i] = sum;
      }
  }
  __syncthreads();

  if (warp() < kLengthSources && first_source + warp() < call.sources)
    choose_lengths(call, logits + warp() * call.classes, first_source + warp());
}

}  // namespace janus_fast::cuda
