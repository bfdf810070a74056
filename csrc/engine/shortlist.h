// The words that each source of a batch may become, and the rows of the vocabulary that are any of them.
#pragma once

#include <vector>

#include "csrc/engine/buffer.h"
#include "csrc/engine/model.h"
#include "csrc/engine/options.h"

namespace janus_fast {

class Shortlist {
 public:
  // `words` of each source, ascending, at least one; null: all that there are. By one thread alone.
  void load(const Model& model, const Ids* words);
  bool active() const { return !tokens_.empty(); }

  // Panels of the matrix of these words. By several threads, each some of them, before it is asked for.
  int64_t panels() const { return padded_ / kernels_->panel; }
  void gather(const Model& model, int64_t panel_begin, int64_t panel_end);

  // For a call: `bias` of all tokens, the source of each row, and room for `longest` logits for each. By one thread
  // alone.
  void begin(const float* bias, const int32_t* rows, float* logits);
  const Matrix& matrix() const { return matrix_; }
  const Shortlists& lists() const { return lists_; }

 private:
  const EngineKernels* kernels_ = nullptr;
  Matrix matrix_ = {};
  Shortlists lists_ = {};
  int64_t padded_ = 0;
  std::vector<int32_t> tokens_, places_, outputs_, words_, offsets_, starts_;
  Buffer<char> panels_;
  Buffer<float> scales_, bias_;
  Buffer<int32_t> sums_;
};

}  // namespace janus_fast
