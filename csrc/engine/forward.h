// The stages that a pass through the model is made of. Every member of a team calls them in the same order; each stage
// ends when all members have done their part.
#pragma once

#include <cstdlib>
#include <cstring>
#include <initializer_list>
#include <new>
#include <utility>

#include "csrc/engine/model.h"
#include "csrc/engine/team.h"

namespace janus_fast {

// Memory that grows when more is asked for, on cache lines; the first `kept` elements of what it held stay.
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
      T* fresh = static_cast<T*>(std::aligned_alloc(64, (size * sizeof(T) + 127) / 64 * 64));
      if (!fresh) throw std::bad_alloc();
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

// Query sequences over key sequences that they see whole, or up to their time.
struct Layout {
  int64_t queries, sequences;    // rows and sequences of queries
  const int32_t* query_offsets;  // [sequences + 1]
  const int32_t* key_offsets;
  const int32_t* key_sequences;  // [sequences]
  int64_t max_keys;              // of one sequence
  const int32_t* query_times;    // [queries], or null: they see every key
  const int32_t* visible_from;   // [keys], with query_times
};

// What a worker keeps between calls. Rows of the decoder's input and of its tokens are the caller's.
struct Workspace {
  Buffer<float> x, last, y, wide, attended, lse, scales, scratch;
  Buffer<uint8_t> operand, second;
  Buffer<float> encoded;
  std::vector<Buffer<char>> caches;  // of each decoder layer: keys and values of the steps so far
  Buffer<char> cross;                // [decoder layers, keys and values, H, Ns, D]
  Buffer<int32_t> zeros, endless, places, identity;
  Buffer<float> group_max, group_sum, group_values;
  Buffer<int32_t> group_tokens, best_tokens;
  Buffer<float> best_log_probs;
};

// Keys and values that attention reads: float rows as a product left them, or heads one after another, [H, rows, D], in
// float32 or, where products are narrower than float32 too, in bfloat16: what a decode reads most of are the keys and
// values of its sources and its past.
struct KeyValues {
  Numeric type;
  const void *key, *value;
  int64_t row_stride, head_stride;
};

class Forward {
 public:
  Forward(const Model& model, Workspace& workspace, Member& member);

  // Room for passes of so many rows, sequences of so many keys, and so many keys in all.
  void reserve(int64_t rows, int64_t max_keys, int64_t all_keys);
  // Room for the best k tokens of so many rows. By one member alone.
  void reserve_vocabulary(int64_t rows, int64_t k);

  // Sources -> workspace.encoded [Ns, C], and every decoder layer's keys and values of them, workspace.cross.
  void encode(const int32_t* ids, const int32_t* offsets, int64_t sources);

  void embed(const Stack& stack, const int32_t* ids, const int32_t* places, int64_t rows, float* x);
  // The operand of the block that begins here: x, normalised where norms stand before the blocks.
  Operand enter(const Norm& norm, float* x, int64_t rows);
  // What enters next is another x than what left the last block.
  void change_rows() { has_current_ = false; }
  // Where norms stand behind the blocks: x, normalised in place.
  void leave(const Norm& norm, float* x, int64_t rows);
  // The rest of a decoder layer for rows x [rows, C] whose self-attention gave workspace.attended.
  void after_self_attention(const Layer& layer, const KeyValues& cross, float* x, const Layout& layout);

  // An operand without its first rows.
  static Operand skip_rows(const Operand& x, int64_t rows, Numeric type);

  struct Product {
    Operand x;
    int64_t rows;
    const Matrix* weight;
    float* output;
    int64_t stride;
  };
  void multiply(std::initializer_list<Product> products);
  void add_product(const Operand& x, int64_t rows, const Matrix& weight, float* residual);  // [rows, outputs]
  Operand convert(const float* x, int64_t rows, int64_t channels, Numeric type);
  void attend(const float* query, int64_t query_stride, const KeyValues& keys, const Layout& layout, float* output);
  // Of rows [.., C] of keys with values behind them.
  KeyValues rows_of(const float* data, int64_t stride) const {
    return {Numeric::kFloat32, data, data + width_, stride, model.config.head_size()};
  }
  void feed_forward(const Layer& layer, float* x, int64_t rows);

  // The best k tokens of rows x that leave the decoder's last layer: workspace.best_tokens, best_log_probs [rows, k].
  // asked (or null): tokens whose log-probabilities are wanted in asked_log_probs; asked_logits is scratch.
  void vocabulary(float* x, int64_t rows, const float* bias, int64_t k, const int32_t* asked = nullptr,
                  float* asked_logits = nullptr, float* asked_log_probs = nullptr);

  // This member's own.
  float* scratch() const { return workspace.scratch.data() + member.index * scratch_; }
  KeyValues cross(int64_t layer, int64_t source_rows) const;

  const Model& model;
  Workspace& workspace;
  Member& member;

 private:
  void cross_keys(int64_t rows);
  template <typename TK>
  void attend_to(const AttentionKernels<float, TK>& kernels, const float* query, int64_t query_stride,
                 const KeyValues& keys, const Layout& layout, float* output);
  Operand normalise(const Norm& norm, const float* x, int64_t rows, float* output, Numeric type);
  Operand operand(Numeric type, int64_t channels) const;
  const int64_t width_;
  int64_t scratch_ = 0;  // elements of each member
  Operand current_;      // with norms behind the blocks: x as left by the last block, if there was one
  bool has_current_ = false;
};

}  // namespace janus_fast
