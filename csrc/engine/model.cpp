#include "csrc/engine/model.h"

#include <sys/mman.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

#include "csrc/isa.h"

namespace janus_fast {
namespace {

#ifdef __SANITIZE_ADDRESS__  // which looks at what lies behind a block
constexpr size_t kLargePage = SIZE_MAX;
#else
constexpr size_t kLargePage = 2 << 20;
#endif

int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

float element(const Table& table, int64_t row, int64_t index) {
  if (table.type == Numeric::kFloat32) return static_cast<const float*>(table.data)[index];
  if (table.type == Numeric::kInt8) return static_cast<const int8_t*>(table.data)[index] * table.scales[row];
  const uint32_t bits = static_cast<uint32_t>(static_cast<const BFloat16*>(table.data)[index].bits) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

std::string text(const std::vector<int64_t>& shape) {
  std::string all;
  for (int64_t size : shape) all += (all.empty() ? "" : ", ") + std::to_string(size);
  return "[" + all + "]";
}

const std::vector<const EngineKernels*>& available() {
  static const std::vector<const EngineKernels*> tables = runnable<EngineKernels>({
#ifdef __x86_64__
      &engine_avx512_bf16_amx, &engine_avx512_bf16, &engine_avx512_vnni, &engine_avx512, &engine_avx2_vnni,
      &engine_avx2,
#endif
      &engine_generic});
  return tables;
}

}  // namespace

const EngineKernels& engine_kernels(const char* what, const std::string& isa) {
  if (isa.empty()) return *available().front();
  if (const EngineKernels* kernels = find_table(available(), isa)) return *kernels;
  throw std::invalid_argument(std::string(what) + ": isa must be one of " + names_of(available(), ", ") + ", got " +
                              isa);
}

void Arena::Free::operator()(void* p) const { std::free(p); }

void* allocate(size_t bytes) {
  const size_t page = bytes < kLargePage ? 64 : kLargePage, size = (bytes + page - 1) / page * page;
  void* memory = std::aligned_alloc(page, size);
  if (!memory) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  if (page == kLargePage) madvise(memory, size, MADV_HUGEPAGE);  // refusal costs time alone
#endif
  return memory;
}

void* Arena::bytes(size_t count) {
  constexpr size_t kBlock = kLargePage == SIZE_MAX ? 0 : 16 << 20;
  const size_t size = (count + 127) / 64 * 64;
  if (size > left_) {
    left_ = size > kBlock ? size : kBlock;
    next_ = static_cast<char*>(allocate(left_));
    blocks_.emplace_back(next_);
  }
  left_ -= size;
  return std::exchange(next_, next_ + size);
}

Model::Model(const Config& config, const Arrays& arrays, Numeric layers, Numeric vocabulary_type,
             const EngineKernels& kernels)
    : config(config), kernels(kernels), layer_type(layers), vocabulary_type(vocabulary_type) {
  const int64_t width = config.d_model, words = config.target_vocab_size;
  const Table source = array(arrays, "encoder.embed_tokens.weight", {config.source_vocab_size, width}).table;
  const Table target =
      config.share_all_embeddings ? source : array(arrays, "decoder.embed_tokens.weight", {words, width}).table;
  encoder =
      stack(arrays, "encoder", source, config.encoder_layers, config.encoder_ffn_dim, config.max_source_positions);
  decoder =
      stack(arrays, "decoder", target, config.decoder_layers, config.decoder_ffn_dim, config.max_target_positions);
  if (config.two_stream) lengths = floats(arrays, "decoder.embed_length.weight", {config.length_classes, width});
  const Table output = config.share_decoder_embeddings
                           ? target
                           : array(arrays, "decoder.output_projection.weight", {words, width}).table;
  const int64_t padded = round_up(words, kernels.panel);
  const float* bias = nullptr;
  if (config.output_bias) bias = floats(arrays, "decoder.output_projection.bias", {words}, padded);
  vocabulary = pack(output, words, width, vocabulary_type, bias);
  float* canvas = arena_.make<float>(padded);
  std::memcpy(canvas, vocabulary.bias, padded * sizeof(float));
  if (!config.predictable_mask())
    for (int32_t token : {config.bos, config.pad, config.eos, config.mask}) canvas[token] = -INFINITY;
  canvas_bias = canvas;
}

const Array& Model::array(const Arrays& arrays, const std::string& name, std::vector<int64_t> shape) const {
  const auto found = arrays.find(name);
  if (found == arrays.end()) throw std::invalid_argument("Model: tensors must hold " + name + ", which is not there");
  if (found->second.shape != shape)
    throw std::invalid_argument("Model: " + name + " must have shape " + text(shape) + ", got " +
                                text(found->second.shape));
  return found->second;
}

const float* Model::floats(const Arrays& arrays, const std::string& name, std::vector<int64_t> shape, int64_t padded) {
  const Array& from = array(arrays, name, shape);
  int64_t count = 1;
  for (int64_t size : shape) count *= size;
  const int64_t row = shape.size() > 1 ? shape.back() : count;
  float* to = arena_.make<float>(padded > count ? padded : count);
  for (int64_t i = 0; i < count; i++) to[i] = element(from.table, i / row, i);
  for (int64_t i = count; i < padded; i++) to[i] = 0;
  return to;
}

Norm Model::norm(const Arrays& arrays, const std::string& name) {
  return {floats(arrays, name + ".weight", {config.d_model}), floats(arrays, name + ".bias", {config.d_model})};
}

Matrix Model::pack(const Table& weight, int64_t outputs, int64_t inputs, Numeric type, const float* bias) {
  const int64_t padded = round_up(outputs, kernels.panel);
  void* panels = arena_.bytes(kernels.panel_bytes(type, outputs, inputs));
  float* scales = type == Numeric::kInt8 ? arena_.make<float>(padded) : nullptr;
  int32_t* offsets = type == Numeric::kInt8 ? arena_.make<int32_t>(padded) : nullptr;
  kernels.pack(weight, outputs, inputs, type, panels, scales, offsets);
  if (!bias) {
    float* zeros = arena_.make<float>(padded);
    std::memset(zeros, 0, padded * sizeof(float));
    bias = zeros;
  }
  return {type, outputs, inputs, panels, bias, scales, offsets};
}

// The named layers side by side, as one matrix; the first so many have no bias.
Matrix Model::linear(const Arrays& arrays, const std::vector<std::string>& names, int64_t outputs, int64_t inputs,
                     size_t without_bias) {
  const int64_t all = outputs * static_cast<int64_t>(names.size());
  float* bias = arena_.make<float>(round_up(all, kernels.panel));
  std::memset(bias, 0, round_up(all, kernels.panel) * sizeof(float));
  std::vector<Table> tables;
  for (size_t i = 0; i < names.size(); i++) {
    tables.push_back(array(arrays, names[i] + ".weight", {outputs, inputs}).table);
    if (i < without_bias) continue;
    const Table from = array(arrays, names[i] + ".bias", {outputs}).table;
    for (int64_t n = 0; n < outputs; n++) bias[i * outputs + n] = element(from, 0, n);
  }
  if (tables.size() == 1) return pack(tables[0], all, inputs, layer_type, bias);
  bool alike = true;
  for (const Table& table : tables) alike &= table.type == tables[0].type;
  const Numeric type = alike ? tables[0].type : Numeric::kFloat32;
  const size_t part = outputs * inputs * bytes_of(type);
  std::vector<char> joined(part * tables.size());
  std::vector<float> scales;
  for (size_t i = 0; i < tables.size(); i++) {
    if (alike)
      std::memcpy(joined.data() + i * part, tables[i].data, part);
    else
      for (int64_t at = 0; at < outputs * inputs; at++)
        reinterpret_cast<float*>(joined.data() + i * part)[at] = element(tables[i], at / inputs, at);
    if (type == Numeric::kInt8) scales.insert(scales.end(), tables[i].scales, tables[i].scales + outputs);
  }
  return pack({type, joined.data(), scales.data()}, all, inputs, layer_type, bias);
}

Attention Model::attention(const Arrays& arrays, const std::string& name) {
  const int64_t width = config.d_model;
  return {linear(arrays, {name + ".q_proj"}, width, width),
          linear(arrays, {name + ".k_proj", name + ".v_proj"}, width, width),
          linear(arrays, {name + ".out_proj"}, width, width)};
}

Stack Model::stack(const Arrays& arrays, const std::string& side, const Table& tokens, int64_t layers, int64_t ffn,
                   int64_t places) {
  const int64_t width = config.d_model;
  Stack stack;
  stack.tokens = tokens;
  if (config.sinusoidal) {  // all sines, then all cosines
    float* to = arena_.make<float>(places * width);
    const int64_t half = width / 2;
    const double step = std::log(10000.0) / static_cast<double>(half > 1 ? half - 1 : 1);
    for (int64_t place = 0; place < places; place++)
      for (int64_t i = 0; i < half; i++) {
        // In float32, as the tables that models were trained with.
        const float frequency = std::exp(static_cast<float>(i) * static_cast<float>(-step));
        const float angle = static_cast<float>(place + config.position_offset) * frequency;
        to[place * width + i] = std::sin(angle);
        to[place * width + half + i] = std::cos(angle);
      }
    stack.positions = to;
  } else {
    stack.positions = floats(arrays, side + ".embed_positions.weight", {places, width});
  }
  for (int64_t number = 0; number < layers; number++) {
    const std::string name = side + ".layers." + std::to_string(number);
    Layer layer;
    if (side == "decoder" && config.recurrent) {
      layer.recurrence = linear(arrays, {name + ".ssru.in_proj", name + ".ssru.forget_proj"}, width, width, 1);
      layer.self_norm = norm(arrays, name + ".ssru_layer_norm");
    } else {
      layer.self = attention(arrays, name + ".self_attn");
      layer.self_norm = norm(arrays, name + ".self_attn_layer_norm");
    }
    if (side == "decoder") {
      layer.cross = attention(arrays, name + ".encoder_attn");
      layer.cross_norm = norm(arrays, name + ".encoder_attn_layer_norm");
    }
    layer.fc1 = linear(arrays, {name + ".fc1"}, ffn, width);
    layer.fc2 = linear(arrays, {name + ".fc2"}, width, ffn);
    layer.final_norm = norm(arrays, name + ".final_layer_norm");
    stack.layers.push_back(layer);
  }
  if (config.layernorm_embedding) stack.embedding_norm = norm(arrays, side + ".layernorm_embedding");
  if (config.normalize_before) stack.norm = norm(arrays, side + ".layer_norm");
  return stack;
}

}  // namespace janus_fast
