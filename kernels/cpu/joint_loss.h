// Cross-entropies and divergences of rows projected to the vocabulary, and their gradients. Logits of one chunk of rows
// exist at a time.
//
// A chunk lies on its side: logits are [token, column], a column is a row of hidden, and columns i, width + i and
// 2 width + i are the distributions of one position. Lanes run along positions: statistics need no sums across lanes,
// and the distributions that a divergence compares meet in the same lane. All products (logits = W H^T,
// grad W = G^T H, grad H = G W) read W and G as they lie; their right factors are H, packed once a chunk, and W, packed
// block by block.
//
// The vocabulary is cut into sections by its size alone. Each has statistics and sums of grad H of its own, which are
// merged in order, and owns its rows of grad W: nothing depends on the number of threads.
#pragma once

#include "kernels/cpu/product.h"

namespace janus_fast {
namespace JANUS_ISA {

// Statistics of a column, each [columns]: of a section, and in place 4 and after it the sums of exp(own logit - peak) *
// (own logit - the other's), one for each other distribution of the position.
enum Statistic { kPeak, kExponentials, kLogits, kTargetLogit, kCross };
constexpr int64_t statistics_of(int64_t streams) { return kCross + streams - 1; }
// The place of `other` among the distributions that are not `own`.
constexpr int64_t place(int64_t own, int64_t other) { return other < own ? other : other - 1; }

template <typename T>
int64_t first_token(const JointLossCall<T>& call, int64_t section) {  // whole blocks, but for the last section's end
  const int64_t blocks = (call.vocabulary + kVocabularyBlock - 1) / kVocabularyBlock;
  return smaller(section * blocks / call.sections * kVocabularyBlock, call.vocabulary);
}

constexpr int64_t padded(int64_t channels) { return round_up(channels, kLanes<float>); }

template <typename T>
size_t joint_loss_scratch(int64_t channels) {  // of weights, then logits or gradients, which may lie as rows, too
  const size_t of_logit = sizeof(float) + (kRowsFirst<T> ? sizeof(T) : 0);
  return kVocabularyBlock * (padded(channels) * sizeof(T) + kChunkColumns * of_logit);
}

template <typename T>
void joint_loss_pack(const JointLossCall<T>& call) {
  const auto row = [&](int64_t column) -> const T* {
    return call.rows[column] < 0 ? nullptr : call.hidden + call.rows[column] * call.hidden_stride;
  };
  const int64_t columns = call.streams * call.width;
  pack_columns(row, call.channels, columns, call.hidden_columns);
  if (call.gradients) pack_rows(row, columns, call.channels, call.hidden_rows);
}

// Adds a block of logits to the statistics of its section; `scale` turns sums over the old peak to the new one.
template <int K>
void add_statistics(const float* logits, int64_t tokens, int64_t width, float* statistics) {
  const int64_t columns = K * width;
  for (int64_t i = 0; i < width; i += kLanes<float>) {
    Vec<float> peak[K], sum[K] = {}, total[K] = {}, cross[K][K] = {};
    for (int s = 0; s < K; s++) peak[s] = load(statistics + kPeak * columns + s * width + i);
    for (int64_t v = 0; v < tokens; v++)
      for (int s = 0; s < K; s++) peak[s] = maximum<float>(load(logits + v * columns + s * width + i), peak[s]);
    for (int64_t v = 0; v < tokens; v++) {
      Vec<float> z[K];
      for (int s = 0; s < K; s++) z[s] = load(logits + v * columns + s * width + i);
      for (int s = 0; s < K; s++) {
        const Vec<float> e = exponential(z[s] - peak[s]);
        sum[s] += e;
        total[s] += z[s];
        for (int other = 0; other < K; other++)
          if (other != s) cross[s][other] += e * (z[s] - z[other]);
      }
    }
    for (int s = 0; s < K; s++) {
      float* at = statistics + s * width + i;
      const Vec<float> scale = exponential(load(at + kPeak * columns) - peak[s]);
      store(at + kPeak * columns, peak[s]);
      store(at + kExponentials * columns, load(at + kExponentials * columns) * scale + sum[s]);
      store(at + kLogits * columns, load(at + kLogits * columns) + total[s]);
      for (int other = 0; other < K; other++)
        if (other != s) {
          float* to = at + (kCross + place(s, other)) * columns;
          store(to, load(to) * scale + cross[s][other]);
        }
    }
  }
}

template <typename T>
void joint_loss_logits(const JointLossCall<T>& call, int64_t section_begin, int64_t section_end, void* scratch) {
  const int64_t columns = call.streams * call.width, depth = groups<T>(call.channels);
  const auto add = call.streams == 3 ? add_statistics<3> : call.streams == 2 ? add_statistics<2> : add_statistics<1>;
  const ProductRegisters registers;
  T* copy = static_cast<T*>(scratch);
  float* tile = reinterpret_cast<float*>(copy + kVocabularyBlock * padded(call.channels));
  for (int64_t section = section_begin; section < section_end; section++) {
    float* statistics = call.statistics + section * statistics_of(call.streams) * columns;
    for (int64_t j = 0; j < statistics_of(call.streams) * columns; j++) statistics[j] = j < columns ? -INFINITY : 0.0f;
    const int64_t end = first_token(call, section + 1);
    for (int64_t first = first_token(call, section); first < end; first += kVocabularyBlock) {
      const int64_t tokens = smaller(kVocabularyBlock, end - first);
      const T* weight = call.weight + first * call.weight_stride;
      int64_t stride = call.weight_stride;
      if (call.channels % kGrouped<T>) {  // the last group of a row must end in zero
        stride = depth * kGrouped<T>;
        for (int64_t v = 0; v < tokens; v++)
          for (int64_t c = 0; c < stride; c++)
            copy[v * stride + c] = c < call.channels ? weight[v * call.weight_stride + c] : T{};
        weight = copy;
      }
      float* logits = call.gradients ? call.logits + first * columns : tile;
      product<T, false>(weight, stride, tokens, call.hidden_columns, columns, depth, logits, columns, false);
      add(logits, tokens, call.width, statistics);
      for (int64_t column = 0; column < columns; column++) {
        const int64_t v = call.targets[column] - first;
        if (v >= 0 && v < tokens) statistics[kTargetLogit * columns + column] = logits[v * columns + column];
      }
    }
  }
}

// Merges the sections of positions [begin, end): their losses, and what the gradients need of their columns.
template <typename T>
void joint_loss_merge(const JointLossCall<T>& call, int64_t begin, int64_t end) {
  const int64_t columns = call.streams * call.width, K = call.streams;
  const auto at = [&](int64_t section, int64_t statistic, int64_t column) {
    return call.statistics[(section * statistics_of(K) + statistic) * columns + column];
  };
  for (int64_t i = begin; i < end; i++) {
    double cross[3][3] = {};  // [s][t]: the mean under s of logit s - logit t
    for (int64_t s = 0; s < K; s++) {
      const int64_t column = s * call.width + i;
      float peak = -INFINITY;
      for (int64_t n = 0; n < call.sections; n++) peak = at(n, kPeak, column) > peak ? at(n, kPeak, column) : peak;
      double sum = 0, total = 0, target = 0;
      for (int64_t n = 0; n < call.sections; n++) {
        const double scale = __builtin_exp(static_cast<double>(at(n, kPeak, column)) - peak);
        sum += scale * at(n, kExponentials, column);
        total += at(n, kLogits, column);
        target += at(n, kTargetLogit, column);
        for (int64_t t = 0; t < K; t++)
          if (t != s) cross[s][t] += scale * at(n, kCross + place(s, t), column);
      }
      for (int64_t t = 0; t < K; t++) cross[s][t] /= sum;
      const double lse = peak + __builtin_log(sum);
      call.nll[column] = lse - target;
      call.mean_nll[column] = lse - total / call.vocabulary;
      call.peak[column] = peak;
      call.scale[column] = static_cast<float>(1 / sum);
    }
    for (int64_t s = 0, pair = 0; s < K; s++)  // the log-sum-exps cancel in the symmetric divergence
      for (int64_t t = s + 1; t < K; t++) call.divergence[pair++ * call.width + i] = 0.5 * (cross[s][t] + cross[t][s]);
    // d total / d logit s = p_s (slope_s + sum over t of pull[s][t] (logit s - logit t)) - sum over t of pull[s][t] p_t
    //                       - smooth - (token is the target) hit
    for (int64_t s = 0; s < K; s++) {
      const int64_t column = s * call.width + i;
      double slope = call.factor[column];
      for (int64_t t = 0; t < K; t++) slope += call.pull[s][t] * (1 - cross[s][t]);
      call.slope[column] = static_cast<float>(slope);
      call.smooth[column] = static_cast<float>(call.factor[column] * call.label_smoothing / call.vocabulary);
      call.hit[column] = static_cast<float>(call.factor[column] * (1 - call.label_smoothing));
      if (call.rows[column] < 0) call.scale[column] = call.slope[column] = 0;
    }
  }
}

// The gradients of one token's logits, K vectors of them.
template <typename T, int K>
JANUS_INLINE void logit_gradients(const JointLossCall<T>& call, const float* logits, int64_t token, int64_t i,
                                  Vec<float> gradients[K]) {
  Vec<float> z[K], p[K];
  for (int s = 0; s < K; s++) {
    z[s] = load(logits + s * call.width + i);
    p[s] = exponential(z[s] - load(call.peak + s * call.width + i)) * load(call.scale + s * call.width + i);
  }
  for (int s = 0; s < K; s++) {
    const int64_t column = s * call.width + i;
    const auto hits = load_groups(call.targets + column) == static_cast<int32_t>(token) - IntVec<float>{};
    Vec<float> own = load(call.slope + column), others = load(call.smooth + column);
    others += hits ? load(call.hit + column) : Vec<float>{};
    for (int t = 0; t < K; t++)
      if (t != s) {
        own += call.pull[s][t] * (z[s] - z[t]);
        others += call.pull[s][t] * p[t];
      }
    gradients[s] = p[s] * own - others;
  }
}

constexpr int64_t kAhead = 8;  // tokens whose logits are asked for before they are needed: they come from memory

// Turns the logits of a block into the left factors of both products of the gradients: rows of tokens, whose sums run
// along columns, and the same transposed, whose sums run along tokens. In float32 both are one, in place of the logits.
template <typename T, int K>
void block_gradients(const JointLossCall<T>& call, float* logits, int64_t first, int64_t tokens, T* by_token,
                     T* transposed) {
  const int64_t columns = K * call.width;
  for (int64_t v = 0; v < tokens; v += kGrouped<T>)
    for (int64_t i = 0; i < call.width; i += kLanes<float>) {
      for (int64_t e = kAhead; e < kAhead + kGrouped<T>; e++)
        for (int s = 0; s < K; s++) __builtin_prefetch(logits + (v + e) * columns + s * call.width + i);
      Vec<float> gradients[kGrouped<T>][K] = {};
      for (int64_t e = 0; e < kGrouped<T> && v + e < tokens; e++)
        logit_gradients<T, K>(call, logits + (v + e) * columns, first + v + e, i, gradients[e]);
      for (int s = 0; s < K; s++) {
        const int64_t column = s * call.width + i;
        const T* rows[kGrouped<T>];
        for (int64_t e = 0; e < kGrouped<T>; e++) {  // `by_token` has a row to spare
          rows[e] = by_token + (v + e) * columns;
          store(by_token + (v + e) * columns + column, gradients[e][s]);
        }
        if constexpr (kGrouped<T> != 1) interleave(rows, column, transposed + v * columns + column * kGrouped<T>);
      }
    }
}

template <typename T>
void joint_loss_gradients(const JointLossCall<T>& call, int64_t section_begin, int64_t section_end, void* scratch) {
  const int64_t columns = call.streams * call.width, channels = padded(call.channels);
  const auto run = call.streams == 3   ? block_gradients<T, 3>
                   : call.streams == 2 ? block_gradients<T, 2>
                                       : block_gradients<T, 1>;
  const ProductRegisters registers;
  T* packed = static_cast<T*>(scratch);
  T* tile = packed + kVocabularyBlock * channels;
  for (int64_t section = section_begin; section < section_end; section++) {
    const int64_t begin = first_token(call, section), end = first_token(call, section + 1);
    for (int64_t first = begin; first < end; first += kVocabularyBlock) {
      const int64_t tokens = smaller(kVocabularyBlock, end - first);
      float* logits = call.logits + first * columns;
      T *by_token, *transposed;
      if constexpr (kGrouped<T> == 1)
        by_token = transposed = logits;
      else
        by_token = tile, transposed = tile + kVocabularyBlock * columns;
      run(call, logits, first, tokens, by_token, transposed);
      float* sums = call.weight_sums + first * call.channels;
      product<T, false>(by_token, columns, tokens, call.hidden_rows, call.channels, groups<T>(columns), sums,
                        call.channels, !call.first_chunk);
      if constexpr (kGrouped<T> != 1)
        if (call.last_chunk)
          for (int64_t j = 0; j < tokens * call.channels; j += kLanes<float>) {
            const int64_t left = tokens * call.channels - j;
            store_part(call.grad_weight + first * call.channels + j, load_part(sums + j, left), left);
          }
      const auto row = [&](int64_t v) { return call.weight + (first + v) * call.weight_stride; };
      pack_rows(row, tokens, call.channels, packed);
      float* hidden_sums = call.hidden_sums + section * columns * channels;
      if constexpr (kRowsFirst<T>) {
        T* rows = tile + kGrouped<T> * kVocabularyBlock * kChunkColumns;
        transpose_pairs(transposed, round_up(groups<T>(tokens), 16), columns, rows, kVocabularyBlock);
        product<T, false>(rows, kVocabularyBlock, columns, packed, channels, groups<T>(tokens), hidden_sums, channels,
                          first != begin);
      } else {
        product<T, true>(transposed, columns, columns, packed, channels, groups<T>(tokens), hidden_sums, channels,
                         first != begin);
      }
    }
  }
}

// Adds up the sections' gradients of columns [begin, end).
template <typename T>
void joint_loss_reduce(const JointLossCall<T>& call, int64_t begin, int64_t end) {
  const int64_t columns = call.streams * call.width, channels = padded(call.channels);
  for (int64_t column = begin; column < end; column++) {
    if (call.rows[column] < 0) continue;
    T* to = call.grad_hidden + call.rows[column] * call.channels;
    for (int64_t c = 0; c < channels; c += kLanes<float>) {
      Vec<float> sum = {};
      for (int64_t n = 0; n < call.sections; n++) sum += load(call.hidden_sums + (n * columns + column) * channels + c);
      store_part(to + c, sum, call.channels - c);
    }
  }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
