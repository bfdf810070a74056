// What every launcher needs: tensors, scratch, and when to use threads.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>

#include "csrc/cpu/isa.h"
#include "csrc/tensors.h"

namespace janus_fast {

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

// Calls run(T()) with the element type T of a tensor, which is one of Ts.
template <typename T, typename... Ts, typename F>
auto with_type(const Tensor& tensor, const char* op, const char* rule, const F& run) {
  constexpr auto dtype = std::is_same_v<T, float>    ? ScalarType::Float
                         : std::is_same_v<T, double> ? ScalarType::Double
                                                     : ScalarType::BFloat16;
  if (tensor.scalar_type() == dtype) return run(T());
  if constexpr (sizeof...(Ts) > 0)
    return with_type<Ts...>(tensor, op, rule, run);
  else
    fail(op, ": ", rule);
}

// Rows [N, C] as the kernels in use multiply them by weights; `packed` holds what is packed for that.
template <typename T>
RowFactors<T> row_factors(const Tensor& rows, Tensor& packed) {
  RowFactors<T> factors = {data<T>(rows), rows.stride(0), rows.size(1), nullptr};
  const auto pack = kernels_of<T>().pack_rows;
  if (!pack) return factors;
  const int64_t panels = (rows.size(0) + kRowPanel - 1) / kRowPanel;
  const int64_t channels = (rows.size(1) + kPackedChannels - 1) / kPackedChannels * kPackedChannels;
  packed = torch::stable::new_empty(rows, {panels * kRowPanel * channels});
  T* to = mutable_data<T>(packed);
  parallel(panels, static_cast<double>(rows.size(0)) * channels,
           [&](int64_t begin, int64_t end) { pack(factors, rows.size(0), to, begin, end); });
  factors.packed = to;
  return factors;
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

enum class Behind { nothing, rows };  // what may lie behind the last sequence

// Offsets of packed sequences: at least one, ascending from 0 to `rows`.
inline const int32_t* check_offsets(const Tensor& tensor, const char* op, const char* name, int64_t rows,
                                    Behind behind = Behind::nothing) {
  check_vector(tensor, op, name, ScalarType::Int, -1);
  const int64_t last = tensor.numel() - 1;
  JANUS_CHECK(last >= 0, op, ": ", name, " must hold at least the offset 0, got no element");
  const auto* offsets = static_cast<const int32_t*>(tensor.const_data_ptr());
  JANUS_CHECK(offsets[0] == 0 && (offsets[last] == rows || (behind == Behind::rows && offsets[last] < rows)), op, ": ",
              name, " must go from 0 to ", behind == Behind::rows ? "at most " : "", "the number of rows, ", rows,
              ", got ", offsets[0], " to ", offsets[last]);
  for (int64_t s = 0; s < last; s++)
    JANUS_CHECK(offsets[s] <= offsets[s + 1], op, ": ", name, " must ascend, got ", offsets[s], " before ",
                offsets[s + 1]);
  return offsets;
}

}  // namespace janus_fast
