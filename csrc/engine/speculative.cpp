#include "csrc/engine/speculative.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "csrc/engine/greedy.h"

namespace janus_fast {
namespace {

constexpr int64_t kRecent = 2;  // words by which an output finds its place in a text that it may copy

enum Drafter { kModel, kText };  // the model itself; a text that may be copied

// Sentences that are not done. Between two passes of one there is its next draft, or none. The model drafts by masks,
// in passes of their own, or by streams ahead, in the passes that check.
class Speculation : public Greedy {
 public:
  Speculation(const Model& model, Workspace& workspace, const Ids& sources, const SpeculativeOptions& options,
              const Ids* prefixes, const Ids* drafts)
      : Greedy(model, options, prefixes, sources.count),
        decoder(model, workspace, sources, sources.count),
        options_(options),
        workspace_(workspace),
        sources_(sources),
        drafts_(drafts),
        streams_(options.drafter == "model" ? std::min(options.draft_length, model.config.streams_ahead) : 0),
        masks_allowed_(options.drafter == "model" && model.config.streams_ahead == 0) {
    for (int32_t s = 0; s < sources.count; s++) active_.push_back({{s, {}, {}}, {}, {}, {}});
  }

  StepDecoder decoder;

  bool done() const { return active_.empty(); }
  // Rows of the largest pass that may come.
  int64_t most_rows() const {
    const int64_t drafted = std::min(options_.draft_length, continuations.longest);
    return sources_.count * std::max((1 + config_.two_stream) * (drafted + 2), (streams_ + 1) * (streams_ + 2));
  }
  int64_t rows() const { return static_cast<int64_t>(active_.size()) * each(); }

  // What the next pass feeds: of each sentence the last word and its draft; or the last word and masks.
  void prepare() {
    int64_t room = continuations.longest, longest = 0;
    for (const Sentence& sentence : active_) room = std::min(room, continuations.longest - sentence.count());
    masks_ = 0;
    if (!masked_) propose(room);  // else drafts are there
    bool forced = false;
    for (Sentence& sentence : active_) {
      forced |= force(sentence);
      cut(sentence.draft, room);
      longest = std::max(longest, static_cast<int64_t>(sentence.draft.size()));
    }
    drafted_ = longest;
    if (drafted_ > 0) masks_ = 0;
    if (forced) choices_.clear(), ahead_ = 0, first_of_choice_ = false;
    masked_ = masks_ > 0;
    decoder.tokens.clear(), decoder.owners.clear(), decoder.begins.clear();
    pasts_.clear();
    for (Sentence& sentence : active_) {
      const int64_t count = sentence.count();
      decoder.owners.push_back(sentence.number);
      decoder.begins.push_back(static_cast<int32_t>(count));
      decoder.tokens.push_back(count ? sentence.words.back() : config_.decoder_start);
      sentence.words.insert(sentence.words.end(), sentence.draft.begin(), sentence.draft.end());
      if (options_.return_history) sentence.history.push_back(sentence.words);
      sentence.words.resize(count + drafted_, config_.eos);  // shorter drafts have rows of no use
      decoder.tokens.insert(decoder.tokens.end(), sentence.words.begin() + count, sentence.words.end());
      for (int64_t i = 0; i < each(); i++)
        pasts_.push_back({sentence.words.data(), count + std::min(i / (1 + ahead_), drafted_), sentence.number});
    }
    decoder.prepare(masks_, 0, ahead_);
    continuations.ask(pasts_);
    for (Sentence& sentence : active_) sentence.words.resize(sentence.count() - drafted_);
  }

  // Takes of each draft what the model says itself, and what it says next; or the one word, and a draft of more.
  void absorb() {
    continuations.filter(workspace_);
    kept_.clear();
    for (size_t i = 0; i < active_.size(); i++) {
      Sentence& sentence = active_[i];
      const int64_t before = sentence.count();
      int64_t row = static_cast<int64_t>(i) * each();
      sentence.passes++;
      bool going = accept(sentence, row);
      const auto& draft = sentence.draft;
      for (size_t j = 0; going && j < draft.size() && sentence.words.back() == draft[j]; j++)
        going = accept(sentence, row += 1 + ahead_);
      gained_ += sentence.count() - before + !going;
      sentence.draft.clear();
      if (!going) {
        results[sentence.number].back().history = std::move(sentence.history);
        continue;
      }
      fill(sentence, row + 1, std::max(ahead_, masks_ - 1));
      kept_.push_back(static_cast<int32_t>(i));
    }
    for (size_t i = 0; i < kept_.size(); i++)
      if (kept_[i] != static_cast<int32_t>(i)) active_[i] = std::move(active_[kept_[i]]);
    active_.resize(kept_.size());
    decoder.keep(kept_);
    if (!masked_ || active_.empty()) {
      const std::chrono::duration<double, std::nano> time = Clock::now() - started_;
      for (const auto& [kind, length] : choices_) workspace_.pace.record(kind, length, gained_, time.count());
    }
  }

 private:
  typedef std::chrono::steady_clock Clock;
  struct Sentence : Output {
    std::vector<int32_t> draft, copy;
    std::vector<std::vector<int32_t>> history;
  };
  typedef std::pair<Pace::Kind, int64_t> Choice;

  // Rows of a sentence that predict in this pass: those of the last word and its draft, each with its streams ahead, or
  // of masks but for the first.
  int64_t each() const { return (drafted_ + 1) * (1 + ahead_) + std::max<int64_t>(0, masks_ - 1); }

  static void cut(std::vector<int32_t>& draft, int64_t length) {
    if (static_cast<int64_t>(draft.size()) > length) draft.resize(std::max<int64_t>(length, 0));
  }

  // Drafts for the next pass, copied ones before those that streams ahead have left; or who drafts in it.
  void propose(int64_t room) {
    const int64_t before = ahead_;
    started_ = Clock::now();
    gained_ = ahead_ = 0;
    choices_.clear();
    bool text = false;
    for (Sentence& sentence : active_) text |= look_up(sentence);
    if (text) choices_.push_back(choose(kText, options_.draft_length));
    int64_t length = text ? choices_[0].second : 0;
    if (length > 0) {
      for (Sentence& sentence : active_)
        if (!sentence.copy.empty()) sentence.draft.swap(sentence.copy);
      first_of_choice_ = false;
    } else if (masks_allowed_) {
      choices_.push_back(choose(kModel, options_.draft_length));
      if (choices_.back().second > 0) masks_ = std::min(choices_.back().second + 1, room);
    } else if (streams_ > 0) {
      // A pass with more streams than the one before has less to check than those that follow. So it says nothing of
      // the choice, which the next one keeps.
      if (!first_of_choice_) chosen_ = choose(kModel, streams_);
      length = ahead_ = chosen_.second;
      first_of_choice_ = before < ahead_;
      if (!first_of_choice_) choices_.push_back(chosen_);
    }
    for (Sentence& sentence : active_) cut(sentence.draft, length);
  }

  Choice choose(Drafter drafter, int64_t most) {
    const auto kind = Pace::kind(drafter, most, static_cast<int64_t>(active_.size()));
    return {kind, options_.adaptive_drafts ? workspace_.pace.choose(kind) : most};
  }

  // What follows the last words of an output in what it was said to become, or in its source.
  bool look_up(Sentence& sentence) {
    sentence.copy.clear();
    const int32_t s = sentence.number;
    if (drafts_ && drafts_->length(s) > 0) {
      const int32_t* text = drafts_->ids + drafts_->offsets[s];
      if (follow(sentence, text, drafts_->length(s), 1)) return true;
    }
    if (options_.drafter == "source")
      return follow(sentence, sources_.ids + sources_.offsets[s], sources_.length(s), kRecent);
    return false;
  }

  // By the most words up to kRecent, and at least so many, that occur there; of several places the first that lies
  // not before the output's own length, or the last.
  bool follow(Sentence& sentence, const int32_t* text, int64_t length, int64_t least) {
    const int64_t count = sentence.count();
    if (count == 0) {
      if (least <= 1) sentence.copy.assign(text, text + std::min(length, options_.draft_length));
      return !sentence.copy.empty();
    }
    for (int64_t recent = std::min(count, kRecent); recent >= least; recent--) {
      int64_t found = -1;
      for (int64_t end = recent; end < length; end++) {
        if (!std::equal(text + end - recent, text + end, sentence.words.data() + count - recent)) continue;
        found = end;
        if (end >= count) break;
      }
      if (found < 0) continue;
      sentence.copy.assign(text + found, text + std::min(length, found + options_.draft_length));
      return true;
    }
    return false;
  }

  // What an output must begin with is a draft that is right.
  bool force(Sentence& sentence) {
    const int64_t length = prefix_length(sentence), count = sentence.count();
    if (count >= length) return false;
    const int32_t* words = prefix(sentence);
    sentence.draft.assign(words + count, words + std::min(length, count + options_.draft_length));
    return true;
  }

  // So many rows from this one on stand for what follows the word that was just accepted, as long as it is likely
  // enough that all of it is right.
  void fill(Sentence& sentence, int64_t row, int64_t rows) {
    double likely = 0;
    const double least = std::log(options_.draft_threshold);
    for (int64_t i = 0; i < rows; i++) {
      const int64_t at = (row + i) * continuations.width;
      likely += continuations.log_probs[at];
      if (!(likely >= least)) break;
      sentence.draft.push_back(continuations.ids[at]);
      if (sentence.draft.back() == config_.eos) break;
    }
  }

  const SpeculativeOptions& options_;
  Workspace& workspace_;
  const Ids& sources_;
  const Ids* drafts_;
  const int64_t streams_;  // of the model that may draft
  const bool masks_allowed_;
  std::vector<Sentence> active_;
  std::vector<int32_t> kept_;
  std::vector<Past> pasts_;
  int64_t drafted_ = 0, masks_ = 0, ahead_ = 0, gained_ = 0;
  bool masked_ = false;           // the last pass had masks
  bool first_of_choice_ = false;  // the last pass had more streams ahead than that before it
  Choice chosen_;                 // how many, then
  std::vector<Choice> choices_;   // what this cycle's time says something of
  Clock::time_point started_;
};

}  // namespace

Hypotheses speculative(const Model& model, Workspace& workspace, Team& team, const Ids& sources,
                       const SpeculativeOptions& options, const Ids* prefixes, const Ids* drafts) {
  Speculation speculation(model, workspace, sources, options, prefixes, drafts);
  Forward forward(model, workspace, team);
  forward.encode(sources, options.words);
  forward.reserve(speculation.most_rows(), sources.longest(), sources.size());
  while (!speculation.done()) {
    speculation.prepare();
    forward.reserve_vocabulary(speculation.rows(), speculation.continuations.k);
    float* hidden = speculation.decoder.step(forward);
    speculation.continuations.look_up(forward, hidden);
    speculation.absorb();
  }
  return std::move(speculation.results);
}

}  // namespace janus_fast
