// Projection to the vocabulary, its log-sum-exp and its best tokens, group by group: logits exist only as a tile. A
// group's maximum and sum of exponentials depend on it alone and are merged in order. The list of best tokens is
// carried from group to group of a range, so that few tokens get past its last place; lists are merged by value and
// token, hence the outcome does not depend on the ranges either.
#pragma once

#include "kernels/cpu/linear_topk.h"
#include "kernels/cpu/multiply.h"

namespace janus_fast {
namespace JANUS_ISA {

constexpr int64_t kVocabularyGroup = 256;
// Rows of a tile of logits, which lies on the stack: whole tiles of products in int8.
#ifdef __AMX_TILE__
constexpr int64_t kLogitRows = 64;
#else
constexpr int64_t kLogitRows = 44;
#endif

// A list's length. Longer ones are not carried on: inserting would take longer than merging.
JANUS_INLINE int64_t list_length(int64_t k) { return smaller(k, kVocabularyGroup); }
JANUS_INLINE bool carried(int64_t k) { return k <= 64; }

// What a group of a row's logits, the first of which has this number, adds to it. `to` is its place among the groups of
// all rows, `carries` that of the list that it goes on with, its own if it begins one.
inline void digest(const VocabularyCall& call, int64_t to, int64_t carries, float* logits, int64_t first,
                   int64_t count) {
  const int64_t length = list_length(call.k);
  const float peak = add_bias<float>(logits, nullptr, count);
  call.group_max[to] = peak;
  call.group_sum[to] = sum_exponentials(logits, count, peak);
  if (length == 0) return;
  const int64_t list = (carried(call.k) ? carries : to) * length;
  float* values = call.group_values + list;
  int32_t* tokens = call.group_tokens + list;
  if (list == to * length)
    for (int64_t i = 0; i < length; i++) values[i] = -INFINITY, tokens[i] = -1;
  else
    call.group_tokens[to * length] = -1;
  if (peak > values[length - 1]) best_of(logits, count, static_cast<int32_t>(first), length, values, tokens, length);
}

template <Numeric type>
void vocabulary_groups_as(const VocabularyCall& call, int64_t group_begin, int64_t group_end) {
  const Matrix& weight = *call.weight;
  const int64_t groups = (weight.outputs + kVocabularyGroup - 1) / kVocabularyGroup;
  alignas(64) float tile[kLogitRows * kVocabularyGroup];
  for (int64_t group = group_begin; group < group_end; group++) {
    const int64_t first = group * kVocabularyGroup, count = smaller(kVocabularyGroup, weight.outputs - first);
    const int64_t panel = first / kPanelOutputs, panels = (count + kPanelOutputs - 1) / kPanelOutputs;
    for (int64_t row_begin = 0; row_begin < call.rows; row_begin += kLogitRows) {
      const int64_t row_end = smaller(row_begin + kLogitRows, call.rows);
      multiply_tiles<type>(call.x, row_begin, row_end, weight, panel, panel + panels,
                           [&](int64_t row, int64_t rows, int64_t channel, int64_t channels, const Sum<type>* sums) {
                             const Operand x = call.x;  // a copy, which no store changes
                             for (int64_t c = 0; c < channels; c += kLanes<float>) {
                               const Channels<type> all(weight, call.bias, channel + c);
                               for (int64_t i = 0; i < rows; i++)
                                 store(tile + (row + i - row_begin) * kVocabularyGroup + channel + c - first,
                                       all.number(sums + i * channels + c, x, row + i));
                             }
                           });
      for (int64_t row = row_begin; row < row_end; row++) {
        float* logits = tile + (row - row_begin) * kVocabularyGroup;
        if (call.shortlists) {
          const Shortlists& lists = *call.shortlists;
          const int64_t sentence = lists.rows[row];
          const int32_t* starts = lists.starts + sentence * (groups + 1) + group;
          float* own = lists.logits + row * lists.longest - lists.offsets[sentence];
          for (int64_t i = starts[0]; i < starts[1]; i++) own[i] = logits[lists.outputs[i] - first];
          continue;
        }
        digest(call, row * groups + group, row * groups + group_begin, logits, first, count);
        if (call.asked && call.asked[row] >= first && call.asked[row] < first + count)
          call.asked_logits[row] = logits[call.asked[row] - first];
        if (call.logits) __builtin_memcpy(call.logits + row * call.vocabulary + first, logits, count * sizeof(float));
      }
    }
  }
}

inline void vocabulary_groups(const VocabularyCall& call, int64_t group_begin, int64_t group_end) {
  switch (call.weight->type) {
    case Numeric::kFloat32:
      return vocabulary_groups_as<Numeric::kFloat32>(call, group_begin, group_end);
    case Numeric::kBFloat16:
      return vocabulary_groups_as<Numeric::kBFloat16>(call, group_begin, group_end);
    case Numeric::kInt8:
      return vocabulary_groups_as<Numeric::kInt8>(call, group_begin, group_end);
  }
}

// A row's own logits, in groups of their own. Returns their number.
inline int64_t digest_shortlist(const VocabularyCall& call, int64_t row, int64_t first_group) {
  const Shortlists& lists = *call.shortlists;
  const int32_t begin = lists.offsets[lists.rows[row]], count = lists.offsets[lists.rows[row] + 1] - begin;
  float* logits = lists.logits + row * lists.longest;
  for (int64_t first = 0; first < count; first += kVocabularyGroup)
    digest(call, first_group + first / kVocabularyGroup, first_group, logits + first, first,
           smaller(kVocabularyGroup, count - first));
  const int32_t* tokens = lists.tokens + begin;
  if (call.asked && call.asked[row] >= 0) {
    call.asked_logits[row] = -INFINITY;
    for (int64_t i = 0; i < count; i++)
      if (tokens[i] == call.asked[row]) call.asked_logits[row] = logits[i];
  }
  if (call.logits) {
    float* all = call.logits + row * call.vocabulary;
    for (int64_t i = 0; i < call.vocabulary; i++) all[i] = -INFINITY;
    for (int64_t i = 0; i < count; i++) all[tokens[i]] = logits[i];
  }
  return count;
}

inline void vocabulary_merge(const VocabularyCall& call, int64_t row_begin, int64_t row_end) {
  const int64_t all_groups = (call.weight->outputs + kVocabularyGroup - 1) / kVocabularyGroup;
  const int64_t length = list_length(call.k);
  for (int64_t row = row_begin; row < row_end; row++) {
    int64_t groups = all_groups;
    const int32_t* names = nullptr;
    if (call.shortlists) {
      groups = (digest_shortlist(call, row, row * all_groups) + kVocabularyGroup - 1) / kVocabularyGroup;
      names = call.shortlists->tokens + call.shortlists->offsets[call.shortlists->rows[row]];
    }
    float* sums = call.group_sum + row * all_groups;
    const LogSum all = merge_sums(call.group_max + row * all_groups, sums, groups);
    const auto log_prob = [&](float logit) {  // of what is forbidden minus infinity, unless a logit was NaN
      return logit == -INFINITY && all.log_total == all.log_total ? logit : all.log_prob(logit);
    };
    if (call.asked) call.asked_log_probs[row] = call.asked[row] < 0 ? 0 : log_prob(call.asked_logits[row]);
    const int64_t list = row * all_groups * length;
    merge_lists(call.group_values + list, call.group_tokens + list, groups, length, call.k,
                reinterpret_cast<int32_t*>(sums),  // which are used up
                [&](int64_t i, float value, int32_t token) {
                  call.tokens[row * call.k + i] = names && token >= 0 ? names[token] : token;
                  call.log_probs[row * call.k + i] = log_prob(value);
                });
  }
}

}  // namespace JANUS_ISA
}  // namespace janus_fast
