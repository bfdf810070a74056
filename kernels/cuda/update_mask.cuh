// The step between two passes of mask-predict: write the predictions, mask the least certain words of each canvas
// again, list the rows that are masked now.
//
// Idea: one block does everything, so that the list needs no second launch, no communication between blocks and no word
// from the host; how many rows it has stays on the device. A warp takes a canvas. It finds the k-th lowest score by its
// 32 bits, highest first: 32 counts over the keys, whatever the canvas' length, and ties go to the earlier row. Then it
// counts the canvas' masked rows; sums over the canvases say where in the list they go, and it writes them there.
// Tiles: 32 warps of one canvas each; a lane keeps 8 keys in registers, so canvases of up to 258 rows are read once.
// Bytes: 60 N read, most of it from caches, 36 N written, 20 M for M predictions; no FLOPs. A pass of the decoder reads
// and writes hundreds of times as much for the same rows, so a single multiprocessor suffices.
#pragma once

#include "kernels/cuda/collectives.cuh"
#include "kernels/update_mask.h"

namespace janus_fast::cuda {

constexpr int kUpdateMaskThreads = 1024;
constexpr int kKeptKeys = 8;

// Masks the `chosen` least certain words of the canvas [begin, end). Called by a warp.
__device__ __forceinline__ void mask_least_certain(const UpdateMaskCall& call, int64_t begin, int words, int chosen) {
  const float* scores = call.new_scores + begin + 1;
  auto key_of = [&](int word) { return word < words ? ordered(scores[word], kOrderedLowest) : 0xffffffffu; };
  uint32_t kept[kKeptKeys];
#pragma unroll
  for (int i = 0; i < kKeptKeys; i++) kept[i] = key_of(i * kWarp + lane());
  // Calls visit(word, key) for all words, 32 at a time.
  auto for_all = [&](auto visit) {
#pragma unroll
    for (int i = 0; i < kKeptKeys; i++)
      if (i * kWarp < words) visit(i * kWarp + lane(), kept[i]);
    for (int first = kKeptKeys * kWarp; first < words; first += kWarp) visit(first + lane(), key_of(first + lane()));
  };

  uint32_t threshold = 0;     // the highest key chosen
  int equal_chosen = chosen;  // and how many words of that key
  for (int bit = 31; bit >= 0 && chosen > 0; bit--) {
    unsigned low = 0;  // words that agree with the threshold above this bit and have a zero here
    for_all([&](int, uint32_t key) { low += key >> bit == threshold >> bit; });
    low = __reduce_add_sync(kAllLanes, low);
    if (static_cast<int>(low) < equal_chosen) {
      equal_chosen -= static_cast<int>(low);
      threshold |= 1u << bit;
    }
  }
  int equal_before = 0;
  for_all([&](int word, uint32_t key) {
    const unsigned equal = __ballot_sync(kAllLanes, key == threshold);
    const bool among_first = equal_before + __popc(equal & lanes_below()) < equal_chosen;
    equal_before += __popc(equal);
    if (word >= words) return;
    const int64_t row = begin + 1 + word;
    const bool masked = key < threshold || (key == threshold && among_first);
    call.masked_tokens[row] = masked ? call.mask_token : call.new_tokens[row];
  });
}

__global__ void __launch_bounds__(kUpdateMaskThreads, 1) update_mask_kernel(UpdateMaskCall call) {
  const int64_t thread = threadIdx.x, threads = blockDim.x;
  const bool counted = call.row_offsets != nullptr;
  const int64_t predictions =
      counted ? smaller<int64_t>(call.row_offsets[call.canvases], call.row_capacity) : call.row_capacity;
  auto begin_of = [&](int64_t canvas) { return larger<int64_t>(call.offsets[canvas], 0); };
  auto end_of = [&](int64_t canvas) { return smaller<int64_t>(call.offsets[canvas + 1], call.count); };
  auto is_done = [&](int64_t canvas) { return counted && call.row_offsets[canvas] == call.row_offsets[canvas + 1]; };
  const int64_t behind = begin_of(call.canvases);
  for (int64_t row = thread; row < call.count; row += threads) {
    call.new_tokens[row] = call.tokens[row];
    call.new_scores[row] = call.scores[row];
    call.masked_tokens[row] = call.tokens[row];
  }
  __syncthreads();
  for (int64_t m = thread; m < predictions; m += threads) {
    const int64_t row = call.rows[m];
    if (row < 0 || row >= behind || row >= call.count) continue;  // it cannot complain, but need not write elsewhere
    call.new_tokens[row] = call.predicted_tokens[m];
    call.new_scores[row] = call.predicted_scores[m];
  }
  __syncthreads();

  int not_finite = 0;
  for (int64_t canvas = warp(); canvas < call.canvases; canvas += threads / kWarp) {
    const int64_t begin = begin_of(canvas), end = end_of(canvas);
    const bool done = is_done(canvas);
    bool differs = false;
    for (int64_t row = begin + lane(); row < end; row += kWarp) {
      differs |= call.new_tokens[row] != call.tokens[row];
      not_finite += call.new_scores[row] - call.new_scores[row] != 0.0f;
    }
    differs = __any_sync(kAllLanes, differs);
    if (lane() == 0) {
      call.changed[canvas] = differs;
      if (begin < end && !done) {
        call.masked_tokens[begin] = call.new_tokens[begin];
        call.masked_tokens[end - 1] = call.new_tokens[end - 1];
      }
    }
    if (done) continue;
    const int words = static_cast<int>(larger<int64_t>(end - begin - 2, 0));
    mask_least_certain(call, begin, words, smaller(words_to_mask(words, call.ratio), words));
  }
  not_finite = block_scan(not_finite).total;  // and all of masked_tokens is there

  // Calls visit(row, masked rows of the canvas before it) for all masked rows of a canvas, and returns their number.
  auto for_masked = [&](int64_t canvas, auto visit) {
    const int64_t end = is_done(canvas) ? 0 : end_of(canvas);
    int count = 0;
    for (int64_t first = begin_of(canvas); first < end; first += kWarp) {
      const int64_t row = first + lane();
      const unsigned masked = __ballot_sync(kAllLanes, row < end && call.masked_tokens[row] == call.mask_token);
      if (masked >> lane() & 1) visit(row, count + __popc(masked & lanes_below()));
      count += __popc(masked);
    }
    return count;
  };
  for (int64_t canvas = warp(); canvas < call.canvases; canvas += threads / kWarp) {
    int count = for_masked(canvas, [](int64_t, int) {});
    if (call.adaptive && settled(call.changed[canvas], count, end_of(canvas) - begin_of(canvas) - 2)) {
      count = 0;
      for (int64_t row = begin_of(canvas) + lane(); row < end_of(canvas); row += kWarp)
        call.masked_tokens[row] = call.new_tokens[row];
    }
    if (lane() == 0) call.next_offsets[canvas + 1] = count;
  }
  __syncthreads();
  int listed = 0;
  for (int64_t first = 0; first < call.canvases; first += threads) {
    const int64_t canvas = first + thread;
    const int count = canvas < call.canvases ? call.next_offsets[canvas + 1] : 0;
    const Scan scan = block_scan(count);
    if (canvas < call.canvases) call.next_offsets[canvas + 1] = listed + scan.before + count;
    listed += scan.total;
  }
  if (thread == 0) {
    call.next_offsets[0] = 0;
    *call.not_finite = not_finite;
  }
  __syncthreads();
  for (int64_t canvas = warp(); canvas < call.canvases; canvas += threads / kWarp) {
    if (call.next_offsets[canvas] == call.next_offsets[canvas + 1]) continue;
    int64_t* list = call.next_rows + call.next_offsets[canvas];
    for_masked(canvas, [&](int64_t row, int i) { list[i] = row; });
  }
  for (int64_t i = listed + thread; i < call.count; i += threads) call.next_rows[i] = 0;
}

}  // namespace janus_fast::cuda
