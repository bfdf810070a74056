#include "csrc/engine/step_decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace janus_fast {

StepDecoder::StepDecoder(const Model& model, Workspace& workspace, const Ids& sources, int64_t slots)
    : model_(model),
      workspace_(workspace),
      sources_(sources),
      slots_(slots),
      streams_(1 + model.config.two_stream),
      width_(model.config.d_model),
      homes_(slots) {
  std::iota(homes_.begin(), homes_.end(), 0);
}

void StepDecoder::prepare(int64_t masks, int64_t queries, int64_t ahead) {
  const int64_t hypotheses = static_cast<int64_t>(owners.size());
  fed_ = static_cast<int64_t>(tokens.size()) / hypotheses;
  steps_ = fed_ + masks;
  const int64_t silent = queries ? std::max(fed_ - queries, int64_t{0}) : 0;  // tokens that predict nothing
  const int64_t each = 1 + ahead;                                             // query rows of a token
  queries_ = (fed_ - silent) * each;
  predicted_ = queries_ + std::max<int64_t>(0, masks - 1);
  const int64_t places = *std::max_element(begins.begin(), begins.end()) + steps_;
  if (places > capacity_) grow(places);
  input_.clear(), places_.clear(), positions_.clear(), selected_.clear(), last_places_.clear();
  const auto last = static_cast<int32_t>(model_.config.max_target_positions - 1);  // rows behind it are of no use
  const auto add = [&](int64_t r, int64_t step, int64_t stream = 0) {
    input_.push_back(step < fed_ ? tokens[r * fed_ + step] : model_.config.mask);
    places_.push_back(static_cast<int32_t>(begins[r] + step));
    positions_.push_back(std::min(places_.back() + static_cast<int32_t>(stream), last));
  };
  for (int64_t r = 0; r < hypotheses; r++)
    for (int64_t step = 0; step < steps_; step++) {
      add(r, step);
      origin_[(begins[r] + step) * slots_ + r] = homes_[r];
      if (step < silent || step == fed_) continue;
      const int64_t query = hypotheses * steps_ + r * queries_ + (step - silent) * each;
      for (int64_t stream = 0; stream < (step < fed_ ? each : 1); stream++) {
        selected_.push_back(static_cast<int32_t>(step < fed_ ? query + stream : r * steps_ + step));
        last_places_.push_back(places_.back());
      }
    }
  if (streams_ == 2)
    for (int64_t r = 0; r < hypotheses; r++)
      for (int64_t step = silent; step < fed_; step++)
        for (int64_t stream = 0; stream < each; stream++) {
          add(r, step, stream);
          input_.back() = model_.config.mask;
        }
  if (model_.config.recurrent) {
    follow_.clear(), before_.clear(), own_.clear();
    const auto state = [&](int64_t place, int64_t r) { return origin_[place * slots_ + r] * capacity_ + place; };
    for (int64_t r = 0; r < hypotheses; r++) {
      follow_.push_back(static_cast<int32_t>(own_.size()));
      for (int64_t place = begins[r]; place < begins[r] + steps_; place++)
        before_.push_back(place ? state(place - 1, r) : -1), own_.push_back(state(place, r));
    }
    follow_.push_back(static_cast<int32_t>(own_.size()));
  }
  // Hypotheses of a source are one sequence of queries.
  offsets_.assign(1, 0), last_offsets_.assign(1, 0);
  query_owners_.clear();
  for (int64_t stream = 0; stream < streams_; stream++)
    for (int64_t r = 0; r < hypotheses; r++) {
      if (r == 0 || owners[r] != owners[r - 1]) {
        query_owners_.push_back(owners[r]);
        offsets_.push_back(offsets_.back());
        if (stream == 0) last_offsets_.push_back(last_offsets_.back());
      }
      offsets_.back() += static_cast<int32_t>(stream == 0 ? steps_ : queries_);
      if (stream == 0) last_offsets_.back() += static_cast<int32_t>(predicted_);
    }
}

// Every head of every slot moves apart from the next.
void StepDecoder::grow(int64_t places) {
  const auto layers = static_cast<int64_t>(model_.decoder.layers.size());
  const bool recurrent = model_.config.recurrent;
  const int64_t held = capacity_, pieces = layers * slots_ * (recurrent ? 1 : 2 * model_.config.attention_heads);
  capacity_ = std::max<int64_t>({32, 2 * held, places});
  origin_.resize(capacity_ * slots_);
  const auto spread = [&](auto& buffer, int64_t row) {  // elements
    auto* data = buffer.grow(pieces * capacity_ * row, pieces * held * row);
    for (int64_t piece = pieces - 1; piece > 0 && held > 0; piece--)
      std::memmove(data + piece * capacity_ * row, data + piece * held * row, held * row * sizeof(*data));
  };
  if (recurrent) return spread(workspace_.caches, width_ * bytes_of(Numeric::kFloat32));
  spread(workspace_.caches, model_.config.head_size() * bytes_of(model_.layer_type));
  if (model_.layer_type == Numeric::kInt8) spread(workspace_.cache_scales, 1);
}

void StepDecoder::recur(Forward& forward, size_t layer) {
  float* states =
      reinterpret_cast<float*>(workspace_.caches.data()) + static_cast<int64_t>(layer) * slots_ * capacity_ * width_;
  forward.recur(follow_.data(), static_cast<int64_t>(owners.size()), before_.data(), own_.data(), states);
}

void StepDecoder::attend(Forward& forward, size_t layer) {
  const int64_t hypotheses = static_cast<int64_t>(owners.size()), heads = model_.config.attention_heads;
  CachedAttentionCall call = {};
  call.query = workspace_.wide.data();
  call.new_key = call.query + width_;
  call.new_value = call.new_key + width_;
  call.query_stride = call.new_stride = 3 * width_;
  call.type = model_.layer_type;
  const int64_t pieces = heads * slots_ * capacity_, before = 2 * static_cast<int64_t>(layer) * pieces;
  const int64_t bytes = model_.config.head_size() * bytes_of(call.type);
  call.key = workspace_.caches.data() + before * bytes;
  call.value = workspace_.caches.data() + (before + pieces) * bytes;
  if (call.type == Numeric::kInt8) {
    call.key_scales = workspace_.cache_scales.data() + before;
    call.value_scales = call.key_scales + pieces;
  }
  call.slots = slots_;
  call.capacity = capacity_;
  call.origin = origin_.data();
  call.places = places_.data();
  call.hypotheses = hypotheses;
  call.steps = steps_;
  call.heads = heads;
  call.size = model_.config.head_size();
  call.scale = 1 / std::sqrt(static_cast<float>(call.size));
  call.output = workspace_.attended.data();
  call.output_stride = width_;
  if (streams_ == 2 && layer + 1 < model_.decoder.layers.size())  // query rows see what tokens leave
    call.queries = queries_, call.first_query = hypotheses * steps_;
  else if (streams_ == 2)  // the last layer, where they go on alone
    call.queries = predicted_, call.query_places = last_places_.data(), call.only_queries = true;
  forward.share("self_attn", call.hypotheses * heads,
                [&](int64_t begin, int64_t end) { model_.kernels.attend_cached(call, begin, end); });
}

float* StepDecoder::step(Forward& forward) {
  const int64_t hypotheses = static_cast<int64_t>(owners.size()), rows = hypotheses * steps_;
  const int64_t every = static_cast<int64_t>(input_.size());
  const int64_t sequences = static_cast<int64_t>(query_owners_.size()) / streams_;
  const Queries last = {hypotheses * predicted_, sequences, last_offsets_.data(), nullptr};
  const Queries all = {every, streams_ * sequences, offsets_.data(), nullptr};
  const int32_t* selected = streams_ == 2 ? selected_.data() : nullptr;
  const Pass pass = {input_.data(),        positions_.data(), rows,           all, last, selected, &sources_,
                     query_owners_.data(), attention,         alignment_heads};
  return forward.decode(pass, [&](size_t layer, const Queries&) {
    model_.config.recurrent ? recur(forward, layer) : attend(forward, layer);
  });
}

void StepDecoder::reorder(const std::vector<int32_t>& origins) {
  const int64_t hypotheses = static_cast<int64_t>(origins.size());
  bool moves = false;
  moved_ = begins;
  begins.resize(hypotheses);
  int64_t places = 0;
  for (int64_t r = 0; r < hypotheses; r++) {
    begins[r] = moved_[origins[r]] + static_cast<int32_t>(steps_);
    places = std::max<int64_t>(places, begins[r]);
    moves |= origins[r] != r;
  }
  if (!moves) return;
  moved_.resize(hypotheses);
  for (int64_t t = 0; t < places; t++) {
    int32_t* table = origin_.data() + t * slots_;
    for (int64_t r = 0; r < hypotheses; r++) moved_[r] = table[origins[r]];
    std::copy(moved_.begin(), moved_.end(), table);
  }
}

void StepDecoder::keep(const std::vector<int32_t>& kept) {
  for (size_t r = 0; r < kept.size(); r++) {
    if (kept[r] == static_cast<int32_t>(r)) continue;
    homes_[r] = homes_[kept[r]];
    for (int64_t t = 0; t < capacity_; t++) origin_[t * slots_ + r] = homes_[r];
  }
}

}  // namespace janus_fast
