// Attention over visibility intervals, for the short sequences of decoding: a query of time t sees key j iff
// visible_from[j] <= t < visible_until[j]; one that sees nothing gives zeros.
//
// Idea: a block owns one query sequence and some heads. It brings the keys and values of these heads into shared memory
// once, as a whole where they fit, and all query rows of the sequence meet them there; longer sequences come in chunks.
// Nothing depends on lengths that only the device knows. Query sequences may share keys: each reads them through the
// second-level cache.
// Tiles: 4 warps, each with 16 query rows of a head: four heads of one tile, two of two, or one of four, after the mean
// number of rows. Keys pass in tiles of 32; a tile that none of the 16 rows sees is left out. Head sizes are padded
// with zeros to 32, 64, 96 or 128. A row's result depends on its own keys alone, to the bit. Bytes: 4 C for each query
// row (read, written), 4 C for each key row and query sequence. FLOPs: 4 C a pair of rows, on tensor cores (mma.sync
// m16n8k16, float32 sums), with rows rounded up to 16 and keys to 32.
#pragma once

#include <climits>

#include "kernels/cuda/device.h"

namespace janus_fast::cuda {

// [N, H, D] rows of which a slice may be taken; strides are multiples of 8 elements, rows begin at 16 bytes.
template <typename T>
struct AttentionRows {
  const T* data;
  int64_t row_stride, head_stride;
};

template <typename T>
struct AttentionCall {
  AttentionRows<T> query, key, value;
  const int32_t *query_offsets, *key_offsets, *key_sequences, *query_times, *visible_from, *visible_until;
  int64_t queries, keys, key_sequence_count;
  int heads, size;
  int warps_per_head;  // 1, 2 or 4
  int chunk;           // keys in shared memory at once, a multiple of kKeyTile
  float scale;
  // [Nq, H, D] and [Nq, H]
  T* output;
  float* lse;
};

constexpr int kAttentionWarps = 4;
constexpr int kQueryTile = 16;
constexpr int kKeyTile = 32;
constexpr float kLog2E = 1.4426950408889634f;

// Rows in shared memory are 16 bytes longer than need be: ldmatrix then meets all banks.
constexpr int kRowPadding = 8;
inline int attention_bytes_per_key(int padded_size, int heads) {
  return heads * 2 * (padded_size + kRowPadding) * 2 + static_cast<int>(sizeof(int2));
}

// What a warp's 16 rows have gathered. A lane holds parts of two of them, 8 apart.
template <int kSize>
struct AttentionState {
  float output[kSize / 8][4] = {};
  float top[2] = {-INFINITY, -INFINITY};
  float total[2] = {};
  bool sees[2] = {};
};

// Meets 32 keys. `keys` and `values` are [32, kSize] in rows of kSize + kRowPadding.
template <typename T, int kSize>
__device__ __forceinline__ void meet_keys(AttentionState<kSize>& state, const uint32_t (&query)[kSize / 16][4],
                                          const int32_t (&times)[2], const T* keys, const T* values,
                                          const int2* intervals, float scale) {
  constexpr int kRow = kSize + kRowPadding;
  float scores[kKeyTile / 8][4] = {};
#pragma unroll
  for (int n = 0; n < kKeyTile / 8; n++)
#pragma unroll
    for (int k = 0; k < kSize / 16; k += 2) {
      uint32_t b[4];  // [8 keys, 32 channels]
      load_matrices(b, keys + (n * 8 + lane() % 8) * kRow + k * 16 + lane() / 8 * 8);
      mma<T>(scores[n], query[k], {b[0], b[1]});
      mma<T>(scores[n], query[k + 1], {b[2], b[3]});
    }
  float top[2] = {state.top[0], state.top[1]};
#pragma unroll
  for (int n = 0; n < kKeyTile / 8; n++) {
    const int2* pair = intervals + n * 8 + lane() % 4 * 2;
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const int2 interval = pair[c % 2];
      const int32_t time = times[c / 2];
      const bool sees = interval.x <= time && time < interval.y;
      state.sees[c / 2] |= sees;
      scores[n][c] = sees ? scores[n][c] * scale : -INFINITY;
      top[c / 2] = fmaxf(top[c / 2], scores[n][c]);
    }
  }
#pragma unroll
  for (int r = 0; r < 2; r++) {
    top[r] = fmaxf(top[r], __shfl_xor_sync(kAllLanes, top[r], 1));
    top[r] = fmaxf(top[r], __shfl_xor_sync(kAllLanes, top[r], 2));
    const float shift = top[r] == -INFINITY ? 0.0f : top[r];
    const float factor = exp2f((state.top[r] - shift) * kLog2E);
    state.top[r] = top[r];
    state.total[r] *= factor;
#pragma unroll
    for (int d = 0; d < kSize / 8; d++) {
      state.output[d][2 * r] *= factor;
      state.output[d][2 * r + 1] *= factor;
    }
#pragma unroll
    for (int n = 0; n < kKeyTile / 8; n++)
#pragma unroll
      for (int c = 2 * r; c < 2 * r + 2; c++) {
        scores[n][c] = exp2f((scores[n][c] - shift) * kLog2E);
        state.total[r] += scores[n][c];
      }
  }
#pragma unroll
  for (int k = 0; k < kKeyTile / 16; k++) {
    const uint32_t weights[4] = {
        // the sums of one product lie as the left operand of the next one has to
        narrow_pair<T>(scores[2 * k][0], scores[2 * k][1]), narrow_pair<T>(scores[2 * k][2], scores[2 * k][3]),
        narrow_pair<T>(scores[2 * k + 1][0], scores[2 * k + 1][1]),
        narrow_pair<T>(scores[2 * k + 1][2], scores[2 * k + 1][3])};
#pragma unroll
    for (int d = 0; d < kSize / 8; d += 2) {
      uint32_t b[4];  // [16 keys, 16 channels]
      load_matrices_transposed(b, values + (k * 16 + lane() % 16) * kRow + d * 8 + lane() / 16 * 8);
      mma<T>(state.output[d], weights, {b[0], b[1]});
      mma<T>(state.output[d + 1], weights, {b[2], b[3]});
    }
  }
}

template <typename T, int kSize>
__global__ void __launch_bounds__(kAttentionWarps* kWarp, kSize <= 64 ? 3 : 2) attention_kernel(AttentionCall<T> call) {
  constexpr int kRow = kSize + kRowPadding, kVectors = kSize / 8, kThreads = kAttentionWarps * kWarp;
  const int block_heads = kAttentionWarps / call.warps_per_head;
  DYNAMIC_SHARED(shared_memory);
  T* keys = reinterpret_cast<T*>(shared_memory);  // [block_heads, chunk, kRow]
  T* values = keys + block_heads * call.chunk * kRow;
  int2* intervals = reinterpret_cast<int2*>(values + block_heads * call.chunk * kRow);  // [chunk]

  const int64_t sequence = blockIdx.x;
  const int64_t query_begin = larger<int64_t>(call.query_offsets[sequence], 0);
  const int64_t query_end = smaller<int64_t>(call.query_offsets[sequence + 1], call.queries);
  const int64_t key_sequence = call.key_sequences[sequence];
  int64_t key_begin = 0, key_count = 0;
  if (key_sequence >= 0 && key_sequence < call.key_sequence_count) {
    key_begin = larger<int64_t>(call.key_offsets[key_sequence], 0);
    key_count = smaller<int64_t>(call.key_offsets[key_sequence + 1], call.keys) - key_begin;
  }
  const int first_head = static_cast<int>(blockIdx.y) * block_heads, slot = warp() / call.warps_per_head;
  const int head = first_head + slot;

  for (int64_t round = query_begin; round < query_end; round += call.warps_per_head * kQueryTile) {
    const int64_t first_row = round + warp() % call.warps_per_head * kQueryTile;
    const bool has_rows = head < call.heads && first_row < query_end;  // one answer for the warp
    uint32_t query[kSize / 16][4] = {};
    int32_t times[2] = {};
    int earliest = INT_MAX, latest = INT_MIN;
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int64_t row = first_row + lane() / 4 + 8 * r;
      if (!has_rows || row >= query_end) continue;
      times[r] = call.query_times[row];
      earliest = smaller(earliest, times[r]), latest = larger(latest, times[r]);
      const T* from = call.query.data + row * call.query.row_stride + head * call.query.head_stride + lane() % 4 * 2;
#pragma unroll
      for (int k = 0; k < kSize / 16; k++)
        if (k * 16 < call.size) {
          query[k][r] = *reinterpret_cast<const uint32_t*>(from + k * 16);
          query[k][2 + r] = *reinterpret_cast<const uint32_t*>(from + k * 16 + 8);
        }
    }
    earliest = __reduce_min_sync(kAllLanes, earliest);
    latest = __reduce_max_sync(kAllLanes, latest);

    AttentionState<kSize> state;
    for (int64_t first = 0; first < key_count; first += call.chunk) {
      const int count = static_cast<int>(smaller<int64_t>(call.chunk, key_count - first));
      const int padded = (count + kKeyTile - 1) / kKeyTile * kKeyTile;
      if (key_count > call.chunk || round == query_begin) {
        __syncthreads();  // nobody reads the chunk before
        for (int slot = 0; slot < block_heads; slot++)
          for (int v = static_cast<int>(threadIdx.x); v < padded * kVectors; v += kThreads) {
            const int row = v / kVectors, column = v % kVectors * 8;
            const bool there = row < count && column < call.size && first_head + slot < call.heads;
            const int64_t from = there ? key_begin + first + row : 0;
            const int64_t from_head = there ? first_head + slot : 0, from_column = there ? column : 0;
            const int to = (slot * call.chunk + row) * kRow + column;
            copy_async(keys + to,
                       call.key.data + from * call.key.row_stride + from_head * call.key.head_stride + from_column,
                       there);
            copy_async(
                values + to,
                call.value.data + from * call.value.row_stride + from_head * call.value.head_stride + from_column,
                there);
          }
        for (int j = static_cast<int>(threadIdx.x); j < padded; j += kThreads) {
          const int64_t key = key_begin + first + j;
          intervals[j] = j < count ? int2{call.visible_from[key], call.visible_until[key]} : int2{INT_MAX, INT_MIN};
        }
        wait_copies();
        __syncthreads();
      }
      if (!has_rows) continue;
      for (int tile = 0; tile < count; tile += kKeyTile) {
        const int2 interval = intervals[tile + lane()];
        if (!__any_sync(kAllLanes, interval.x <= latest && earliest < interval.y)) continue;
        const int at = (slot * call.chunk + tile) * kRow;
        meet_keys<T, kSize>(state, query, times, keys + at, values + at, intervals + tile, call.scale);
      }
    }

#pragma unroll
    for (int r = 0; r < 2; r++) {
      float total = state.total[r];
      total += __shfl_xor_sync(kAllLanes, total, 1);
      total += __shfl_xor_sync(kAllLanes, total, 2);
      const unsigned seeing = __ballot_sync(kAllLanes, state.sees[r]);
      const bool sees = (seeing >> (lane() & ~3) & 15) != 0;
      const int64_t row = first_row + lane() / 4 + 8 * r;
      if (!has_rows || row >= query_end) continue;
      const float inverse = sees ? 1.0f / total : 0.0f;
      T* to = call.output + (row * call.heads + head) * call.size + lane() % 4 * 2;
#pragma unroll
      for (int d = 0; d < kSize / 8; d++)
        if (d * 8 < call.size)
          *reinterpret_cast<uint32_t*>(to + d * 8) =
              narrow_pair<T>(state.output[d][2 * r] * inverse, state.output[d][2 * r + 1] * inverse);
      if (lane() % 4 == 0) call.lse[row * call.heads + head] = sees ? state.top[r] + logf(total) : -INFINITY;
    }
  }
}

}  // namespace janus_fast::cuda
