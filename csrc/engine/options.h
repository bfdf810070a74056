// What decoding takes and gives; names and meanings are those of the options in janus_fast/decoding.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <vector>

namespace janus_fast {

// Packed ids: one sequence after another, and where each begins.
struct Ids {
  const int32_t* ids;
  const int32_t* offsets;  // [count + 1]
  int64_t count;
  int64_t size() const { return offsets[count]; }
  int64_t length(int64_t i) const { return offsets[i + 1] - offsets[i]; }
  int64_t longest() const {
    int64_t most = 0;
    for (int64_t i = 0; i < count; i++) most = most > length(i) ? most : length(i);
    return most;
  }
};

struct Hypothesis {
  std::vector<int32_t> ids;
  double score = 0;
  std::vector<float> token_scores;
  int64_t iterations = 0;
  std::vector<std::vector<int32_t>> history;
};
typedef std::vector<std::vector<Hypothesis>> Hypotheses;  // of every source, best first

struct NonAutoregressiveOptions {
  int64_t iterations, length_beam;
  bool window, canvas_score, adaptive;
  int64_t num_hypotheses;
  bool return_history;
};

struct AutoregressiveOptions {
  int64_t beam_size, num_hypotheses;
  double length_penalty;
  int64_t max_decoding_length, min_decoding_length, no_repeat_ngram_size;
  // Sampling alone: a topk of 0 takes the whole vocabulary; uniforms [sources * num_hypotheses, steps] in [0, 1).
  int64_t sampling_topk;
  double sampling_topp, sampling_temperature;
  const double* uniforms;
  int64_t steps;
};

// A score that is not a number: FloatingPointError in Python.
struct NotFinite : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace janus_fast
