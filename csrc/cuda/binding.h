// What the bindings of the CUDA kernels need beyond tensors: where tensors lie, the stream in use, errors of launches.
// Offsets and row numbers lie on the device and cannot be checked here; the kernels follow none of them out of bounds.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include "csrc/cuda/launchers.h"
#include "csrc/tensors.h"

// Only builds of torch with CUDA export it; weak, so that this library loads with the others, too.
extern "C" __attribute__((weak)) int32_t aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace janus_fast {

// Makes the device of a call's tensors the current one, and knows its stream.
class OnDevice {
 public:
  OnDevice(const char* op, const Tensor& first) : op_(op), device_(first.get_device_index()), guard_(device_) {
    JANUS_CHECK(aoti_torch_get_current_cuda_stream, op, ": torch must have been built with CUDA");
    JANUS_CHECK(aoti_torch_get_current_cuda_stream(device_, &stream_) == 0, op, ": there must be a current stream");
  }

  void* stream() const { return stream_; }

  template <typename... Tensors>
  void check_same(const Tensors&... tensors) const {
    const bool same = ((tensors.is_cuda() && tensors.get_device_index() == device_) && ...);
    JANUS_CHECK(same, op_, ": all tensors must be on device ", device_);
  }
  void check(int status) const {
    JANUS_CHECK(status == 0, op_, ": the launch must succeed, got: ", janus_fast_cuda_error(status));
  }

 private:
  const char* op_;
  int32_t device_;
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

// [S + 1] offsets of packed sequences; returns S.
inline int64_t check_sequences(const Tensor& offsets, const char* op, const char* name) {
  check_vector(offsets, op, name, ScalarType::Int, -1);
  JANUS_CHECK(offsets.numel() > 0, op, ": ", name, " must hold at least the offset 0, got no element");
  return offsets.numel() - 1;
}

}  // namespace janus_fast
