#include "csrc/engine/step_decoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace janus_fast {

StepDecoder::StepDecoder(const Model& model, Workspace& workspace, const Ids& sources, int64_t slots)
    : model_(model),
      workspace_(workspace),
      sources_(sources),
      slots_(slots),
      streams_(1 + model.config.two_stream),
      width_(model.config.d_model) {
  for (int64_t s = 0; s < sources.count; s++) longest_source_ = std::max(longest_source_, sources.length(s));
  if (workspace_.caches.size() < model.decoder.layers.size())
    workspace_.caches = std::vector<Buffer<char>>(model.decoder.layers.size());
}

void StepDecoder::prepare() {
  const int64_t hypotheses = static_cast<int64_t>(tokens.size());
  if (position_ == capacity_) grow();
  for (int64_t r = 0; r < hypotheses; r++) origin_[position_ * slots_ + r] = static_cast<int32_t>(r);
  input_.assign(tokens.begin(), tokens.end());
  if (streams_ == 2) input_.insert(input_.end(), hypotheses, model_.config.mask);
  places_.assign(input_.size(), static_cast<int32_t>(position_));
  // Hypotheses of a source are one sequence of queries.
  query_offsets_.assign(1, 0);
  key_sequences_.clear();
  for (int64_t stream = 0; stream < streams_; stream++)
    for (int64_t r = 0; r < hypotheses; r++) {
      if (r == 0 || owners[r] != owners[r - 1]) {
        key_sequences_.push_back(owners[r]);
        query_offsets_.push_back(query_offsets_.back());
      }
      query_offsets_.back()++;
    }
}

// Every head of every slot moves apart from the next.
void StepDecoder::grow() {
  const int64_t held = capacity_, heads = 2 * model_.config.attention_heads;
  const int64_t bytes = model_.config.head_size() * model_.cache_bytes();
  capacity_ = std::max<int64_t>(32, 2 * held);
  origin_.resize(capacity_ * slots_);
  for (size_t i = 0; i < model_.decoder.layers.size(); i++) {
    char* data = workspace_.caches[i].grow(heads * slots_ * capacity_ * bytes, heads * slots_ * held * bytes);
    for (int64_t piece = heads * slots_ - 1; piece > 0 && held > 0; piece--)
      std::memmove(data + piece * capacity_ * bytes, data + piece * held * bytes, held * bytes);
  }
}

float* StepDecoder::step(Forward& forward) {
  const int64_t hypotheses = static_cast<int64_t>(tokens.size()), heads = model_.config.attention_heads;
  const int64_t source_rows = sources_.offsets[sources_.count];
  int64_t rows = streams_ * hypotheses, sequences = static_cast<int64_t>(key_sequences_.size());
  float *x = workspace_.x.data(), *wide = workspace_.wide.data();
  forward.embed(model_.decoder, input_.data(), places_.data(), rows, x);
  const auto& layers = model_.decoder.layers;
  for (size_t i = 0; i < layers.size(); i++) {
    const Layer& layer = layers[i];
    Operand in = forward.enter(layer.self_norm, x, rows);
    const Operand content = in;
    if (i + 1 == layers.size() && streams_ == 2) {  // content rows leave keys and values behind, no more
      in = forward.skip_rows(in, hypotheses, model_.layer_type);
      x += hypotheses * width_;
      rows = hypotheses;
      sequences /= 2;
    }
    forward.multiply({{in, rows, &layer.self.q, wide, 3 * width_},
                      {content, hypotheses, &layer.self.kv, wide + width_, 3 * width_}});
    CachedAttentionCall call = {};
    call.query = wide;
    call.new_key = wide + width_;
    call.new_value = wide + 2 * width_;
    call.query_stride = call.new_stride = 3 * width_;
    call.type = model_.cache_type();
    call.key = workspace_.caches[i].data();
    call.value = workspace_.caches[i].data() + width_ * slots_ * capacity_ * model_.cache_bytes();
    call.slots = slots_;
    call.capacity = capacity_;
    call.origin = origin_.data();
    call.hypotheses = hypotheses;
    call.heads = heads;
    call.size = model_.config.head_size();
    call.count = position_ + 1;
    call.scale = 1 / std::sqrt(static_cast<float>(call.size));
    call.output = workspace_.attended.data();
    call.output_stride = width_;
    forward.member.share(hypotheses * heads, [&](int64_t begin, int64_t end) {
      CachedAttentionCall part = call;
      model_.kernels.attend_cached(part, begin, end);
      if (rows == hypotheses) return;
      part.new_key = part.new_value = nullptr;  // the second stream's queries see what the first one left
      part.query += hypotheses * part.query_stride;
      part.output += hypotheses * width_;
      model_.kernels.attend_cached(part, begin, end);
    });
    const Layout cross = {
        rows,    sequences, query_offsets_.data(), sources_.offsets, key_sequences_.data(), longest_source_,
        nullptr, nullptr};
    if (rows < streams_ * hypotheses) forward.change_rows();
    forward.after_self_attention(layer, forward.cross(static_cast<int64_t>(i), source_rows), x, cross);
  }
  return x;
}

void StepDecoder::reorder(const std::vector<int32_t>& origins) {
  position_++;
  const int64_t hypotheses = static_cast<int64_t>(origins.size());
  bool moves = false;
  for (int64_t r = 0; r < hypotheses; r++) moves |= origins[r] != r;
  if (!moves) return;
  moved_.resize(hypotheses);
  for (int64_t t = 0; t < position_; t++) {
    int32_t* table = origin_.data() + t * slots_;
    for (int64_t r = 0; r < hypotheses; r++) moved_[r] = table[origins[r]];
    std::copy(moved_.begin(), moved_.end(), table);
  }
}

}  // namespace janus_fast
