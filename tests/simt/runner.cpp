// Runs one launcher, -DLAUNCHER, on the calls of a file, and compares what it wrote to the byte: without Python, so
// that sanitizers see nothing but kernels. `runner FILE SEED...` runs all calls once for each seed.
//
// The file holds the arguments of call after call. A number is 8 bytes; a pointer is the size of its memory (or -1 for
// null), what it holds before the call, and what it has to hold after it.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <tuple>
#include <type_traits>
#include <vector>

#include "csrc/cuda/launchers.h"

extern "C" void janus_fast_simt_seed(uint64_t seed);

namespace {

struct Memory {
  std::unique_ptr<char[]> bytes;  // of this very size, on the heap: the sanitizer knows where it ends
  const char* expected;
  size_t size;
  int argument;
};

class Calls {
 public:
  explicit Calls(const char* path) {
    std::ifstream file(path, std::ios::binary);
    content_.assign(std::istreambuf_iterator<char>(file), {});
  }
  bool done() const { return position_ >= content_.size(); }
  void rewind() { position_ = 0; }
  void begin() {
    memory_.clear();
    argument_ = 0;
  }

  template <typename T>
  T next() {
    argument_++;
    if constexpr (std::is_pointer_v<T>) {
      const auto size = number<int64_t>();
      if (size < 0) return nullptr;
      const size_t bytes = static_cast<size_t>(size);
      Memory memory = {std::unique_ptr<char[]>(new char[bytes]), content_.data() + position_ + bytes, bytes, argument_};
      std::memcpy(memory.bytes.get(), content_.data() + position_, bytes);
      position_ += 2 * bytes;
      memory_.push_back(std::move(memory));
      return reinterpret_cast<T>(memory_.back().bytes.get());
    } else {
      return number<T>();
    }
  }

  // The first argument whose memory is not what it should be, from 1; 0 if there is none.
  int differs() const {
    for (const Memory& memory : memory_)
      if (std::memcmp(memory.bytes.get(), memory.expected, memory.size)) return memory.argument;
    return 0;
  }

 private:
  template <typename T>
  T number() {
    T value;
    std::memcpy(&value, content_.data() + position_, sizeof(T));
    position_ += 8;
    return value;
  }

  std::string content_;
  size_t position_ = 0;
  std::vector<Memory> memory_;
  int argument_ = 0;
};

template <typename... Arguments>
int run(int (*launcher)(Arguments...), Calls& calls) {
  calls.begin();
  std::tuple<Arguments...> arguments{calls.next<Arguments>()...};  // braces: from left to right
  return std::apply(launcher, arguments);
}

}  // namespace

int main(int count, char** arguments) {
  Calls calls(arguments[1]);
  for (int i = 2; i < count; i++) {
    janus_fast_simt_seed(std::strtoull(arguments[i], nullptr, 10));
    calls.rewind();
    for (int call = 0; !calls.done(); call++) {
      if (const int error = run(LAUNCHER, calls)) {
        std::printf("seed %s, call %d: %s\n", arguments[i], call, janus_fast_cuda_error(error));
        return 2;
      }
      if (const int argument = calls.differs()) {
        std::printf("seed %s, call %d: argument %d is wrong\n", arguments[i], call, argument);
        return 1;
      }
    }
  }
  return 0;
}
