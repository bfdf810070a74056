// What every binding needs: torch's stable tensors, and checks that guard memory.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <sstream>
#include <stdexcept>
#include <string>

#include "csrc/activations.h"

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

inline Activation activation_of(const char* op, const std::string& name) {
  for (const auto& [known, activation] : kActivations)
    if (name == known) return activation;
  fail(op, ": activation must be one of its documented names, got ", name);
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

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <typename T>
T* mutable_data(Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

}  // namespace janus_fast
