// The step between two passes of a refinement: write the predictions, mask the least certain words of each canvas
// again, list the rows that are masked now.
//
// Idea: one block does everything, so that the list needs no second launch, no communication between blocks and no word
// from the host; how many rows it has stays on the device. A warp takes a canvas. It finds the k-th lowest score by its
// 32 bits, highest first: 32 counts over the keys, whatever the canvas' length, and ties go to the earlier row. The
// list is then cut out of all rows, 32 at a time, with ballots.
// Tiles: 32 warps of one canvas each; a lane keeps 8 keys in registers, so canvases of up to 258 rows are read once.
// Bytes: 32 N read, 28 N and 8 N (the list) written, 20 M for M predictions, all of it once; no FLOPs. A pass of the
// decoder reads and writes hundreds of times as much for the same rows, so a single multiprocessor suffices.
#pragma once

#include "kernels/cuda/collectives.cuh"

namespace janus_fast {

struct UpdateMaskCall {
  const int64_t *tokens, *rows, *predicted_tokens;
  const float *scores, *predicted_scores;
  const int32_t *offsets, *row_count;  // how many of `rows` count; null: all
  int64_t count, row_capacity, canvases, mask_token;
  float ratio;
  // [N], [N], [N] (new tokens, with masks where the next pass predicts), [N] ascending and then zeros, [S],
  // and two numbers: rows listed, canvases changed.
  int64_t* new_tokens;
  float* new_scores;
  int64_t *masked_tokens, *next_rows;
  bool* changed;
  int32_t* totals;
};

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

__global__ void __launch_bounds__(kUpdateMaskThreads) update_mask_kernel(UpdateMaskCall call) {
  const int64_t thread = threadIdx.x, threads = blockDim.x;
  const int64_t predictions =
      call.row_count == nullptr ? call.row_capacity : smaller<int64_t>(*call.row_count, call.row_capacity);
  for (int64_t row = thread; row < call.count; row += threads) {
    call.new_tokens[row] = call.tokens[row];
    call.new_scores[row] = call.scores[row];
  }
  __syncthreads();
  for (int64_t m = thread; m < predictions; m += threads) {
    const int64_t row = call.rows[m];
    if (row < 0 || row >= call.count) continue;  // the device cannot complain, but need not write elsewhere
    call.new_tokens[row] = call.predicted_tokens[m];
    call.new_scores[row] = call.predicted_scores[m];
  }
  __syncthreads();

  int changed_canvases = 0;
  for (int64_t canvas = warp(); canvas < call.canvases; canvas += threads / kWarp) {
    const int64_t begin = larger<int64_t>(call.offsets[canvas], 0);
    const int64_t end = smaller<int64_t>(call.offsets[canvas + 1], call.count);
    bool differs = false;
    for (int64_t row = begin + lane(); row < end; row += kWarp) differs |= call.new_tokens[row] != call.tokens[row];
    differs = __any_sync(kAllLanes, differs);
    if (lane() == 0) {
      call.changed[canvas] = differs;
      changed_canvases += differs;
      if (begin < end) {
        call.masked_tokens[begin] = call.new_tokens[begin];
        call.masked_tokens[end - 1] = call.new_tokens[end - 1];
      }
    }
    const int words = static_cast<int>(larger<int64_t>(end - begin - 2, 0));
    const int chosen = static_cast<int>(static_cast<float>(words) * call.ratio);  // in float32, as the original counts
    mask_least_certain(call, begin, words, smaller(chosen, words));
  }
  changed_canvases = block_scan(changed_canvases).total;  // and all of masked_tokens is there

  // A warp lists kListed * 32 rows at a time.
  constexpr int kListed = 4;
  int64_t listed = 0;
  for (int64_t first = 0; first < call.count; first += threads * kListed) {
    const int64_t begin = first + warp() * kWarp * kListed;
    unsigned masked[kListed];
    int in_warp = 0;
#pragma unroll
    for (int i = 0; i < kListed; i++) {
      const int64_t row = begin + i * kWarp + lane();
      masked[i] = __ballot_sync(kAllLanes, row < call.count && call.masked_tokens[row] == call.mask_token);
      in_warp += __popc(masked[i]);
    }
    const Scan scan = block_scan(lane() == 0 ? in_warp : 0);
    int64_t to = listed + __shfl_sync(kAllLanes, scan.before, 0);
#pragma unroll
    for (int i = 0; i < kListed; i++) {
      if (masked[i] >> lane() & 1) call.next_rows[to + __popc(masked[i] & lanes_below())] = begin + i * kWarp + lane();
      to += __popc(masked[i]);
    }
    listed += scan.total;
  }
  for (int64_t i = listed + thread; i < call.count; i += threads) call.next_rows[i] = 0;
  if (thread == 0) {
    call.totals[0] = static_cast<int32_t>(listed);
    call.totals[1] = changed_canvases;
  }
}

}  // namespace janus_fast
