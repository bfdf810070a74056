#include "csrc/engine/semi_nar.h"

#include <algorithm>

#include "csrc/engine/greedy.h"
#include "csrc/engine/repeats.h"

namespace janus_fast {
namespace {

// Outputs that are not done. First all prefixes are read, then every pass adds a block to every output.
class Blocks : public Greedy {
 public:
  Blocks(const Model& model, Workspace& workspace, const Ids& sources, const SemiAutoregressiveOptions& options,
         const Ids* prefixes)
      : Greedy(model, options, prefixes, sources.count),
        options_(options),
        workspace_(workspace),
        decoder_(model, workspace, sources, sources.count) {
    for (int32_t s = 0; s < sources.count; s++) active_.push_back({s, {}, {}});
  }

  bool done() const { return active_.empty(); }
  // Rows of the decoder and of the vocabulary in the largest pass that may come.
  int64_t most_rows() const { return static_cast<int64_t>(active_.size()) * (2 * most() + 1); }
  int64_t most_predicted() const { return static_cast<int64_t>(active_.size()) * most(); }

  // What the next pass feeds: of each output the next words of its prefix, or the words of its last block, whose keys
  // are still those of masks, and the masks of the next one.
  void prepare() {
    int64_t reading = 0, room = 0;
    for (const Output& output : active_) {
      reading = std::max(reading, std::min(options_.block_length, prefix_length(output) - output.count()));
      room = std::max(room, continuations.longest - output.count());
    }
    reading_ = reading > 0;
    masks_ = reading_ ? 0 : std::min(options_.block_length, room);
    if (masks_ == 1) masks_ = 0;  // it would stand for the word that the query predicts
    fed_ = reading_ ? reading : added_;
    predicted_ = reading_ ? reading : std::max<int64_t>(1, masks_);
    decoder_.tokens.clear(), decoder_.owners.clear(), decoder_.begins.clear();
    pasts_.clear();
    for (const Output& output : active_) {
      const int64_t count = output.count(), begin = reading_ ? count : count - fed_ + 1;
      decoder_.owners.push_back(output.number);
      decoder_.begins.push_back(static_cast<int32_t>(begin));
      for (int64_t place = begin; place < begin + fed_; place++) decoder_.tokens.push_back(token(output, place));
      for (int64_t i = 0; i < predicted_; i++) pasts_.push_back({output.words.data(), count + i, output.number});
    }
    decoder_.prepare(masks_, reading_ ? 0 : 1);
    continuations.ask(pasts_);
  }

  void run(Forward& forward) { continuations.look_up(forward, decoder_.step(forward)); }

  void absorb() {
    continuations.filter(workspace_);
    kept_.clear(), added_ = 1;
    for (size_t i = 0; i < active_.size(); i++) {
      Output& output = active_[i];
      const int64_t before = output.count(), row = static_cast<int64_t>(i) * predicted_;
      const int64_t left =
          reading_ ? prefix_length(output) - before : std::max<int64_t>(1, continuations.longest - before);
      const int64_t words = std::min(predicted_, left);  // less than 1: others still read
      output.passes += words > 0;
      bool going = true;
      for (int64_t j = 0; going && j < words; j++) going = accept(output, row + j);
      if (!going) {
        if (options_.remove_repeats) shorten(results[output.number].back(), prefix_length(output));
        continue;
      }
      if (!reading_) added_ = std::max(added_, output.count() - before);
      kept_.push_back(static_cast<int32_t>(i));
    }
    for (size_t i = 0; i < kept_.size(); i++)
      if (kept_[i] != static_cast<int32_t>(i)) active_[i] = std::move(active_[kept_[i]]);
    active_.resize(kept_.size());
    decoder_.keep(kept_);
  }

 private:
  // Words of a block; the end of an output is predicted even where no word has room.
  int64_t most() const { return std::max<int64_t>(1, std::min(options_.block_length, continuations.longest)); }

  // At this place of an output, or of its prefix; behind both what is of no use.
  int32_t token(const Output& output, int64_t place) const {
    if (place == 0) return config_.decoder_start;
    if (place <= output.count()) return output.words[place - 1];
    return place <= prefix_length(output) ? prefix(output)[place - 1] : config_.eos;
  }

  // Removes what is repeated of an output, and scores it again.
  void shorten(Hypothesis& result, size_t known) const {
    remove_repeats(result, static_cast<int64_t>(known));
    const std::vector<float>& scores = result.token_scores;
    float total = 0;
    for (size_t i = known; i < scores.size(); i++) total += scores[i];
    result.score = total / std::pow(static_cast<double>(scores.size()), options_.length_penalty);
  }

  const SemiAutoregressiveOptions& options_;
  Workspace& workspace_;
  StepDecoder decoder_;
  std::vector<Output> active_;
  std::vector<int32_t> kept_;
  std::vector<Past> pasts_;
  bool reading_ = false;  // the next pass reads prefixes
  int64_t fed_ = 1, masks_ = 0, predicted_ = 1;
  int64_t added_ = 1;  // words that the last pass added to an output, at most; another one feeds known words again
};

}  // namespace

Hypotheses semi_nar(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                    const SemiAutoregressiveOptions& options, const Ids* prefixes) {
  Blocks blocks(model, workspace, sources, options, prefixes);
  Forward forward(model, workspace, team);
  forward.encode(sources, options.words);
  forward.reserve(blocks.most_rows(), sources.longest(), sources.size());
  while (!blocks.done()) {
    blocks.prepare();
    forward.reserve_vocabulary(blocks.most_predicted(), blocks.continuations.k);
    blocks.run(forward);
    blocks.absorb();
  }
  return std::move(blocks.results);
}

}  // namespace janus_fast
