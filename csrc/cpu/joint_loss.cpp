// Launcher of the joint loss: cuts the rows into chunks, runs the stages of each, adds up the terms.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>
#include <vector>

#include "csrc/cpu/launch.h"

namespace janus_fast {
namespace {

constexpr int64_t kStreams = 8;  // at most, of which divergences tie kTied
constexpr int64_t kTied = 3;
constexpr int64_t kRounding = 32;  // columns of two of the widest vectors: with fewer AMX leaves the rest to vectors

int64_t ceil_divide(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Of each term how much it weighs, and of each pair of streams how much its divergence moves the first of them.
struct Weights {
  double cross_entropy[kStreams], divergence[kStreams][kStreams] = {}, pull[kStreams][kStreams] = {}, label_smoothing;
  bool tied[kStreams] = {};
};

// Positions and the rows of hidden that are their distributions: rows[s][position], for the streams named.
struct Positions {
  std::vector<int64_t> streams;
  std::vector<std::vector<int64_t>> rows;
  int64_t size() const { return rows.empty() ? 0 : static_cast<int64_t>(rows[0].size()); }
};

// All rows, as positions that divergences tie together, and the others, each a position of its own. Of the streams in
// `masked` those rows are tied that ar_masked has, as many of each; of other tied streams all.
std::pair<Positions, Positions> arrange(const Weights& weights, const std::vector<int64_t>& rows,
                                        const Tensor& ar_masked, const std::vector<int64_t>& masked) {
  Positions together, apart;
  const size_t each = masked.empty() ? 0 : ar_masked.numel() / masked.size();
  std::vector<bool> taken(std::accumulate(rows.begin(), rows.end(), int64_t{0}));
  for (size_t s = 0, first = 0; s < rows.size(); first += rows[s++]) {
    if (!weights.tied[s]) continue;
    const size_t place = std::find(masked.begin(), masked.end(), s) - masked.begin();
    const int64_t* chosen = place < masked.size() ? data<int64_t>(ar_masked) + place * each : nullptr;
    std::vector<int64_t> tied(place < masked.size() ? each : rows[s]);
    for (size_t i = 0; i < tied.size(); i++) {
      const int64_t row = chosen ? chosen[i] : static_cast<int64_t>(i);
      JANUS_CHECK(row >= 0 && row < rows[s] && !taken[first + row],
                  "joint_loss: ar_masked must be distinct rows in [0, ", rows[s], "), got ", row);
      taken[first + row] = true;
      tied[i] = first + row;
    }
    together.streams.push_back(s);
    together.rows.push_back(std::move(tied));
    JANUS_CHECK(static_cast<int64_t>(together.rows.back().size()) == together.size(),
                "joint_loss: the streams of divergences must predict the same rows, got ", together.size(), " and ",
                together.rows.back().size());
  }
  apart.rows.resize(1);
  for (size_t row = 0; row < taken.size(); row++)
    if (!taken[row]) apart.rows[0].push_back(row);
  return {together, apart};
}

template <typename T>
std::tuple<Tensor, Tensor, Tensor, Tensor> run(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                                               const std::vector<int64_t>& rows, const Weights& weights,
                                               const std::vector<int64_t>& pairs, bool gradients,
                                               const std::pair<Positions, Positions>& arranged) {
  const auto& table = kernels_of<T>().joint_loss;
  const auto& [together, apart] = arranged;
  const int64_t count = hidden.size(0), channels = hidden.size(1), vocabulary = weight.size(0);
  const int64_t all = rows.size();
  std::vector<int64_t> stream_of;
  for (int64_t s = 0; s < all; s++) stream_of.insert(stream_of.end(), rows[s], s);

  JointLossCall<T> call = {};
  call.hidden = data<T>(hidden), call.hidden_stride = hidden.stride(0);
  call.weight = data<T>(weight), call.weight_stride = weight.stride(0);
  call.vocabulary = vocabulary, call.channels = channels;
  call.sections = std::min(kSections, ceil_divide(vocabulary, kVocabularyBlock));
  call.label_smoothing = weights.label_smoothing;
  call.gradients = gradients;

  Tensor grad_hidden = torch::stable::new_empty(hidden, {gradients ? count : 0, channels});
  Tensor grad_weight = torch::stable::new_empty(weight, {gradients ? vocabulary : 0, channels});
  if (gradients && count == 0) torch::stable::zero_(grad_weight);
  call.grad_hidden = mutable_data<T>(grad_hidden), call.grad_weight = mutable_data<T>(grad_weight);

  // Partial results, large enough for any chunk.
  const int64_t padded = ceil_divide(channels, kRounding) * kRounding;
  const int64_t most = count == 0 ? 0 : kChunkColumns;
  Tensor packed = torch::stable::new_empty(hidden, {2 * most * padded});
  Tensor statistics = torch::stable::new_empty(hidden, {call.sections * (3 + kTied) * most}, ScalarType::Float);
  Tensor logits = torch::stable::new_empty(hidden, {gradients ? vocabulary * most : 0}, ScalarType::Float);
  Tensor hidden_sums =
      torch::stable::new_empty(hidden, {gradients ? call.sections * most * padded : 0}, ScalarType::Float);
  Tensor weight_sums = sizeof(T) == sizeof(float)
                           ? grad_weight
                           : torch::stable::new_empty(grad_weight, grad_weight.sizes(), ScalarType::Float);
  call.hidden_columns = mutable_data<T>(packed), call.hidden_rows = call.hidden_columns + most * padded;
  call.statistics = mutable_data<float>(statistics), call.logits = mutable_data<float>(logits);
  call.hidden_sums = mutable_data<float>(hidden_sums), call.weight_sums = mutable_data<float>(weight_sums);
  std::vector<double> losses(5 * most);
  std::vector<float> columns(6 * most);
  std::vector<int64_t> chunk_rows(most);
  std::vector<int32_t> chunk_targets(most);
  call.nll = losses.data(), call.mean_nll = call.nll + most, call.divergence = call.mean_nll + most;
  call.peak = columns.data(), call.scale = call.peak + most, call.slope = call.scale + most;
  call.smooth = call.slope + most, call.hit = call.smooth + most;
  float* factor = call.hit + most;
  call.rows = chunk_rows.data(), call.targets = chunk_targets.data(), call.factor = factor;

  const auto* target = data<int64_t>(targets);
  double nll[kStreams] = {}, mean_nll[kStreams] = {}, divergence[kStreams][kStreams] = {};
  int64_t done = 0;
  for (const Positions* positions : {&together, &apart}) {
    const int64_t streams = positions->rows.size(), size = positions->size();
    if (size == 0) continue;
    for (int64_t s = 0; s < streams; s++)
      for (int64_t t = 0; t < streams; t++)
        call.pull[s][t] = streams == 1 ? 0 : weights.pull[positions->streams[s]][positions->streams[t]] / (2 * size);
    call.streams = streams;
    const int64_t most_chunks = ceil_divide(size, kChunkColumns / streams / kRounding * kRounding);
    const int64_t step = ceil_divide(ceil_divide(size, most_chunks), kRounding) * kRounding;
    const int64_t chunks = ceil_divide(size, step);
    for (int64_t chunk = 0; chunk < chunks; chunk++) {
      const int64_t begin = chunk * step, end = std::min(begin + step, size);
      call.width = ceil_divide(end - begin, kRounding) * kRounding;
      const int64_t width = call.width, used = streams * width;
      for (int64_t column = 0; column < used; column++) {
        const int64_t s = column / width, i = begin + column % width;
        const int64_t row = i < end ? positions->rows[s][i] : -1, stream = row < 0 ? 0 : stream_of[row];
        chunk_rows[column] = row;
        chunk_targets[column] = row < 0 ? -1 : static_cast<int32_t>(target[row]);
        factor[column] = row < 0 ? 0 : static_cast<float>(weights.cross_entropy[stream] / rows[stream]);
        done += row >= 0;
      }
      call.first_chunk = positions == (together.size() ? &together : &apart) && chunk == 0;
      call.last_chunk = done == count;

      const double work = 2.0 * used * vocabulary * channels;
      const size_t scratch = table.scratch(channels);
      table.pack(call);
      parallel(call.sections, work,
               [&](int64_t from, int64_t to) { table.logits(call, from, to, thread_scratch<unsigned char>(scratch)); });
      parallel(width, 100.0 * call.sections * used, [&](int64_t from, int64_t to) { table.merge(call, from, to); });
      for (int64_t i = 0; i < end - begin; i++) {
        for (int64_t s = 0, pair = 0; s < streams; s++) {
          const int64_t column = s * width + i, stream = stream_of[chunk_rows[column]];
          nll[stream] += call.nll[column], mean_nll[stream] += call.mean_nll[column];
          for (int64_t t = s + 1; t < streams; t++)
            divergence[positions->streams[s]][positions->streams[t]] += call.divergence[pair++ * width + i];
        }
      }
      if (!gradients) continue;
      parallel(call.sections, 2 * work, [&](int64_t from, int64_t to) {
        table.gradients(call, from, to, thread_scratch<unsigned char>(scratch));
      });
      parallel(used, static_cast<double>(call.sections) * used * channels,
               [&](int64_t from, int64_t to) { table.reduce(call, from, to); });
    }
  }

  const int64_t size = pairs.size() / 2;
  Tensor total = torch::stable::new_empty(hidden, {}, ScalarType::Float);
  Tensor terms = torch::stable::new_empty(hidden, {2 * all + size}, ScalarType::Float);
  auto* term = mutable_data<float>(terms);
  double sum = 0;
  for (int64_t s = 0; s < all; s++) {
    const double rows_or_one = std::max<int64_t>(rows[s], 1);
    const double smoothed = (1 - weights.label_smoothing) * nll[s] + weights.label_smoothing * mean_nll[s];
    term[s] = static_cast<float>(nll[s] / rows_or_one);
    term[all + s] = static_cast<float>(smoothed / rows_or_one);
    sum += weights.cross_entropy[s] * smoothed / rows_or_one;
  }
  for (int64_t n = 0; n < size; n++) {
    const auto [s, t] = std::minmax(pairs[2 * n], pairs[2 * n + 1]);
    const double mean = divergence[s][t] / std::max<int64_t>(together.size(), 1);
    term[2 * all + n] = static_cast<float>(mean);
    sum += weights.divergence[s][t] * mean;
  }
  *mutable_data<float>(total) = static_cast<float>(sum);
  return {total, terms, grad_hidden, grad_weight};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> joint_loss_cpu(
    const Tensor& hidden, const Tensor& weight, const Tensor& targets, const Tensor& ar_masked,
    const std::vector<int64_t>& rows, const std::vector<double>& cross_entropy, const std::vector<int64_t>& pairs,
    const std::vector<double>& divergence, const std::vector<int64_t>& detached, double label_smoothing, bool gradients,
    const std::vector<int64_t>& masked) {
  const char* op = "joint_loss";
  check_rows(hidden, op, "hidden", 2);
  check_rows(weight, op, "weight", 2);
  JANUS_CHECK(hidden.size(1) == weight.size(1) && hidden.scalar_type() == weight.scalar_type(), op,
              ": weight must have the columns and dtype of hidden");
  JANUS_CHECK(weight.size(0) >= 1 && weight.size(0) <= INT32_MAX, op,
              ": weight must have from 1 to 2^31 - 1 rows, got ", weight.size(0));
  const int64_t all = rows.size();
  JANUS_CHECK(all >= 1 && all <= kStreams && cross_entropy.size() == rows.size(), op,
              ": rows and cross_entropy must have an element for each of 1 to ", kStreams, " streams");
  int64_t count = 0;
  for (int64_t n : rows) {
    JANUS_CHECK(n >= 0, op, ": rows must not be negative, got ", n);
    count += n;
  }
  JANUS_CHECK(count == hidden.size(0), op, ": rows must add up to those of hidden, ", hidden.size(0), ", got ", count);
  check_vector(targets, op, "targets", ScalarType::Long, count);
  const auto* target = data<int64_t>(targets);
  for (int64_t i = 0; i < count; i++)
    JANUS_CHECK(target[i] >= 0 && target[i] < weight.size(0), op, ": targets must be in [0, V = ", weight.size(0),
                "), got ", target[i]);
  check_vector(ar_masked, op, "ar_masked", ScalarType::Long, -1);
  JANUS_CHECK(pairs.size() == 2 * divergence.size() && detached.size() == divergence.size(), op,
              ": pairs and detached must have two streams and one for each divergence");

  Weights weights;
  weights.label_smoothing = label_smoothing;
  std::copy(cross_entropy.begin(), cross_entropy.end(), weights.cross_entropy);
  for (size_t n = 0; n < divergence.size(); n++) {
    const auto [s, t] = std::minmax(pairs[2 * n], pairs[2 * n + 1]);
    JANUS_CHECK(s >= 0 && s < t && t < all, op, ": pairs must be of two different streams, got ", pairs[2 * n], " and ",
                pairs[2 * n + 1]);
    JANUS_CHECK(weights.divergence[s][t] == 0 || std::isnan(weights.divergence[s][t]), op, ": pairs must not repeat");
    weights.divergence[s][t] = divergence[n];
    weights.pull[s][t] = detached[n] == s ? 0 : divergence[n];
    weights.pull[t][s] = detached[n] == t ? 0 : divergence[n];
    weights.tied[s] = weights.tied[t] = true;
  }
  JANUS_CHECK(std::count(weights.tied, weights.tied + all, true) <= kTied, op, ": pairs must be of at most ", kTied,
              " streams");
  const auto arranged = arrange(weights, rows, ar_masked, masked);
  return with_type<float, BFloat16>(hidden, op, "hidden must be float32 or bfloat16", [&](auto type) {
    return run<decltype(type)>(hidden, weight, targets, rows, weights, pairs, gradients, arranged);
  });
}

}  // namespace
}  // namespace janus_fast

STABLE_TORCH_LIBRARY_IMPL(janus_fast, CPU, m) { m.impl("joint_loss", TORCH_BOX(&janus_fast::joint_loss_cpu)); }
