// A model's sizes and weights, packed for the products of one instruction set.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "csrc/engine/buffer.h"
#include "kernels/cpu/engine.h"

namespace janus_fast {

// Those of an instruction set, by default the best that this processor has. Throws std::invalid_argument: `what` says
// for what.
const EngineKernels& engine_kernels(const char* what, const std::string& isa);

inline int64_t bytes_of(Numeric type) { return type == Numeric::kFloat32 ? 4 : type == Numeric::kBFloat16 ? 2 : 1; }

// Sizes and switches: the fields of JanusConfig that decoding needs, under their names.
struct Config {
  int64_t source_vocab_size, target_vocab_size, d_model, encoder_layers, decoder_layers, attention_heads;
  int64_t encoder_ffn_dim, decoder_ffn_dim, max_source_positions, max_target_positions, length_classes;
  Activation activation;
  bool sinusoidal, normalize_before, share_all_embeddings, share_decoder_embeddings, scale_embedding, two_stream,
      permuted;
  bool output_bias, layernorm_embedding;
  bool recurrent;  // decoder_autoreg is ssru
  int64_t position_offset, streams_ahead;
  float layer_norm_eps;
  int32_t bos, pad, eos, unk, mask, decoder_start;
  std::vector<int32_t> suppressed;  // tokens that are never predicted

  // All but activation, sinusoidal and recurrent, which have words for values, and suppressed.
  template <typename Each>
  void each(const Each& each) {
    each("source_vocab_size", source_vocab_size), each("target_vocab_size", target_vocab_size);
    each("d_model", d_model), each("encoder_layers", encoder_layers), each("decoder_layers", decoder_layers);
    each("attention_heads", attention_heads), each("length_classes", length_classes);
    each("encoder_ffn_dim", encoder_ffn_dim), each("decoder_ffn_dim", decoder_ffn_dim);
    each("max_source_positions", max_source_positions), each("max_target_positions", max_target_positions);
    each("normalize_before", normalize_before), each("scale_embedding", scale_embedding);
    each("share_all_embeddings", share_all_embeddings), each("share_decoder_embeddings", share_decoder_embeddings);
    each("two_stream", two_stream), each("permuted", permuted), each("output_bias", output_bias),
        each("position_offset", position_offset), each("streams_ahead", streams_ahead);
    each("layer_norm_eps", layer_norm_eps), each("bos_token_id", bos), each("pad_token_id", pad);
    each("eos_token_id", eos), each("unk_token_id", unk), each("mask_token_id", mask);
    each("decoder_start_token_id", decoder_start), each("layernorm_embedding", layernorm_embedding);
  }

  bool predictable_mask() const { return mask == unk; }
  int64_t head_size() const { return d_model / attention_heads; }
};

// A parameter as it was given: rows of one type, whose memory outlives the model.
struct Array {
  Table table;
  std::vector<int64_t> shape;
};
typedef std::map<std::string, Array> Arrays;

// Memory that lives as long as its owner, on cache lines.
class Arena {
 public:
  void* bytes(size_t count);
  template <typename T>
  T* make(size_t count) {
    return static_cast<T*>(bytes(count * sizeof(T)));
  }

 private:
  struct Free {
    void operator()(void* p) const;
  };
  std::vector<std::unique_ptr<void, Free>> blocks_;
  char* next_ = nullptr;
  size_t left_ = 0;
};

struct Norm {
  const float *weight = nullptr, *bias = nullptr;
};
struct Attention {
  Matrix q, kv, out;  // kv: keys, then values
};
struct Layer {
  Attention self, cross;
  Matrix recurrence;  // instead of self in a recurrent decoder: what enters, then how much stays
  Norm self_norm, cross_norm, final_norm;
  Matrix fc1, fc2;
};
struct Stack {
  Table tokens;
  const float* positions;  // [places, C]
  std::vector<Layer> layers;
  Norm embedding_norm, norm;
};

class Model {
 public:
  // Throws std::invalid_argument when an array lacks or has another shape.
  Model(const Config& config, const Arrays& arrays, Numeric layers, Numeric vocabulary, const EngineKernels& kernels);

  const Config config;
  const EngineKernels& kernels;
  const Numeric layer_type, vocabulary_type;
  Stack encoder, decoder;
  const float* lengths = nullptr;  // [length_classes, C]
  Matrix vocabulary;
  // The vocabulary's bias when canvases are filled: minus infinity keeps bos, pad, eos and mask out.
  const float* canvas_bias;

 private:
  const Array& array(const Arrays& arrays, const std::string& name, std::vector<int64_t> shape) const;
  const float* floats(const Arrays& arrays, const std::string& name, std::vector<int64_t> shape, int64_t padded = 0);
  Norm norm(const Arrays& arrays, const std::string& name);
  Matrix linear(const Arrays& arrays, const std::vector<std::string>& names, int64_t outputs, int64_t inputs,
                size_t without_bias = 0);
  Matrix pack(const Table& weight, int64_t outputs, int64_t inputs, Numeric type, const float* bias);
  Attention attention(const Arrays& arrays, const std::string& name);
  Stack stack(const Arrays& arrays, const std::string& side, const Table& tokens, int64_t layers, int64_t ffn,
              int64_t places);
  Arena arena_;
};

}  // namespace janus_fast
