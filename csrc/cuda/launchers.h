// The launchers of the CUDA kernels: plain C, without torch. Pointers are to memory of the device, contiguous unless a
// stride is given; `stream` is a cudaStream_t; results are cudaError_t. They neither allocate nor wait.
#pragma once

#include <cstdint>

#include "kernels/beam_step.h"

extern "C" {

const char* janus_fast_cuda_error(int error);

// kernels/cuda/update_mask.cuh
int janus_fast_update_mask(const int64_t* tokens, const int64_t* rows, const int64_t* predicted_tokens,
                           const float* scores, const float* predicted_scores, const int32_t* offsets,
                           const int32_t* row_offsets, int64_t count, int64_t row_capacity, int64_t canvases,
                           int64_t mask_token, float ratio, bool adaptive, int64_t* new_tokens, float* new_scores,
                           int64_t* next_rows, bool* changed, int64_t* masked_tokens, int32_t* next_offsets,
                           int32_t* not_finite, void* stream);

// kernels/cuda/predict_lengths.cuh, on float32 or bfloat16. It takes up to 96 KiB / 16 classes and channels.
int janus_fast_predict_lengths(const void* encoded, const int32_t* offsets, const void* weight, int64_t encoded_stride,
                               int64_t weight_stride, int64_t rows, int64_t sources, int64_t classes, int64_t channels,
                               int64_t beam, bool window, int64_t min_length, int64_t max_length, bool bfloat16,
                               int64_t* lengths, float* log_probs, void* stream);

// kernels/cuda/attention.cuh, on bfloat16 or float16. Head sizes are multiples of 16 up to 128; rows begin at 16 bytes.
// warps_per_head and chunk are chosen where they are 0.
int janus_fast_attention(const void* query, const void* key, const void* value, int64_t query_row_stride,
                         int64_t query_head_stride, int64_t key_row_stride, int64_t key_head_stride,
                         int64_t value_row_stride, int64_t value_head_stride, const int32_t* query_offsets,
                         const int32_t* key_offsets, const int32_t* key_sequences, const int32_t* query_times,
                         const int32_t* visible_from, const int32_t* visible_until, int64_t queries, int64_t keys,
                         int64_t query_sequences, int64_t key_sequence_count, int64_t heads, int64_t size, float scale,
                         bool bfloat16, int32_t warps_per_head, int32_t chunk, void* output, float* lse, void* stream);

// kernels/cuda/beam_step.cuh: at most kMostBeams beams, and kMostCandidates candidates of a sentence.
int janus_fast_beam_step(const float* log_probs, const int64_t* ids, int64_t sentences, int64_t beams, int64_t choices,
                         int64_t most_steps, int64_t eos, JANUS_BEAM_STATE(JANUS_BEAM_PARAMETER) void* stream);

// kernels/cuda/decoder_step.cuh, on float32 or bfloat16: at most kStepRows rows, which with what they pass through fit
// shared memory. Head sizes are multiples of 16 up to 128, `hidden` is one of 8. blocks and threads are chosen where
// they are 0. `work` is [rows * (3 * heads * size + hidden)].
int janus_fast_decoder_step(const void* x, void* caches, const int64_t* places, const void* cross,
                            const void* parameters, const int32_t* query_offsets, const int32_t* key_offsets,
                            const int32_t* key_sequences, const int32_t* query_times, const int32_t* visible_from,
                            const int32_t* visible_until, const int32_t* cross_query_offsets,
                            const int32_t* cross_key_offsets, const int32_t* cross_key_sequences,
                            const int32_t* cross_query_times, const int32_t* cross_visible_from,
                            const int32_t* cross_visible_until, int64_t rows, int64_t content, int64_t layers,
                            int64_t heads, int64_t size, int64_t hidden, int64_t keys, int64_t sources,
                            int64_t query_sequences, int64_t key_sequence_count, int64_t cross_query_sequences,
                            int64_t cross_key_sequence_count, int64_t cross_layer_stride, int64_t cross_row_stride,
                            int32_t activation, bool normalize_before, float eps, bool bfloat16, int32_t blocks,
                            int32_t threads, float* work, void* output, void* stream);
}
