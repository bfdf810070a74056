// What every launcher needs: torch's stable tensors, checks that guard memory, scratch, and when to use threads.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdlib>
#include <memory>
#include <new>
#include <sstream>
#include <stdexcept>

#include "csrc/cpu/isa.h"

namespace janus_fast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// A RuntimeError in Python that says just this: no function, file or line of ours.
template <typename... Args>
[[noreturn]] void fail(const Args&... args) {
  std::ostringstream message;
  (message << ... << args);
  throw std::runtime_error(message.str());
}
#define JANUS_CHECK(condition, ...)      \
  do {                                   \
    if (!(condition)) fail(__VA_ARGS__); \
  } while (0)

// Work below this many floating-point operations (some 50 us) is not worth waking a second thread for.
constexpr double kParallelWork = 1e6;

// Calls run(begin, end) over [0, tasks) on torch's threads when `work`, in floating-point operations, is worth it.
template <typename F>
void parallel(int64_t tasks, double work, const F& run) {
  if (tasks <= 0) return;
  if (work < kParallelWork || tasks == 1)
    run(int64_t{0}, tasks);
  else
    torch::stable::parallel_for(0, tasks, 1, run);
}

// Memory of the calling thread, kept between calls, on a cache line; what it holds is undefined.
template <typename S>
S* thread_scratch(size_t elements) {
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  static thread_local std::unique_ptr<void, Free> memory;
  static thread_local size_t capacity = 0;
  const size_t bytes = (elements * sizeof(S) + 63) / 64 * 64;
  if (bytes > capacity) {
    memory.reset();
    capacity = 0;
    memory.reset(std::aligned_alloc(64, bytes));
    if (!memory) throw std::bad_alloc();
    capacity = bytes;
  }
  return static_cast<S*>(memory.get());
}

inline void check_rows(const Tensor& tensor, const char* op, const char* name, int64_t dim) {
  JANUS_CHECK(tensor.dim() == dim, op, ": ", name, " must have ", dim, " dimensions, got ", tensor.dim());
  JANUS_CHECK(tensor.size(dim - 1) <= 1 || tensor.stride(dim - 1) == 1, op, ": ", name,
              " must have a contiguous last dimension, got stride ", tensor.stride(dim - 1));
}

inline void check_vector(const Tensor& tensor, const char* op, const char* name, ScalarType dtype, int64_t length) {
  JANUS_CHECK(tensor.dim() == 1 && tensor.is_contiguous() && tensor.scalar_type() == dtype, op, ": ", name,
              " must be a contiguous vector of its documented dtype");
  JANUS_CHECK(length < 0 || tensor.numel() == length, op, ": ", name, " must have ", length, " elements, got ",
              tensor.numel());
}

// Offsets of packed sequences: at least one, ascending from 0 to `rows`.
inline const int32_t* check_offsets(const Tensor& tensor, const char* op, const char* name, int64_t rows) {
  check_vector(tensor, op, name, ScalarType::Int, -1);
  const int64_t last = tensor.numel() - 1;
  JANUS_CHECK(last >= 0, op, ": ", name, " must hold at least the offset 0, got no element");
  const auto* offsets = static_cast<const int32_t*>(tensor.const_data_ptr());
  JANUS_CHECK(offsets[0] == 0 && offsets[last] == rows, op, ": ", name, " must go from 0 to the number of rows, ", rows,
              ", got ", offsets[0], " to ", offsets[last]);
  for (int64_t s = 0; s < last; s++)
    JANUS_CHECK(offsets[s] <= offsets[s + 1], op, ": ", name, " must ascend, got ", offsets[s], " before ",
                offsets[s + 1]);
  return offsets;
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
T* mutable_data(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace janus_fast
