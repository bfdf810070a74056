// The stages that a pass through the model is made of. Each shares its work out among a team and
// ends when all of it is done.
#pragma once

#include <atomic>
#include <functional>
#include <initializer_list>
#include <memory>
#include <type_traits>

#include "csrc/engine/buffer.h"
#include "csrc/engine/model.h"
#include "csrc/engine/options.h"
#include "csrc/engine/pace.h"
#include "csrc/engine/profile.h"
#include "csrc/engine/shortlist.h"
#include "csrc/engine/team.h"

namespace janus_fast {

// Query rows, sequence after sequence.
struct Queries {
  int64_t rows, sequences;
  const int32_t* offsets;  // [sequences + 1]
  const int32_t* times;    // [rows]: they see keys that are visible from then, or before; null: every key
};

// Keys and values that they see: float rows as a product left them, or heads one after another, [H, rows, D], in the
// type of products: what a decode reads most of are the keys and values of its sources and its past.
struct Keys {
  Numeric type;
  const void *key, *value;
  int64_t row_stride, head_stride;
  const int32_t *offsets, *sequences;                          // sequences: [query sequences]
  const int32_t *visible_from, *visible_until;                 // [keys], where queries have times; until null: for good
  const float *key_scales = nullptr, *value_scales = nullptr;  // int8: [H, rows]
};

// Rows that pass through a stack together.
struct Pass {
  const int32_t *ids, *places;
  int64_t content;          // the first so many rows are keys and values; the others only see them
  Queries all, last;        // the rows of every layer, and of the last one from its queries on
  const int32_t* selected;  // [last.rows]: where those of the last layer are among all; null: they are the same
  const Ids* sources;       // whose encoder output is attended to, in the decoder
  const int32_t* owners;    // [sequences]: which of the sources
  // On request: how much the rows of the last layer look at their sources, [last.rows, longest source], the mean over
  // the first so many heads, or over all.
  float* attention = nullptr;
  int64_t alignment_heads = 0;
};

// Self-attention in one layer: queries, keys and values lie side by side in workspace.wide, [rows, 3 C]; the result
// goes to workspace.attended. Or the recurrence of a decoder that has one: what the product left in workspace.wide,
// [rows, 2 C], is taken, and the result added to workspace.x.
typedef std::function<void(size_t layer, const Queries& queries)> SelfAttention;

// What a worker keeps between calls. Rows of the decoder's input and of its tokens are the caller's.
struct Workspace {
  Buffer<float> x, y, wide, attended, scales, scratch;
  Buffer<float> last, last_scales;  // of the rows that leave the last layer
  Buffer<char> operand, last_operand, second;
  Buffer<float> encoded;
  // Of the steps so far: [decoder layers, keys and values, H, slots, capacity, D], or of a recurrence floats
  // [decoder layers, slots, capacity, C].
  Buffer<char> caches;
  Buffer<float> cache_scales;   // int8: [decoder layers, keys and values, H, slots, capacity]
  Buffer<char> cross;           // of the sources: [decoder layers, keys and values, H, Ns, D]
  Buffer<float> cross_scales;   // int8: [decoder layers, keys and values, H, Ns]
  Buffer<float> states;         // of a pass with a recurrence
  Buffer<int64_t> before, own;  // of each of its rows
  Buffer<int32_t> zeros, endless, places, identity;
  Buffer<float> group_max, group_sum, group_values;
  Buffer<int32_t> group_tokens, best_tokens;
  Buffer<float> best_log_probs, own_logits;
  Shortlist shortlist;               // of a call that has one
  Pace pace;                         // of drafts
  std::unique_ptr<Profile> profile;  // none unless asked for
};

class Forward {
 public:
  Forward(const Model& model, Workspace& workspace, Team& team);

  // Room for passes of so many rows, sequences of so many keys, and so many keys in all.
  void reserve(int64_t rows, int64_t max_keys, int64_t all_keys);
  // Room for the best k tokens of so many rows.
  void reserve_vocabulary(int64_t rows, int64_t k);

  // Sources -> workspace.encoded [Ns, C], and every decoder layer's keys and values of them, workspace.cross. From here
  // on they may become these `words` alone, ascending, of each source; null: any.
  void encode(const Ids& sources, const Ids* words = nullptr);
  // Hidden rows [last.rows, C] that leave the decoder's last layer.
  float* decode(const Pass& pass, const SelfAttention& attend) {
    return run(model.decoder, pass, attend, workspace.x.data());
  }
  // Self-attention over the content rows of the pass itself.
  SelfAttention packed(const int32_t* offsets, const int32_t* sequences, const int32_t* visible_from = nullptr,
                       const int32_t* visible_until = nullptr);
  // The recurrence over the rows of so many sequences of the pass itself.
  SelfAttention recurrence(const int32_t* offsets, int64_t sequences);
  // One of layers that keep their states in `states`, [any, C]; the other arguments are those of RecurrenceCall.
  void recur(const int32_t* offsets, int64_t sequences, const int64_t* from, const int64_t* to, float* states);

  // The best k tokens of rows x that leave the decoder's last layer: workspace.best_tokens, best_log_probs [rows, k].
  // owners: the source of each row.
  // asked (or null): tokens whose log-probabilities are wanted in asked_log_probs; asked_logits is scratch.
  // logits (or null): all of them, [rows, vocabulary].
  void vocabulary(float* x, int64_t rows, const int32_t* owners, const float* bias, int64_t k,
                  const int32_t* asked = nullptr, float* asked_logits = nullptr, float* asked_log_probs = nullptr,
                  float* logits = nullptr);

  // Team::share, as a stage whose time is kept under this name where anybody asks for it.
  template <typename F>
  void share(const char* stage, int64_t tasks, const F& run) {
    if (!profile_) return team.share(tasks, run);
    const int64_t began = ticks();
    std::atomic<int64_t> worked = 0;
    team.share(tasks, [&](int64_t begin, int64_t end, int part) {
      const int64_t part_began = ticks();
      if constexpr (std::is_invocable_v<const F&, int64_t, int64_t, int>)
        run(begin, end, part);
      else
        run(begin, end);
      worked += ticks() - part_began;
    });
    profile_->add(part_, stage, worked, team.size() * (ticks() - began) - worked);
  }

  // Of one part of a piece of work.
  float* scratch(int part) const { return workspace.scratch.data() + part * scratch_; }

  const Model& model;
  Workspace& workspace;
  Team& team;

 private:
  float* run(const Stack& stack, const Pass& pass, const SelfAttention& attend, float* x);
  void embed(const Stack& stack, const Pass& pass, float* x);
  // The operand of the block that begins here: x, normalised where norms stand before the blocks.
  Operand enter(const Norm& norm, float* x, int64_t rows);
  // Where norms stand behind the blocks: x, normalised in place.
  void leave(const Norm& norm, float* x, int64_t rows);
  // Those rows of x -> workspace.last, and of its operand.
  Operand select(const int32_t* selected, int64_t rows, const Operand& operand, const float* x);

  void multiply(const char* stage, std::initializer_list<MultiplyCall> products);
  void add_product(const char* stage, const Operand& x, int64_t rows, const Matrix& weight,
                   float* residual);  // [rows, outputs]
  Operand convert(const float* x, int64_t rows, int64_t channels, Numeric type);
  void attend(const char* stage, const float* query, int64_t query_stride, const Keys& keys, const Queries& queries);
  void align(const float* query, int64_t query_stride, const Keys& keys, const Pass& pass);
  void feed_forward(const Layer& layer, float* x, int64_t rows);
  void cross_keys(const Ids& sources);
  Keys cross(size_t layer, const Ids& sources, const int32_t* owners) const;
  template <typename TK>
  void attend_to(const AttentionKernels<float, TK>& kernels, const char* stage, const float* query,
                 int64_t query_stride, const Keys& keys, const Queries& queries);
  Operand normalise(const Norm& norm, const float* x, int64_t rows, float* output, Numeric type);
  Operand operand(Numeric type, int64_t channels) const;
  const int64_t width_;
  Profile* const profile_;
  const char* part_ = "encoder";
  int64_t scratch_ = 0;  // elements of each part
  Operand current_;      // with norms behind the blocks: x as left by the last block, if there was one
  bool has_current_ = false;
};

}  // namespace janus_fast
