// Memory of one kind of element.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace janus_fast {

// Memory on cache lines, to be given back by std::free; what is large on large pages where the system has them: it is
// read from end to end, faster than small pages can be looked up.
void* allocate(size_t bytes);

// Memory that grows when more is asked for, and a cache line behind it; the first `kept` elements that it held stay.
template <typename T>
class Buffer {
 public:
  ~Buffer() { std::free(data_); }
  Buffer() = default;
  Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* grow(int64_t count, int64_t kept = 0) {
    if (count > size_) {
      const int64_t size = count + count / 4;
      T* fresh = static_cast<T*>(allocate(size * sizeof(T) + 64));
      if (kept > 0) std::memcpy(fresh, data_, kept * sizeof(T));
      std::free(data_);
      data_ = fresh;
      size_ = size;
    }
    return data_;
  }
  T* data() const { return data_; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  T* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace janus_fast
