// What decoding takes and gives; names and meanings are those of the options in janus_fast/decoding.
#pragma once

#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
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
  std::vector<std::vector<int32_t>> history, predictions;
  std::vector<std::vector<float>> prediction_scores;
  std::vector<std::vector<float>> attention, logits;  // of each token; of each step
};
typedef std::vector<std::vector<Hypothesis>> Hypotheses;  // of every source, best first

// A call's options, which Python gives by name: `each` has the fields that it fills.
struct NonAutoregressiveOptions {
  bool ordered() const { return order != "parallel"; }  // a pass keeps one word of each canvas

  const Ids* words = nullptr;  // what each source may become, ascending; null: anything
  int64_t iterations, length_beam, num_hypotheses;
  std::string length_candidates, score, order;
  bool rerank, adaptive, remove_repeats, return_history;

  template <typename Each>
  void each(const Each& each) {
    each("iterations", iterations), each("length_beam", length_beam), each("num_hypotheses", num_hypotheses);
    each("length_candidates", length_candidates), each("score", score);
    each("order", order), each("rerank", rerank), each("remove_repeats", remove_repeats);
    each("adaptive", adaptive), each("return_history", return_history);
  }
};

struct LeftToRightOptions {
  const Ids* words = nullptr;  // as above
  double length_penalty;
  int64_t max_decoding_length, min_decoding_length;
  // What not every mode can be told.
  int64_t no_repeat_ngram_size = 0;
  double repetition_penalty = 1, prefix_bias_beta = 0;
  bool disable_unk = false, forced_eos = true, renormalize_logits = false, return_logits_vocab = false;
  std::vector<std::vector<int32_t>> suppress_sequences;
  std::vector<int32_t> end_token;  // none: eos

  template <typename Each>
  void each(const Each& each) {
    each("length_penalty", length_penalty), each("max_decoding_length", max_decoding_length);
    each("min_decoding_length", min_decoding_length);
  }
};

struct AutoregressiveOptions : LeftToRightOptions {
  int64_t beam_size, num_hypotheses, sampling_topk;
  double sampling_topp, sampling_temperature, patience, coverage_penalty;
  std::string early_stopping, prefix_alone;  // true, false, first, never; any, last, best
  bool return_end_token, return_attention;
  int64_t alignment_heads;

  template <typename Each>
  void each(const Each& each) {
    LeftToRightOptions::each(each);
    each("no_repeat_ngram_size", no_repeat_ngram_size);
    each("beam_size", beam_size), each("num_hypotheses", num_hypotheses), each("sampling_topk", sampling_topk);
    each("sampling_topp", sampling_topp), each("sampling_temperature", sampling_temperature);
    each("early_stopping", early_stopping), each("prefix_alone", prefix_alone), each("patience", patience),
        each("coverage_penalty", coverage_penalty);
    each("repetition_penalty", repetition_penalty), each("disable_unk", disable_unk);
    each("suppress_sequences", suppress_sequences), each("end_token", end_token);
    each("return_end_token", return_end_token), each("forced_eos", forced_eos);
    each("renormalize_logits", renormalize_logits), each("prefix_bias_beta", prefix_bias_beta);
    each("return_attention", return_attention), each("alignment_heads", alignment_heads);
    each("return_logits_vocab", return_logits_vocab);
  }

  // Called for each token of a greedy search or of a sample; what is true ends the output. May be empty.
  struct Step {
    int64_t source, sample, step;
    int32_t token;
    float log_prob;
    bool last;
  };
  std::function<bool(const Step&)> callback;

  bool sampling() const { return sampling_topk != 1; }
  // Of sampling: numbers in [0, 1), [sources * num_hypotheses, steps].
  const double* uniforms = nullptr;
  int64_t steps = 0;
};

struct SpeculativeOptions : LeftToRightOptions {
  int64_t draft_length;
  double draft_threshold;
  std::string drafter;
  bool adaptive_drafts, return_history;

  template <typename Each>
  void each(const Each& each) {
    LeftToRightOptions::each(each);
    each("no_repeat_ngram_size", no_repeat_ngram_size);
    each("draft_length", draft_length), each("draft_threshold", draft_threshold);
    each("drafter", drafter), each("adaptive_drafts", adaptive_drafts);
    each("return_history", return_history);
  }
};

struct SemiAutoregressiveOptions : LeftToRightOptions {
  int64_t block_length;
  bool remove_repeats;

  template <typename Each>
  void each(const Each& each) {
    LeftToRightOptions::each(each);
    each("block_length", block_length), each("remove_repeats", remove_repeats);
  }
};

// A score that is not a number: FloatingPointError in Python.
struct NotFinite : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace janus_fast
