// Attention over visibility intervals: a query of time t sees key j iff visible_from[j] <= t < visible_until[j].
// Sequences are short, so a block of query rows meets all keys at once: scores [kQueryBlock, keys] lie in scratch.
#pragma once

#include "kernels/cpu/matmul.h"

namespace janus_fast {
namespace JANUS_ISA {

constexpr int64_t kQueryBlock = 32;
constexpr int32_t kNever = INT32_MAX;

// Scores are stored in rows of this length: whole vectors, and one more, since they begin at any key.
template <typename S>
constexpr int64_t score_stride(int64_t keys) {
  return round_up(keys, kLanes<S>) + kLanes<S>;
}

// The intervals of one key sequence, with keys that nobody sees after the last, so that whole vectors can be read.
struct Intervals {
  int32_t *from, *until;
  int64_t keys;

  template <typename S>
  void copy(const int32_t* visible_from, const int32_t* visible_until, int64_t count) {
    keys = count;
    const int64_t padded = score_stride<S>(count);
    for (int64_t j = 0; j < count; j++) from[j] = visible_from[j], until[j] = visible_until[j];
    for (int64_t j = count; j < padded; j++) from[j] = kNever, until[j] = INT32_MIN;
  }

  // A range of keys outside which no query of a block sees anything. It begins at a whole vector: a key keeps its lane
  // whatever the other queries of the block see, so a query's result depends on its own keys alone, to the bit.
  template <typename S>
  void range(const int32_t* times, int64_t rows, int64_t* begin, int64_t* end) const {
    int32_t earliest = times[0], latest = times[0];
    for (int64_t i = 1; i < rows; i++) {
      earliest = times[i] < earliest ? times[i] : earliest;
      latest = times[i] > latest ? times[i] : latest;
    }
    int64_t first = 0, last = keys;
    while (first < last && !(from[first] <= latest && earliest < until[first])) first++;
    while (first < last && !(from[last - 1] <= latest && earliest < until[last - 1])) last--;
    *begin = first / kLanes<S> * kLanes<S>, *end = last;
  }

  // All bits set in the lanes of the keys j.. that a query of this time sees.
  template <typename S>
  JANUS_INLINE auto seen(int64_t j, int32_t time) const {
    IntVec<S> first, last;
    __builtin_memcpy(&first, from + j, sizeof(first));
    __builtin_memcpy(&last, until + j, sizeof(last));
    auto sees = (first <= time) & (last > time);
    typedef decltype(Vec<S>{} < Vec<S>{}) Mask;
    return __builtin_convertvector(sees, Mask);
  }
};

// Asks for rows of keys or values that are needed soon: each head's are a piece of memory of its own.
template <typename T>
JANUS_INLINE void prefetch_rows(const T* rows, int64_t stride, int64_t count, int64_t size) {
  constexpr int64_t kMost = 64 * 1024;  // what is more pushes out what it should not
  if (count * size * int64_t{sizeof(T)} > kMost) return;
  for (int64_t i = 0; i < count; i++) prefetch(rows + i * stride, size);
}

template <typename T>
size_t attention_fwd_scratch(int64_t max_keys, int64_t size) {
  typedef Accumulator<T> S;
  const int64_t stride = score_stride<S>(max_keys);
  return kQueryBlock * stride + kQueryBlock * size + 2 * stride;  // scores, output, intervals
}

// Of a row: whether it sees a key, its largest score, and the sum of the exponentials of the differences from that.
template <typename S>
struct Softmax {
  bool sees;
  S peak, total;
  S inverse_total() const { return sees ? 1 / total : 0; }
  S lse() const { return sees ? peak + logarithm(total) : -static_cast<S>(INFINITY); }
};

// Scores -> exponentials of (scaled score - their maximum), in place, over the keys [begin, end).
template <typename S>
JANUS_INLINE Softmax<S> softmax_row(S* scores, const Intervals& intervals, int64_t begin, int64_t end, int32_t time,
                                    S scale) {
  const Vec<S> lowest = splat(-static_cast<S>(INFINITY));
  Vec<S> top = lowest;
  decltype(top < top) seen = {};
  for (int64_t j = 0; j < end - begin; j += kLanes<S>) {
    auto sees = intervals.seen<S>(begin + j, time);
    Vec<S> s = sees ? load(scores + j) * scale : lowest;
    seen |= sees;
    top = maximum<S>(s, top);
    store(scores + j, s);
  }
  S peak = maximum<S>(top);
  if (peak == -static_cast<S>(INFINITY)) peak = 0;
  Vec<S> total = {};
  for (int64_t j = 0; j < end - begin; j += kLanes<S>) {
    Vec<S> p = exponential(load(scores + j) - peak);
    store(scores + j, p);
    total += p;
  }
  return {any(seen), peak, sum<S>(total)};
}

// The first `count` columns of rows, times a number each. Columns behind them, to a whole vector, become anything.
template <typename S>
JANUS_INLINE void scale_columns(S* scores, int64_t stride, int64_t rows, const S* scales, int64_t count) {
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < count; j += kLanes<S>)
      store(scores + i * stride + j, load(scores + i * stride + j) * load(scales + j));
}

template <typename T, typename TK = T>
void attention_fwd(const AttentionCall<T, TK>& call, int64_t task_begin, int64_t task_end, Accumulator<T>* scratch) {
  typedef Accumulator<T> S;
  const int64_t size = call.size;
  const auto sequence_of = [&](int64_t task) { return call.sequences ? task % call.sequences : task / call.heads; };
  const auto head_of = [&](int64_t task) { return call.sequences ? task / call.sequences : task % call.heads; };
  for (int64_t task = task_begin; task < task_end; task++) {
    const int64_t sequence = sequence_of(task), head = head_of(task);
    const int64_t key_sequence = call.key_sequences[sequence], key_begin = call.key_offsets[key_sequence];
    const int64_t keys = call.key_offsets[key_sequence + 1] - key_begin, stride = score_stride<S>(keys);
    S* scores = scratch;
    S* output = scores + kQueryBlock * stride;
    int32_t* integers = reinterpret_cast<int32_t*>(output + kQueryBlock * size);
    Intervals intervals = {integers, integers + stride, 0};
    intervals.copy<S>(call.visible_from + key_begin, call.visible_until + key_begin, keys);

    for (int64_t row = call.query_offsets[sequence]; row < call.query_offsets[sequence + 1]; row += kQueryBlock) {
      const int64_t rows = smaller(kQueryBlock, call.query_offsets[sequence + 1] - row);
      int64_t begin, end;
      intervals.range<S>(call.query_times + row, rows, &begin, &end);
      prefetch_rows(call.value.at(key_begin + begin, head), call.value.row_stride, end - begin, size);
      // [rows, D] x [keys, D] -> [rows, keys]
      if (begin < end)
        dot_rows(call.query.at(row, head), call.query.row_stride, rows, call.key.at(key_begin + begin, head),
                 call.key.row_stride, end - begin, size, scores, stride);
      const int64_t first_scale = head * call.scale_stride + key_begin + begin;
      if constexpr (std::is_same<TK, int8_t>::value)
        scale_columns<S>(scores, stride, rows, call.key_scales + first_scale, end - begin);
      S inverse_totals[kQueryBlock];
      for (int64_t i = 0; i < rows; i++) {
        const auto softmax =
            softmax_row(scores + i * stride, intervals, begin, end, call.query_times[row + i], call.scale);
        inverse_totals[i] = softmax.inverse_total();
        if (call.lse) call.lse[(row + i) * call.heads + head] = softmax.lse();
      }
      if (task + 1 < task_end) {
        const int64_t next = call.key_sequences[sequence_of(task + 1)], first = call.key_offsets[next];
        prefetch_rows(call.key.at(first, head_of(task + 1)), call.key.row_stride, call.key_offsets[next + 1] - first,
                      size);
      }
      if constexpr (std::is_same<TK, int8_t>::value)
        scale_columns<S>(scores, stride, rows, call.value_scales + first_scale, end - begin);
      // [rows, keys] x [keys, D] -> [rows, D]
      for (int64_t i = 0; i < rows * size; i++) output[i] = 0;
      if (begin < end)
        add_product(scores, stride, 1, rows, call.value.at(key_begin + begin, head), call.value.row_stride, size,
                    end - begin, output, size);
      for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < size; c++)
          narrow(output[i * size + c] * inverse_totals[i], call.output + ((row + i) * call.heads + head) * size + c);
    }
  }
}

template <typename T>
size_t attention_bwd_scratch(int64_t max_keys, int64_t size) {
  typedef Accumulator<T> S;
  const int64_t stride = score_stride<S>(max_keys);
  // weights, gradients of scores, gradients of query, key and value, intervals
  return 2 * kQueryBlock * stride + kQueryBlock * size + 2 * max_keys * size + 2 * stride;
}

// One task owns a key sequence and a head: it meets all query sequences that share these keys, in ascending order, so
// that the sums of grad_key and grad_value have one order whatever the number of threads.
template <typename T>
void attention_bwd(const AttentionCall<T>& call, int64_t task_begin, int64_t task_end, Accumulator<T>* scratch) {
  typedef Accumulator<T> S;
  const int64_t size = call.size;
  for (int64_t task = task_begin; task < task_end; task++) {
    const int64_t key_sequence = task / call.heads, head = task % call.heads;
    const int64_t key_begin = call.key_offsets[key_sequence], keys = call.key_offsets[key_sequence + 1] - key_begin;
    const int64_t stride = score_stride<S>(keys);
    S* weights = scratch;
    S* grad_scores = weights + kQueryBlock * stride;
    S* grad_query = grad_scores + kQueryBlock * stride;
    S* grad_key = grad_query + kQueryBlock * size;
    S* grad_value = grad_key + keys * size;
    int32_t* integers = reinterpret_cast<int32_t*>(grad_value + keys * size);
    Intervals intervals = {integers, integers + stride, 0};
    intervals.copy<S>(call.visible_from + key_begin, call.visible_until + key_begin, keys);
    for (int64_t i = 0; i < 2 * keys * size; i++) grad_key[i] = 0;

    for (int32_t o = call.order_offsets[key_sequence]; o < call.order_offsets[key_sequence + 1]; o++) {
      const int64_t sequence = call.query_order[o], sequence_end = call.query_offsets[sequence + 1];
      for (int64_t row = call.query_offsets[sequence]; row < sequence_end; row += kQueryBlock) {
        const int64_t rows = smaller(kQueryBlock, sequence_end - row);
        for (int64_t i = 0; i < rows * size; i++) grad_query[i] = 0;
        int64_t begin, end;
        intervals.range<S>(call.query_times + row, rows, &begin, &end);
        if (begin < end) {
          const int64_t first = key_begin + begin, count = end - begin;
          // [rows, D] x [keys, D] -> [rows, keys], twice
          dot_rows(call.query.at(row, head), call.query.row_stride, rows, call.key.at(first, head), call.key.row_stride,
                   count, size, weights, stride);
          dot_rows(call.grad_output.at(row, head), call.grad_output.row_stride, rows, call.value.at(first, head),
                   call.value.row_stride, count, size, grad_scores, stride);
          for (int64_t i = 0; i < rows; i++) {
            S *w = weights + i * stride, *g = grad_scores + i * stride;
            const int32_t time = call.query_times[row + i];
            // Once more from the scores: as exact as the forward pass, which a stored log-sum-exp of large scores
            // isn't.
            const S inverse_total = softmax_row(w, intervals, begin, end, time, call.scale).inverse_total();
            Vec<S> products = {};
            for (int64_t j = 0; j < count; j += kLanes<S>) {
              const Vec<S> p = load(w + j) * inverse_total;
              const Vec<S> grad = intervals.seen<S>(begin + j, time) ? load(g + j) : Vec<S>{};
              store(w + j, p);
              store(g + j, grad);
              products += p * grad;
            }
            const S mean = sum<S>(products);  // of the gradient under the weights
            for (int64_t j = 0; j < count; j += kLanes<S>)
              store(g + j, load(w + j) * (load(g + j) - mean) * call.scale);
          }
          // [rows, keys] x [keys, D] -> [rows, D], then [keys, rows] x [rows, D] -> [keys, D], twice
          add_product(grad_scores, stride, 1, rows, call.key.at(first, head), call.key.row_stride, size, count,
                      grad_query, size);
          add_product(grad_scores, 1, stride, count, call.query.at(row, head), call.query.row_stride, size, rows,
                      grad_key + begin * size, size);
          add_product(weights, 1, stride, count, call.grad_output.at(row, head), call.grad_output.row_stride, size,
                      rows, grad_value + begin * size, size);
        }
        for (int64_t i = 0; i < rows; i++)
          for (int64_t c = 0; c < size; c++)
            narrow(grad_query[i * size + c], call.grad_query + ((row + i) * call.heads + head) * size + c);
      }
    }
    for (int64_t j = 0; j < keys; j++)
      for (int64_t c = 0; c < size; c++) {
        const int64_t to = ((key_begin + j) * call.heads + head) * size + c;
        narrow(grad_key[j * size + c], call.grad_key + to);
        narrow(grad_value[j * size + c], call.grad_value + to);
      }
  }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
