#include "csrc/engine/forward.h"

#include <algorithm>
#include <cmath>

namespace janus_fast {
namespace {

constexpr int64_t kPad = 64;  // elements to which operand rows are rounded: whole groups, whole cache lines of bytes

int64_t padded(int64_t channels) { return (channels + kPad - 1) / kPad * kPad; }

}  // namespace

Forward::Forward(const Model& model, Workspace& workspace, Team& team)
    : model(model), workspace(workspace), team(team), width_(model.config.d_model), profile_(workspace.profile.get()) {}

void Forward::reserve(int64_t rows, int64_t max_keys, int64_t all_keys) {
  const Config& config = model.config;
  int64_t scratch = model.kernels.attention.fwd_scratch(max_keys, config.head_size());
  if (config.two_stream)
    scratch = std::max<int64_t>(scratch, model.kernels.predict_lengths.scratch(config.length_classes, width_));
  scratch_ = padded(scratch);
  const int64_t ffn = std::max(config.encoder_ffn_dim, config.decoder_ffn_dim), wide = std::max(3 * width_, ffn);
  workspace.x.grow(rows * width_);
  workspace.y.grow(rows * width_);
  workspace.attended.grow(rows * width_);
  workspace.wide.grow(rows * wide);
  workspace.operand.grow(rows * padded(std::max(width_, ffn)) * 4);
  workspace.second.grow(rows * padded(ffn) * 2);
  workspace.scales.grow(rows);
  workspace.last.grow(rows * width_);
  workspace.last_operand.grow(rows * padded(width_) * 4);
  workspace.last_scales.grow(rows);
  workspace.scratch.grow(team.size() * scratch_);
  const int64_t indices = std::max(rows, all_keys) + 1;
  int32_t* zeros = workspace.zeros.grow(indices);
  int32_t* endless = workspace.endless.grow(indices);
  int32_t* identity = workspace.identity.grow(indices);
  for (int64_t i = 0; i < indices; i++) zeros[i] = 0, endless[i] = INT32_MAX, identity[i] = static_cast<int32_t>(i);
}

void Forward::reserve_vocabulary(int64_t rows, int64_t k) {
  const int64_t groups = (model.vocabulary.outputs + model.kernels.group - 1) / model.kernels.group;
  const int64_t lists = rows * groups * std::min(k, model.kernels.group);
  workspace.group_max.grow(rows * groups);
  workspace.group_sum.grow(rows * groups);
  workspace.group_values.grow(lists);
  workspace.group_tokens.grow(lists);
  workspace.best_tokens.grow(rows * k);
  workspace.best_log_probs.grow(rows * k);
  if (workspace.shortlist.active()) workspace.own_logits.grow(rows * workspace.shortlist.lists().longest);
}

Operand Forward::select(const int32_t* selected, int64_t rows, const Operand& operand, const float* x) {
  const int64_t bytes = operand.stride * bytes_of(model.layer_type);
  const Operand to = {workspace.last_operand.data(), workspace.last_scales.data(), operand.stride};
  share("rows of the last layer", rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const int64_t from = selected[row];
      std::memcpy(workspace.last.data() + row * width_, x + from * width_, width_ * sizeof(float));
      std::memcpy(static_cast<char*>(to.data) + row * bytes, static_cast<char*>(operand.data) + from * bytes, bytes);
      if (operand.scales) to.scales[row] = operand.scales[from];
    }
  });
  return to;
}

void Forward::embed(const Stack& stack, const Pass& pass, float* x) {
  const float scale = model.config.scale_embedding ? std::sqrt(static_cast<float>(width_)) : 1.0f;
  const EmbedCall call = {stack.tokens, stack.positions, pass.ids, pass.places, pass.all.rows, width_, scale, x};
  has_current_ = false;
  share("embeddings", call.rows, [&](int64_t begin, int64_t end) { model.kernels.embed(call, begin, end); });
  if (!model.config.layernorm_embedding) return;
  if (model.config.normalize_before)
    normalise(stack.embedding_norm, x, call.rows, x, Numeric::kFloat32);
  else
    leave(stack.embedding_norm, x, call.rows);
}

Operand Forward::operand(Numeric type, int64_t channels) const {
  return {workspace.operand.data(), workspace.scales.data(), type == Numeric::kFloat32 ? channels : padded(channels)};
}

Operand Forward::convert(const float* x, int64_t rows, int64_t channels, Numeric type) {
  if (type == Numeric::kFloat32) return {const_cast<float*>(x), nullptr, channels};
  const ConvertCall call = {x, rows, channels, channels, type, operand(type, channels)};
  share("quantisation", rows, [&](int64_t begin, int64_t end) { model.kernels.convert(call, begin, end); });
  return call.operand;
}

Operand Forward::normalise(const Norm& norm, const float* x, int64_t rows, float* output, Numeric type) {
  NormCall call = {x,      rows,   width_, width_, norm.weight, norm.bias, model.config.layer_norm_eps,
                   output, width_, type,   {}};
  if (type != Numeric::kFloat32) call.operand = operand(type, width_);
  share("norms", rows, [&](int64_t begin, int64_t end) { model.kernels.norm(call, begin, end); });
  return type == Numeric::kFloat32 ? Operand{output, nullptr, width_} : call.operand;
}

Operand Forward::enter(const Norm& norm, float* x, int64_t rows) {
  if (model.config.normalize_before) return normalise(norm, x, rows, workspace.y.data(), model.layer_type);
  if (has_current_) return current_;
  return convert(x, rows, width_, model.layer_type);
}

void Forward::leave(const Norm& norm, float* x, int64_t rows) {
  if (model.config.normalize_before) return;
  current_ = normalise(norm, x, rows, x, model.layer_type);
  has_current_ = true;
}

void Forward::multiply(const char* stage, std::initializer_list<MultiplyCall> products) {
  const auto panels = [&](const MultiplyCall& product) {
    return (product.weight->outputs + model.kernels.panel - 1) / model.kernels.panel;
  };
  int64_t tasks = 0;
  for (const MultiplyCall& product : products) tasks += panels(product);
  std::atomic<int64_t> following = 0;
  share(stage, tasks, [&](int64_t begin, int64_t end) {
    int64_t own = 0;
    for (MultiplyCall product : products) {
      if (profile_) product.following = &own;
      const int64_t count = panels(product), from = std::max(begin, int64_t{0}), to = std::min(end, count);
      if (from < to) model.kernels.multiply(product, from, to);
      begin -= count, end -= count;
    }
    following += own;
  });
  if (!profile_) return;
  profile_->add(part_, stage, -following, 0);
  profile_->add(part_, "what follows products", following, 0);
}

void Forward::add_product(const char* stage, const Operand& x, int64_t rows, const Matrix& weight, float* residual) {
  multiply(stage, {{x, rows, &weight, residual, weight.outputs, nullptr, Activation::kNone, residual, weight.outputs}});
}

template <typename TK>
void Forward::attend_to(const AttentionKernels<float, TK>& kernels, const char* stage, const float* query,
                        int64_t query_stride, const Keys& keys, const Queries& queries) {
  const int64_t heads = model.config.attention_heads, size = model.config.head_size();
  AttentionCall<float, TK> call = {};
  call.query = {query, query_stride, size};
  call.key = {static_cast<const TK*>(keys.key), keys.row_stride, keys.head_stride};
  call.value = {static_cast<const TK*>(keys.value), keys.row_stride, keys.head_stride};
  call.query_offsets = queries.offsets;
  call.key_offsets = keys.offsets;
  call.key_sequences = keys.sequences;
  call.query_times = queries.times ? queries.times : workspace.zeros.data();
  call.visible_from = keys.visible_from ? keys.visible_from : workspace.zeros.data();
  call.visible_until = keys.visible_until ? keys.visible_until : workspace.endless.data();
  call.heads = heads;
  if (keys.head_stride > keys.row_stride) call.sequences = queries.sequences;  // heads lie apart
  call.size = size;
  call.scale = 1 / std::sqrt(static_cast<float>(size));
  call.output = workspace.attended.data();
  call.key_scales = keys.key_scales, call.value_scales = keys.value_scales, call.scale_stride = keys.head_stride / size;
  share(stage, queries.sequences * heads,
        [&](int64_t begin, int64_t end, int part) { kernels.fwd(call, begin, end, scratch(part)); });
}

void Forward::attend(const char* stage, const float* query, int64_t query_stride, const Keys& keys,
                     const Queries& queries) {
  if (keys.type == Numeric::kFloat32)
    attend_to(model.kernels.attention, stage, query, query_stride, keys, queries);
  else if (keys.type == Numeric::kBFloat16)
    attend_to(model.kernels.bfloat16_attention, stage, query, query_stride, keys, queries);
  else
    attend_to(model.kernels.int8_attention, stage, query, query_stride, keys, queries);
}

SelfAttention Forward::packed(const int32_t* offsets, const int32_t* sequences, const int32_t* visible_from,
                              const int32_t* visible_until) {
  return [=](size_t, const Queries& queries) {
    const float *query = workspace.wide.data(), *key = query + width_;
    const int64_t stride = 3 * width_, size = model.config.head_size();
    attend("self_attn", query, stride,
           {Numeric::kFloat32, key, key + width_, stride, size, offsets, sequences, visible_from, visible_until},
           queries);
  };
}

SelfAttention Forward::recurrence(const int32_t* offsets, int64_t sequences) {
  const int64_t rows = offsets[sequences];
  float* states = workspace.states.grow(rows * width_);
  int64_t *before = workspace.before.grow(rows), *own = workspace.own.grow(rows);
  for (int64_t sequence = 0; sequence < sequences; sequence++)
    for (int64_t row = offsets[sequence]; row < offsets[sequence + 1]; row++)
      own[row] = row, before[row] = row == offsets[sequence] ? -1 : row - 1;
  return [=](size_t, const Queries&) { recur(offsets, sequences, before, own, states); };
}

void Forward::recur(const int32_t* offsets, int64_t sequences, const int64_t* from, const int64_t* to, float* states) {
  const RecurrenceCall call = {workspace.wide.data(), width_, offsets, from, to, states, workspace.x.data()};
  share("ssru", sequences, [&](int64_t begin, int64_t end) { model.kernels.recur(call, begin, end); });
}

void Forward::feed_forward(const Layer& layer, float* x, int64_t rows) {
  team.look_around();  // once a layer, in every decode
  const Operand in = enter(layer.final_norm, x, rows);
  const int64_t ffn = layer.fc1.outputs;
  const bool narrow = model.layer_type == Numeric::kBFloat16;
  Operand hidden = {workspace.second.data(), nullptr, padded(ffn)};
  MultiplyCall call = {in, rows, &layer.fc1, workspace.wide.data(), ffn, nullptr, model.config.activation};
  if (narrow) {
    call.output = nullptr, call.output_stride = hidden.stride;
    call.narrow = static_cast<BFloat16*>(hidden.data);
  }
  multiply("fc1", {call});
  if (narrow && ffn % 2)  // the last group is whole
    for (int64_t row = 0; row < rows; row++) call.narrow[row * hidden.stride + ffn].bits = 0;
  if (!narrow) hidden = convert(workspace.wide.data(), rows, ffn, model.layer_type);
  add_product("fc2", hidden, rows, layer.fc2, x);
  leave(layer.final_norm, x, rows);
}

float* Forward::run(const Stack& stack, const Pass& pass, const SelfAttention& attend_self, float* x) {
  float *wide = workspace.wide.data(), *attended = workspace.attended.data();
  const auto add_attended = [&](const char* stage, const Matrix& out, const Norm& norm, int64_t rows) {
    add_product(stage, convert(attended, rows, width_, model.layer_type), rows, out, x);
    leave(norm, x, rows);
  };
  part_ = pass.sources ? "decoder" : "encoder";
  embed(stack, pass, x);
  for (size_t i = 0; i < stack.layers.size(); i++) {
    const Layer& layer = stack.layers[i];
    const bool last = i + 1 == stack.layers.size();
    const Queries& queries = last ? pass.last : pass.all;
    const Operand content = enter(layer.self_norm, x, pass.all.rows);
    Operand in = content;
    if (last && pass.selected) {  // the others leave keys and values behind, no more
      in = select(pass.selected, queries.rows, content, x);
      x = workspace.last.data();
    }
    if (pass.sources && model.config.recurrent) {
      multiply("ssru: x, forget", {{content, queries.rows, &layer.recurrence, wide, 2 * width_}});
      attend_self(i, queries);
      leave(layer.self_norm, x, queries.rows);
    } else {
      multiply("self_attn: q, k, v", {{in, queries.rows, &layer.self.q, wide, 3 * width_},
                                      {content, pass.content, &layer.self.kv, wide + width_, 3 * width_}});
      attend_self(i, queries);
      add_attended("self_attn: out", layer.self.out, layer.self_norm, queries.rows);
    }
    if (pass.sources) {
      multiply("encoder_attn: q",
               {{enter(layer.cross_norm, x, queries.rows), queries.rows, &layer.cross.q, wide, width_}});
      attend("encoder_attn", wide, width_, cross(i, *pass.sources, pass.owners), queries);
      if (last && pass.attention) align(wide, width_, cross(i, *pass.sources, pass.owners), pass);
      add_attended("encoder_attn: out", layer.cross.out, layer.cross_norm, queries.rows);
    }
    feed_forward(layer, x, queries.rows);
  }
  return x;
}

void Forward::encode(const Ids& sources, const Ids* words) {
  const int64_t rows = sources.size();
  reserve(rows, sources.longest(), rows);
  workspace.encoded.grow(rows * width_);
  int32_t* places = workspace.places.grow(rows);
  for (int64_t s = 0; s < sources.count; s++)
    for (int32_t row = sources.offsets[s]; row < sources.offsets[s + 1]; row++) places[row] = row - sources.offsets[s];
  workspace.shortlist.load(model, words);
  if (words)
    share("shortlist", workspace.shortlist.panels(),
          [&](int64_t begin, int64_t end) { workspace.shortlist.gather(model, begin, end); });
  const Queries queries = {rows, sources.count, sources.offsets, nullptr};
  const Pass pass = {sources.ids, workspace.places.data(), rows, queries, queries, nullptr, nullptr, nullptr};
  const auto whole = packed(sources.offsets, workspace.identity.data());
  float* x = run(model.encoder, pass, whole, workspace.encoded.data());
  if (model.config.normalize_before) normalise(model.encoder.norm, x, rows, x, Numeric::kFloat32);
  cross_keys(sources);
}

void Forward::cross_keys(const Ids& sources) {
  const auto& layers = model.decoder.layers;
  const int64_t rows = sources.size(), heads = model.config.attention_heads, size = model.config.head_size();
  const int64_t all = static_cast<int64_t>(layers.size()) * 2 * heads * rows;
  workspace.cross.grow(all * size * bytes_of(model.layer_type));
  if (model.layer_type == Numeric::kInt8) workspace.cross_scales.grow(all);
  const Operand in = convert(workspace.encoded.data(), rows, width_, model.layer_type);
  const float* wide = workspace.wide.data();
  for (size_t i = 0; i < layers.size(); i++) {
    multiply("encoder_attn: k, v", {{in, rows, &layers[i].cross.kv, workspace.wide.data(), 2 * width_}});
    const Keys keys = cross(i, sources, nullptr);
    share("encoder_attn: keys apart", 2 * heads, [&](int64_t begin, int64_t end) {
      for (int64_t head = begin; head < end; head++) {
        char* to = static_cast<char*>(const_cast<void*>(keys.key)) + head * rows * size * bytes_of(keys.type);
        float* scales = keys.key_scales ? const_cast<float*>(keys.key_scales) + head * rows : nullptr;
        model.kernels.split_head(wide + head * size, rows, size, 2 * width_, keys.type, to, scales);
      }
    });
  }
}

Keys Forward::cross(size_t layer, const Ids& sources, const int32_t* owners) const {
  const int64_t rows = sources.size(), size = model.config.head_size(), head_rows = model.config.attention_heads * rows;
  const int64_t bytes = head_rows * size * bytes_of(model.layer_type), before = static_cast<int64_t>(layer) * 2;
  const char* key = workspace.cross.data() + before * bytes;
  Keys keys = {model.layer_type, key, key + bytes, size, rows * size, sources.offsets, owners, nullptr, nullptr};
  if (keys.type == Numeric::kInt8) {
    keys.key_scales = workspace.cross_scales.data() + before * head_rows;
    keys.value_scales = keys.key_scales + head_rows;
  }
  return keys;
}

void Forward::vocabulary(float* x, int64_t rows, const int32_t* owners, const float* bias, int64_t k,
                         const int32_t* asked, float* asked_logits, float* asked_log_probs, float* logits) {
  Operand in;
  if (model.config.normalize_before)
    in = normalise(model.decoder.norm, x, rows, workspace.y.data(), model.vocabulary_type);
  else if (has_current_ && model.vocabulary_type == model.layer_type)
    in = current_;
  else
    in = convert(x, rows, width_, model.vocabulary_type);
  VocabularyCall call = {};
  call.x = in, call.rows = rows, call.weight = &model.vocabulary, call.bias = bias, call.k = k;
  call.group_max = workspace.group_max.data(), call.group_sum = workspace.group_sum.data();
  call.group_values = workspace.group_values.data(), call.group_tokens = workspace.group_tokens.data();
  call.tokens = workspace.best_tokens.data(), call.log_probs = workspace.best_log_probs.data();
  call.asked = asked, call.asked_logits = asked_logits, call.asked_log_probs = asked_log_probs;
  call.logits = logits, call.vocabulary = model.vocabulary.outputs;
  Shortlist& shortlist = workspace.shortlist;
  if (shortlist.active()) {
    shortlist.begin(bias, owners, workspace.own_logits.data());
    call.weight = &shortlist.matrix(), call.bias = call.weight->bias, call.shortlists = &shortlist.lists();
  }
  share("vocabulary", (call.weight->outputs + model.kernels.group - 1) / model.kernels.group,
        [&](int64_t begin, int64_t end) { model.kernels.vocabulary_groups(call, begin, end); });
  share("best words", rows, [&](int64_t begin, int64_t end) { model.kernels.vocabulary_merge(call, begin, end); });
}

}  // namespace janus_fast
