// What the decoding engine asks of an instruction set: products with packed weights, norms, embeddings, attention over
// cached keys and the best tokens of a vocabulary. Everything is plain pointers; nothing here allocates. A kernel takes
// a range of tasks, so that threads share a call; what a row becomes does not depend on the range, nor on other rows.
#pragma once

#ifndef __x86_64__
#include <chrono>
#endif

#include "kernels/cpu/kernels.h"

namespace janus_fast {

// A clock that costs a few nanoseconds, in a unit of the machine's.
__attribute__((always_inline)) inline int64_t ticks() {
#ifdef __x86_64__
  return static_cast<int64_t>(__builtin_ia32_rdtsc());
#else
  return std::chrono::steady_clock::now().time_since_epoch().count();
#endif
}

// How a weight matrix is stored and multiplied. Int8: symmetric, one scale an output channel, activations quantised row
// by row, sums in int32.
enum class Numeric : uint8_t { kFloat32, kBFloat16, kInt8 };

// The weight [outputs, inputs] of y = x W^T + bias, cut into panels of EngineKernels::panel output channels; inside a
// panel the channels of one group of inputs (1 float, 2 bfloat16, 4 int8) lie side by side. All pointers are aligned to
// 64 bytes; outputs are padded with zeros to whole panels, inputs to whole groups.
struct Matrix {
  Numeric type;
  int64_t outputs, inputs;
  const void* panels;
  const float* bias;       // [padded outputs]
  const float* scales;     // int8: [padded outputs]
  const int32_t* offsets;  // int8: [padded outputs], 128 * the sum of the channel's weights
};

// Activations as a matrix of this type takes them. Int8 rows are stored as unsigned, value + 128.
struct Operand {
  void* data;      // [rows, stride] of float, BFloat16 or uint8_t
  float* scales;   // int8: [rows]
  int64_t stride;  // elements from row to row, at least the inputs rounded up to a group; what is beyond is zero
};

struct MultiplyCall {
  Operand x;
  int64_t rows;
  const Matrix* weight;
  float* output;  // [rows, output_stride], or null when
  int64_t output_stride;
  BFloat16* narrow = nullptr;  // the result is wanted as bfloat16 (residual is added before rounding)
  Activation activation = Activation::kNone;
  const float* residual = nullptr;  // [rows, outputs] added behind the activation, or null; may be `output` itself
  int64_t residual_stride = 0;
  int64_t* following = nullptr;  // unless null, to which the ticks are added that pass after products
};

// Layer norm of rows, as float and, if wanted, as the operand of the next product.
struct NormCall {
  const float* x;
  int64_t rows, channels, x_stride;
  const float *weight, *bias;
  float epsilon;
  float* output;  // may be x
  int64_t output_stride;
  Numeric type;
  Operand operand;  // data may be null: float rows are their own operand
};

// Float rows -> operand of a product.
struct ConvertCall {
  const float* x;
  int64_t rows, channels, x_stride;
  Numeric type;
  Operand operand;
};

// A table of rows as the file stores it.
struct Table {
  Numeric type;
  const void* data;     // [size, channels] of float, BFloat16 or int8_t, row-major
  const float* scales;  // int8: [size]
};

// output[i] = scale * tokens[ids[i]] + positions[places[i]]
struct EmbedCall {
  Table tokens;
  const float* positions;  // [places, channels]
  const int32_t *ids, *places;
  int64_t rows, channels;
  float scale;
  float* output;
};

// `steps` query rows a hypothesis, side by side, over the rows of a cache, by indirection: a row of hypothesis r at
// place p sees, for t in [0, p], what slot origin[t * slots + r] holds at t. A cache is [H, slots, capacity, D], so
// that what a head reads lies in one piece. In int8 each row of a head has a scale.
struct CachedAttentionCall {
  const float* query;  // [hypotheses * steps, query_stride], heads side by side
  int64_t query_stride;
  // The rows' own keys and values, which go to their places first; or null when they are there.
  const float *new_key, *new_value;
  int64_t new_stride;
  Numeric type;  // of the cache
  void *key, *value;
  float *key_scales, *value_scales;  // int8: [H, slots, capacity]
  int64_t slots, capacity;
  const int32_t *origin, *places;  // [capacity, slots], [hypotheses * steps]
  int64_t hypotheses, steps, heads, size;
  int64_t queries, first_query;  // further rows of each hypothesis, which are no keys, and where the first of all lies
  const int32_t* query_places;   // [hypotheses * queries], of those; null: they follow the other places
  bool only_queries;             // the steps leave keys and values behind, no more
  float scale;
  float* output;  // as query
  int64_t output_stride;
};

// The recurrence of an SSRU over rows that follow each other in their sequences: the state that a row leaves is
// s * the state before + (1 - s) * x, with s = sigmoid(forget), and its output gets max(state, 0) added.
struct RecurrenceCall {
  const float* input;  // [rows, 2 * channels]: x, forget
  int64_t channels;
  const int32_t* offsets;    // [sequences + 1]
  const int64_t *from, *to;  // [rows]: which of the states are the one before, -1: zeros, and its own
  float *states, *output;    // [any, channels], [rows, channels]
};

// What sentences may become: the outputs of a matrix and their tokens, both ascending, sentence after sentence.
struct Shortlists {
  const int32_t *outputs, *tokens, *offsets;  // offsets: [sentences + 1]
  const int32_t* starts;  // [sentences, groups + 1]: where those of each group of outputs begin, and where the last end
  const int32_t* rows;    // the sentence of each row
  float* logits;          // [rows, longest]: each row's own
  int64_t longest;        // outputs of a sentence
};

// The k best tokens of every row and its log-sum-exp. The vocabulary is cut into groups of whole panels
// (EngineKernels::group output channels); partial results lie a group apart and are merged in order, so that nothing
// depends on the number of threads.
struct VocabularyCall {
  Operand x;
  int64_t rows;
  const Matrix* weight;
  const float* bias;  // [padded outputs], instead of the weight's own; minus infinity forbids a token
  int64_t k;
  float *group_max, *group_sum, *group_values;  // [rows, groups], [rows, groups], [rows, groups, k]
  int32_t* group_tokens;                        // [rows, groups, k]
  // [rows, k]: best first, among equals the lowest token first; tokens that lack are -1 with minus infinity
  int32_t* tokens;
  float* log_probs;
  // Optional: log-probability of one given token a row (asked[r] < 0: none).
  const int32_t* asked;
  float* asked_logits;     // [rows], written by `vocabulary_groups`
  float* asked_log_probs;  // [rows], written by `vocabulary_merge`
  float* logits;           // optional: of all tokens, [rows, vocabulary]
  int64_t vocabulary;
  // Optional: rows have logits of their sentences' tokens alone, and nothing depends on what else the matrix has.
  const Shortlists* shortlists;
};

struct EngineKernels {
  const char* isa;
  int64_t panel, group;  // output channels of a panel; of a group of panels in the vocabulary

  // Packs W [outputs, inputs] row-major, stored as `from` (int8 with `scales`), into `panels` etc., which hold the
  // stated bytes. Any stored type can be packed as any type but int8 from int8 keeps its integers.
  size_t (*panel_bytes)(Numeric type, int64_t outputs, int64_t inputs);
  void (*pack)(const Table& from, int64_t outputs, int64_t inputs, Numeric type, void* panels, float* scales,
               int32_t* offsets);
  // Writes some panels of a matrix of `count` outputs of another.
  void (*gather)(const Matrix& from, const int32_t* outputs, int64_t count, int64_t panel_begin, int64_t panel_end,
                 void* panels, float* scales, int32_t* offsets);

  void (*multiply)(const MultiplyCall&, int64_t panel_begin, int64_t panel_end);
  void (*vocabulary_groups)(const VocabularyCall&, int64_t group_begin, int64_t group_end);
  void (*vocabulary_merge)(const VocabularyCall&, int64_t row_begin, int64_t row_end);
  void (*norm)(const NormCall&, int64_t row_begin, int64_t row_end);
  void (*convert)(const ConvertCall&, int64_t row_begin, int64_t row_end);
  void (*embed)(const EmbedCall&, int64_t row_begin, int64_t row_end);
  // One head's columns of float rows -> [rows, size] of this type; int8: and scales [rows].
  void (*split_head)(const float* x, int64_t rows, int64_t size, int64_t stride, Numeric type, void* output,
                     float* scales);
  void (*attend_cached)(const CachedAttentionCall&, int64_t task_begin, int64_t task_end);  // (head, hypothesis)
  void (*recur)(const RecurrenceCall&, int64_t sequence_begin, int64_t sequence_end);
  AttentionKernels<float> attention;
  AttentionKernels<float, BFloat16> bfloat16_attention;  // over keys and values in bfloat16
  AttentionKernels<float, int8_t> int8_attention;
  PredictLengthsKernels<float> predict_lengths;
};

extern const EngineKernels engine_generic;
#ifdef __x86_64__
extern const EngineKernels engine_avx2, engine_avx2_vnni, engine_avx512, engine_avx512_vnni, engine_avx512_bf16,
    engine_avx512_bf16_amx;
#endif

}  // namespace janus_fast
