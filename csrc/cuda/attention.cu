// Launcher of attention.
#include "csrc/cuda/launch.h"
#include "kernels/cuda/attention.cuh"

namespace janus_fast::cuda {
namespace {

constexpr int kMostShared = 96 << 10;  // every GPU from sm_80 on has it

int padded_size(int64_t size) { return static_cast<int>((size + 31) / 32 * 32); }

// How the four warps of a block share its heads, from what the host knows: means over the sequences.
int choose_warps_per_head(int64_t queries, int64_t sequences, int64_t heads) {
  const int64_t rows = (queries + sequences - 1) / sequences;
  int warps = rows > 2 * kQueryTile ? 4 : rows > kQueryTile ? 2 : 1;
  while (warps < kAttentionWarps && kAttentionWarps / warps > heads) warps *= 2;  // no slots without a head
  return warps;
}

// Sequences of up to twice the mean length come as a whole, if there is room for them.
int choose_chunk(int64_t keys, int64_t sequences, int room) {
  const int64_t wanted = sequences == 0 ? 0 : (2 * keys / sequences + kKeyTile - 1) / kKeyTile * kKeyTile;
  return static_cast<int>(wanted < kKeyTile ? kKeyTile : wanted < room ? wanted : room);
}

template <typename T>
int launch_for(AttentionCall<T>& call, int64_t sequences, void* stream) {
  const int size = padded_size(call.size), heads = kAttentionWarps / call.warps_per_head;
  const int bytes_per_key = attention_bytes_per_key(size, heads);
  const int room = kMostShared / bytes_per_key / kKeyTile * kKeyTile;
  if (call.chunk == 0) call.chunk = choose_chunk(call.keys, call.key_sequence_count, room);
  const dim3 grid(static_cast<unsigned>(sequences), static_cast<unsigned>((call.heads + heads - 1) / heads));
  auto* kernel = size == 32   ? attention_kernel<T, 32>
                 : size == 64 ? attention_kernel<T, 64>
                 : size == 96 ? attention_kernel<T, 96>
                              : attention_kernel<T, 128>;
  const auto shared = static_cast<size_t>(call.chunk) * static_cast<size_t>(bytes_per_key);
  return launch(kernel, grid, kAttentionWarps * kWarp, shared, stream, call);
}

}  // namespace
}  // namespace janus_fast::cuda

extern "C" int janus_fast_attention(const void* query, const void* key, const void* value, int64_t query_row_stride,
                                    int64_t query_head_stride, int64_t key_row_stride, int64_t key_head_stride,
                                    int64_t value_row_stride, int64_t value_head_stride, const int32_t* query_offsets,
                                    const int32_t* key_offsets, const int32_t* key_sequences,
                                    const int32_t* query_times, const int32_t* visible_from,
                                    const int32_t* visible_until, int64_t queries, int64_t keys,
                                    int64_t query_sequences, int64_t key_sequence_count, int64_t heads, int64_t size,
                                    float scale, bool bfloat16, int32_t warps_per_head, int32_t chunk, void* output,
                                    float* lse, void* stream) {
  using namespace janus_fast::cuda;
  if (queries == 0 || query_sequences == 0) return 0;
  auto run = [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    AttentionCall<T> call = {};
    call.query = {static_cast<const T*>(query), query_row_stride, query_head_stride};
    call.key = {static_cast<const T*>(key), key_row_stride, key_head_stride};
    call.value = {static_cast<const T*>(value), value_row_stride, value_head_stride};
    call.query_offsets = query_offsets, call.key_offsets = key_offsets, call.key_sequences = key_sequences;
    call.query_times = query_times, call.visible_from = visible_from, call.visible_until = visible_until;
    call.queries = queries, call.keys = keys, call.key_sequence_count = key_sequence_count;
    call.heads = static_cast<int>(heads), call.size = static_cast<int>(size), call.scale = scale;
    call.warps_per_head = warps_per_head ? warps_per_head : choose_warps_per_head(queries, query_sequences, heads);
    call.chunk = chunk, call.output = static_cast<T*>(output), call.lse = lse;
    return launch_for(call, query_sequences, stream);
  };
  return bfloat16 ? run(static_cast<__nv_bfloat16*>(nullptr)) : run(static_cast<__half*>(nullptr));
}
