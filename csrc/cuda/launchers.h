// The launchers of the CUDA kernels: plain C, without torch. Pointers are to memory of the device, contiguous unless a
// stride is given; `stream` is a cudaStream_t; results are cudaError_t. They neither allocate nor wait.
#pragma once

#include <cstdint>

extern "C" {

const char* janus_fast_cuda_error(int error);

// Copies a number from the device and waits for it.
int janus_fast_read_int32(const int32_t* device, int32_t* host, void* stream);

// kernels/cuda/update_mask.cuh
int janus_fast_update_mask(const int64_t* tokens, const float* scores, const int64_t* rows, const int32_t* row_count,
                           const int64_t* predicted_tokens, const float* predicted_scores, const int32_t* offsets,
                           int64_t count, int64_t row_capacity, int64_t canvases, float ratio, int64_t mask_token,
                           int64_t* new_tokens, float* new_scores, int64_t* masked_tokens, int64_t* next_rows,
                           bool* changed, int32_t* totals, void* stream);
}
