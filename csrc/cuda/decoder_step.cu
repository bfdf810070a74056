// Launcher of decoder_step.
#include "csrc/cuda/launch.h"
#include "kernels/cuda/decoder_step.cuh"

extern "C" int janus_fast_decoder_step(
    const void* x, void* caches, const int64_t* places, const void* cross, const void* parameters,
    const int32_t* query_offsets, const int32_t* key_offsets, const int32_t* key_sequences, const int32_t* query_times,
    const int32_t* visible_from, const int32_t* visible_until, const int32_t* cross_query_offsets,
    const int32_t* cross_key_offsets, const int32_t* cross_key_sequences, const int32_t* cross_query_times,
    const int32_t* cross_visible_from, const int32_t* cross_visible_until, int64_t rows, int64_t content,
    int64_t layers, int64_t heads, int64_t size, int64_t hidden, int64_t keys, int64_t sources, int64_t query_sequences,
    int64_t key_sequence_count, int64_t cross_query_sequences, int64_t cross_key_sequence_count,
    int64_t cross_layer_stride, int64_t cross_row_stride, int32_t activation, bool normalize_before, float eps,
    bool bfloat16, int32_t blocks, int32_t threads, float* work, void* output, void* stream) {
  using namespace janus_fast::cuda;
  if (rows == 0) return 0;
  auto run = [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    DecoderStepCall<T> call = {};
    call.x = static_cast<const T*>(x), call.caches = static_cast<T*>(caches), call.places = places;
    call.cross = static_cast<const T*>(cross), call.parameters = static_cast<const T*>(parameters);
    call.cross_layer_stride = cross_layer_stride, call.cross_row_stride = cross_row_stride;
    call.self_keys = {query_offsets, key_offsets,     key_sequences,      query_times, visible_from,
                      visible_until, query_sequences, key_sequence_count, keys};
    call.cross_keys = {cross_query_offsets,   cross_key_offsets,        cross_key_sequences,
                       cross_query_times,     cross_visible_from,       cross_visible_until,
                       cross_query_sequences, cross_key_sequence_count, sources};
    call.rows = static_cast<int>(rows), call.content = static_cast<int>(content);
    call.layers = static_cast<int>(layers), call.hidden = static_cast<int>(hidden);
    call.heads = static_cast<int>(heads), call.size = static_cast<int>(size);
    call.activation = static_cast<janus_fast::Activation>(activation), call.before = normalize_before;
    call.eps = eps, call.scale = 1.0f / sqrtf(static_cast<float>(size));
    call.work = work, call.output = static_cast<T*>(output);
    if (threads == 0) threads = kStepThreads;
    const size_t shared = step_shared(rows, heads * size, hidden, threads);
    return launch_together(decoder_step_kernel<T>, blocks, threads, shared, stream, call);
  };
  return bfloat16 ? run(static_cast<__nv_bfloat16*>(nullptr)) : run(static_cast<float*>(nullptr));
}
