// What the CPU kernels take, in plain pointers, sizes and strides, and the table of them that each instruction set
// fills in. Strides count elements; every innermost dimension is contiguous. Kernels allocate nothing: the caller hands
// in scratch memory of the stated size.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/activation.h"

namespace janus_fast {

struct BFloat16 {
  uint16_t bits;
};

// The type in which sums of products of T are accumulated.
template <typename T>
struct AccumulatorOf {
  typedef T type;
};
template <>
struct AccumulatorOf<BFloat16> {
  typedef float type;
};
template <>
struct AccumulatorOf<int8_t> {
  typedef float type;
};
template <typename T>
using Accumulator = typename AccumulatorOf<T>::type;

// [N, H, D] rows of which a slice may be taken, as from a fused projection.
template <typename T>
struct Rows {
  const T* data;
  int64_t row_stride, head_stride;
  const T* at(int64_t row, int64_t head) const { return data + row * row_stride + head * head_stride; }
};

// Keys and values may be stored in a type of their own, in the forward pass; in int8 with a scale a row and head.
template <typename T, typename TK = T>
struct AttentionCall {
  Rows<T> query;
  Rows<TK> key, value;
  const int32_t *query_offsets, *key_offsets, *key_sequences, *query_times, *visible_from, *visible_until;
  int64_t heads, size;
  Accumulator<T> scale;
  // Forward only: [Nq, H, D] and, unless null, [Nq, H].
  T* output;
  Accumulator<T>* lse;
  // int8: [H, Nk], heads so far apart; behind the last is room for a vector.
  const float *key_scales, *value_scales;
  int64_t scale_stride;
  int64_t sequences;  // of queries, where tasks are to have heads slowest; else 0
  // Backward only. query_order[order_offsets[s]..order_offsets[s + 1]) are the query sequences that attend to key
  // sequence s, ascending; they fix the order in which their gradients are added.
  Rows<T> grad_output;
  const int32_t *order_offsets, *query_order;
  T *grad_query, *grad_key, *grad_value;
};

template <typename T, typename TK = T>
struct AttentionKernels {
  // Accumulators that one thread needs for sequences of up to max_keys keys.
  size_t (*fwd_scratch)(int64_t max_keys, int64_t size);
  size_t (*bwd_scratch)(int64_t max_keys, int64_t size);
  // Tasks [begin, end): fwd numbers (query sequence, head), bwd (key sequence, head), head fastest unless asked
  // otherwise.
  void (*fwd)(const AttentionCall<T, TK>&, int64_t begin, int64_t end, Accumulator<T>* scratch);
  void (*bwd)(const AttentionCall<T, TK>&, int64_t begin, int64_t end, Accumulator<T>* scratch);
};

// Outputs and rows of a task.
constexpr int64_t kLinearOutputs = 64, kLinearChunk = 96;

// Rows that are multiplied by weights as they lie, and the same rows packed, if the kernels want it.
template <typename T>
struct RowFactors {
  const T* data;
  int64_t stride, channels;
  const T* packed;
};

// Where `pack` is null rows are taken as they lie. Otherwise panels [begin, end) of kRowPanel rows are packed into
// elements of `rows` and `channels` rounded up to multiples of kRowPanel and kPackedChannels.
constexpr int64_t kRowPanel = 32, kPackedChannels = 32;
template <typename T>
using PackRowsKernel = void (*)(const RowFactors<T>&, int64_t rows, T* to, int64_t begin, int64_t end);

template <typename T>
struct LinearActivationCall {
  RowFactors<T> x;
  int64_t rows;
  const T* weight;
  int64_t weight_stride, outputs;
  const T* bias;  // or null
  Activation activation;
  T* output;  // [rows, outputs]
};

// Tasks [begin, end) number (kLinearOutputs outputs, chunk of kLinearChunk rows), chunk fastest.
template <typename T>
using LinearActivationKernel = void (*)(const LinearActivationCall<T>&, int64_t begin, int64_t end);

// Rows of a block and of a chunk of a linear layer in training.
constexpr int64_t kTrainedRows = 32, kTrainedChunk = 512;

// Channels and outputs are multiples of 32. Weights and bias are TW, T or float.
template <typename T, typename TW>
struct TrainedLinearCall {
  const T* x;
  int64_t x_stride, rows, channels;
  const TW *weight, *bias;
  int64_t weight_stride, outputs;
  bool relu;
  T* output;  // [rows, outputs]; backward only with relu, and then read
  T* panels;  // [channels * outputs]: W packed
  // Backward only. With relu `masked` holds a chunk of gradients, [kTrainedChunk, outputs].
  const T* grad_output;
  int64_t grad_stride;
  T *masked, *packed_x;  // packed_x: [kTrainedChunk * channels]
  T* grad_x;             // [rows, channels]
  float *weight_sums, *bias_sums;
};

template <typename T, typename TW>
struct TrainedLinearKernels {
  size_t (*scratch)(const TrainedLinearCall<T, TW>&);  // bytes that one thread needs
  // Panels [begin, end) of 64: of outputs, for the forward pass, or of channels, for the backward one.
  void (*pack)(const TrainedLinearCall<T, TW>&, int64_t begin, int64_t end, void* scratch);
  void (*pack_rows)(const TrainedLinearCall<T, TW>&, int64_t begin, int64_t end, void* scratch);
  // Blocks [begin, end) of kTrainedRows rows; of gradients those of the chunk that begins at row `chunk`.
  void (*fwd)(const TrainedLinearCall<T, TW>&, int64_t begin, int64_t end, void* scratch);
  void (*grad_rows)(const TrainedLinearCall<T, TW>&, int64_t chunk, int64_t begin, int64_t end, void* scratch);
  // Sections [begin, end) of 64 outputs, once the chunk's rows are done.
  void (*grad_weight)(const TrainedLinearCall<T, TW>&, int64_t chunk, int64_t begin, int64_t end, void* scratch);
};

// The vocabulary is cut into panels of this many tokens, whatever the number of rows or threads: a row's sums have one
// order. Each panel leaves, for every row, its maximum, its sum of exponentials and its best tokens.
constexpr int64_t kPanel = 256;
constexpr int64_t kRowChunk = 96;

template <typename T>
struct LinearTopkCall {
  RowFactors<T> hidden;
  int64_t rows;
  const T* weight;
  int64_t weight_stride, vocabulary;
  const T* bias;  // or null
  int64_t k;
  // Partial results: [rows, panels], [rows, panels] and twice [rows, panels, min(k, kPanel)].
  float *panel_max, *panel_sum, *panel_values;
  int32_t* panel_tokens;
  // [rows, k]
  int64_t* tokens;
  float* log_probs;
};

template <typename T>
struct LinearTopkKernels {
  size_t (*scratch)();
  // Tasks [begin, end) number (panel, chunk of kRowChunk rows), chunk fastest.
  void (*panels)(const LinearTopkCall<T>&, int64_t begin, int64_t end, float* scratch);
  // Rows [begin, end), once all panels are done; scratch of one integer a panel.
  void (*merge)(const LinearTopkCall<T>&, int64_t begin, int64_t end, int32_t* scratch);
};

template <typename T>
struct PredictLengthsCall {
  const T* encoded;
  int64_t encoded_stride;
  const int32_t* offsets;
  const T* weight;
  int64_t weight_stride, classes, channels, beam;
  bool window;
  int64_t min_length, max_length;
  // [S, beam]
  int64_t* lengths;
  float* log_probs;
};

template <typename T>
struct PredictLengthsKernels {
  size_t (*scratch)(int64_t classes, int64_t channels);
  // Sources [begin, end).
  void (*run)(const PredictLengthsCall<T>&, int64_t begin, int64_t end, float* scratch);
};

// Tokens whose logits, weights and gradients stay in the second-level cache; sections of whole blocks, by which threads
// share the vocabulary; columns of a chunk, which divide into 3 x 128.
constexpr int64_t kVocabularyBlock = 192;
constexpr int64_t kSections = 16;
constexpr int64_t kChunkColumns = 384;

// One chunk of rows: `streams` (1 to 3) times `width` columns, a multiple of 16. Columns i, width + i, 2 width + i are
// distributions of one position, which a symmetric divergence ties together.
template <typename T>
struct JointLossCall {
  const T* hidden;
  int64_t hidden_stride;
  const T* weight;
  int64_t weight_stride, vocabulary, channels, sections;
  double label_smoothing;
  bool gradients;
  int64_t streams, width;
  const int64_t* rows;     // [columns] of hidden; -1: none
  const int32_t* targets;  // [columns]; -1: none
  const float* factor;     // [columns]: the weight of a column's cross-entropy in the total
  float pull[3][3];        // [s][t]: half the weight of a position's divergence, where it moves distribution s
  // Partial results, of JointLossKernels' sizes: hidden packed twice, statistics [sections, .., columns], and with
  // gradients logits [V, columns] and sums of grad_hidden [sections, columns, padded channels].
  T *hidden_columns, *hidden_rows;
  float *statistics, *logits, *hidden_sums;
  // Results of merging: [columns] and [pairs of streams, width].
  double *nll, *mean_nll, *divergence;
  float *peak, *scale, *slope, *smooth, *hit;
  // With gradients: [R, C]; [V, C], summed up over chunks in weight_sums, which in float32 is grad_weight itself.
  bool first_chunk, last_chunk;
  T *grad_hidden, *grad_weight;
  float* weight_sums;
};

template <typename T>
struct JointLossKernels {
  size_t (*scratch)(int64_t channels);  // bytes that one thread needs
  void (*pack)(const JointLossCall<T>&);
  void (*logits)(const JointLossCall<T>&, int64_t section_begin, int64_t section_end, void* scratch);
  void (*merge)(const JointLossCall<T>&, int64_t position_begin, int64_t position_end);
  void (*gradients)(const JointLossCall<T>&, int64_t section_begin, int64_t section_end, void* scratch);
  void (*reduce)(const JointLossCall<T>&, int64_t column_begin, int64_t column_end);
};

// Elements that the generator's blocks serve together.
constexpr int64_t kDropoutGroup = 64;

template <typename TX, typename TO>
struct DropoutAddCall {
  const TX* x;
  const TO* residual;  // or null
  TO* output;
  int64_t count;  // of each
  uint64_t seed;
  uint32_t threshold;  // elements whose bits are below it are dropped
  float scale;
};

// Groups [begin, end).
template <typename TX, typename TO>
using DropoutAddKernel = void (*)(const DropoutAddCall<TX, TO>&, int64_t begin, int64_t end);

template <typename T>
struct KernelsOf {
  AttentionKernels<T> attention;
  LinearTopkKernels<T> linear_topk;
  JointLossKernels<T> joint_loss;
  PredictLengthsKernels<T> predict_lengths;
  PackRowsKernel<T> pack_rows;
  LinearActivationKernel<T> linear_activation;
  TrainedLinearKernels<T, T> trained_linear;
  TrainedLinearKernels<T, float> trained_linear_float;  // of weights in float32
};
template <>
struct KernelsOf<double> {
  AttentionKernels<double> attention;
};

struct Kernels {
  const char* isa;
  KernelsOf<float> of_float;
  KernelsOf<double> of_double;
  KernelsOf<BFloat16> of_bfloat16;
  DropoutAddKernel<float, float> dropout_add_float;
  DropoutAddKernel<float, BFloat16> dropout_add_float_bfloat16;
  DropoutAddKernel<BFloat16, float> dropout_add_bfloat16_float;
  DropoutAddKernel<BFloat16, BFloat16> dropout_add_bfloat16;
};

extern const Kernels kernels_generic;
#ifdef __x86_64__
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512_bf16;
extern const Kernels kernels_avx512_bf16_amx;
#endif

}  // namespace janus_fast
