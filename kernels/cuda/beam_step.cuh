// One step of beam search: from the best tokens of each hypothesis to the next hypotheses, the ones that are finished,
// and which keys and values they see.
//
// Idea: a block owns a sentence, so nothing crosses blocks and a step is one launch without a word from the host. A
// candidate's rank is the number of candidates before it, counted over all of them in shared memory: a stable sort in
// one pass. Caches do not move: `slots` says, for each position of a hypothesis, which row of the sentence wrote it;
// the same table leads from a finished hypothesis back through its tokens. Hypotheses that share a row descend from it:
// they are a tree. Numbered in the order of its branches, those that see a row's key are neighbours, and its
// visibility is an interval of these numbers, as attention wants it. Tiles: 128 threads a sentence; a warp reorders 32
// / beams positions of the table at a time, in registers. Bytes: 12 beams K candidates, and for each position and beam
// 4 of the table read and 12 with the intervals written, 16 (step + 1) for each hypothesis that finishes. No FLOPs but
// the sums; beams^2 K^2 comparisons, 4,900 for five beams.
#pragma once

#include "kernels/cuda/collectives.cuh"

namespace janus_fast::cuda {

// Rows lie sentence after sentence, `beams` of each. T = longest + 1 is the most steps there are.
struct BeamStepCall {
  const int64_t* ids;      // [S * beams, K] tokens that may follow
  const float* log_probs;  // [S * beams, K]
  const double* divisors;  // [T]: a hypothesis that ends in step t has its total over divisors[t] for a score
  int64_t sentences, eos;
  int beams, choices, longest;
  int32_t* steps;                         // [S] steps done; T when the sentence is
  float* totals;                          // [S, beams]
  int64_t* tokens;                        // [S, beams] what the rows read next
  int32_t* slots;                         // [S, T, beams]
  int32_t* times;                         // [S, beams] the number of each hypothesis in the order of the tree
  int32_t *visible_from, *visible_until;  // [S, T, beams] which numbers see the key of a row
  int32_t* history_tokens;                // [S, T, beams] what was chosen for each row in each step
  float* history_scores;
  // Finished hypotheses in the order in which they finished: their number [S], tokens without eos [S, beams, T] and how
  // many, scores, and log-probabilities of the tokens and of eos [S, beams, T].
  int32_t *finished_count, *finished_lengths, *finished_tokens;
  double* finished_scores;
  float* finished_token_scores;
  int32_t* remaining;  // [1] sentences that are not done
};

constexpr int kBeamThreads = 128;
constexpr int kMostBeams = 32;

// Hypotheses of a sentence in this step: one at first, then as many as the candidates allow.
__device__ __forceinline__ int beam_width(int beams, int choices, int step) {
  int width = 1;
  for (int i = 0; i < step && width < beams && choices > 1; i++) width = smaller(beams, width * choices);
  return width;
}

__global__ void __launch_bounds__(kBeamThreads, 8) beam_step_kernel(BeamStepCall call) {
  DYNAMIC_SHARED(shared_memory);
  auto* keys = reinterpret_cast<uint32_t*>(shared_memory);  // [beams * K]
  // The best candidates, best first.
  SHARED(int, ranked, 2 * kMostBeams);
  SHARED(int, origin, 2 * kMostBeams);
  SHARED(int, token, 2 * kMostBeams);
  SHARED(float, total, 2 * kMostBeams);
  SHARED(float, score, 2 * kMostBeams);
  SHARED(bool, finishes, 2 * kMostBeams);
  SHARED(int, survivor, kMostBeams);
  SHARED(int, branch, kMostBeams);
  SHARED(int, time, kMostBeams);

  const int64_t sentence = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x), beams = call.beams, steps = call.longest + 1;
  const int step = call.steps[sentence];
  if (step >= steps) return;
  const int64_t first_row = sentence * beams;
  const int width = beam_width(beams, call.choices, step), candidates = width * call.choices;
  const int kept = smaller(2 * beams, candidates), going = smaller(beams, kept);
  const int finished_before = call.finished_count[sentence];

  auto total_of = [&](int candidate) {
    return call.totals[first_row + candidate / call.choices] + call.log_probs[first_row * call.choices + candidate];
  };
  for (int c = thread; c < candidates; c += kBeamThreads) keys[c] = ordered(total_of(c), 0xffffffffu);
  __syncthreads();
  for (int c = thread; c < candidates; c += kBeamThreads) {
    const uint32_t key = keys[c];
    int rank = 0;
    for (int other = 0; other < candidates; other++) rank += keys[other] > key || (keys[other] == key && other < c);
    if (rank < kept) ranked[rank] = c;
  }
  __syncthreads();
  if (thread < kept) {
    const int c = ranked[thread];
    origin[thread] = c / call.choices;
    token[thread] = static_cast<int>(call.ids[first_row * call.choices + c]);
    total[thread] = total_of(c);
    score[thread] = call.log_probs[first_row * call.choices + c];
    const bool finite = total[thread] - total[thread] == 0.0f;
    finishes[thread] = thread < beams && token[thread] == call.eos && finite;
  }
  __syncthreads();

  // Those that go on: the best that do not end; if they are too few, ended ones, which nothing can follow.
  int place = 0, finishing = 0;
  for (int r = 0; r < kept; r++) {
    const bool ends = token[r] == call.eos;
    if (thread < kept && token[thread] == call.eos)
      place += !ends || r < thread;
    else
      place += !ends && r < thread;
    finishing += finishes[r];
  }
  if (thread < kept && place < beams) survivor[place] = thread;
  const int finished_after = smaller(beams, finished_before + finishing);
  const bool done = finished_after == beams || step >= call.longest;

  int32_t* slots = call.slots + sentence * steps * beams;
  int32_t* history_tokens = call.history_tokens + sentence * steps * beams;
  float* history_scores = call.history_scores + sentence * steps * beams;
  int number = finished_before;
  for (int r = 0; r < kept && number < beams; r++) {
    if (!finishes[r]) continue;
    const int64_t to = first_row + number++;
    for (int position = 1 + thread; position <= step; position += kBeamThreads) {
      const int slot = position < step ? slots[position * beams + origin[r]] : origin[r];
      call.finished_tokens[to * steps + position - 1] = history_tokens[(position - 1) * beams + slot];
      call.finished_token_scores[to * steps + position - 1] = history_scores[(position - 1) * beams + slot];
    }
    if (thread == 0) {
      call.finished_token_scores[to * steps + step] = score[r];
      call.finished_lengths[to] = step;
      call.finished_scores[to] = static_cast<double>(total[r]) / call.divisors[step];
    }
  }
  if (thread == 0) {
    call.finished_count[sentence] = finished_after;
    if (done) atomicSub(call.remaining, 1);
  }
  __syncthreads();  // survivors are there, and nobody reads the table, the totals or the number of steps any more
  if (thread == 0) call.steps[sentence] = done ? steps : step + 1;
  if (done) return;

  const int beam = lane() % beams;
  const int parent = beam < going ? origin[survivor[beam]] : beam;
  if (thread < beams) branch[thread] = call.times[first_row + parent] * beams + thread;
  __syncthreads();  // and nobody reads the times any more
  if (thread < beams) {
    int before = 0;
    for (int b = 0; b < beams; b++) before += branch[b] < branch[thread];
    time[thread] = before;
    call.times[first_row + thread] = before;
  }
  __syncthreads();

  // Up to this step a row of the table comes from the parent; the next step's keys will be each hypothesis' own.
  int32_t* visible_from = call.visible_from + sentence * steps * beams;
  int32_t* visible_until = call.visible_until + sentence * steps * beams;
  const int positions = kWarp / beams;  // that a warp reorders at a time
  const int first_lane = lane() / beams * beams;
  for (int first = warp() * positions; first <= step + 1; first += kBeamThreads / kWarp * positions) {
    const int position = first + lane() / beams;
    const bool there = lane() < positions * beams && position <= step + 1;
    const int old = there && position < step ? slots[position * beams + beam] : 0;
    const int moved = __shfl_sync(kAllLanes, old, (first_lane + parent) % kWarp);
    const int slot = position < step ? moved : position == step ? parent : beam;
    int from = beams, until = 0;
    for (int b = 0; b < beams; b++)
      if (__shfl_sync(kAllLanes, slot, (first_lane + b) % kWarp) == beam)
        from = smaller(from, time[b]), until = larger(until, time[b] + 1);
    if (!there) continue;
    slots[position * beams + beam] = slot;
    visible_from[position * beams + beam] = from;
    visible_until[position * beams + beam] = until;
  }
  if (thread < beams) {
    const int r = thread < going ? survivor[thread] : 0;
    const bool exists = thread < going;
    const int chosen = exists ? token[r] : static_cast<int>(call.eos);
    history_tokens[step * beams + thread] = chosen;
    history_scores[step * beams + thread] = exists ? score[r] : -INFINITY;
    call.tokens[first_row + thread] = chosen;
    call.totals[first_row + thread] = chosen == call.eos ? -INFINITY : total[r];
  }
}

}  // namespace janus_fast::cuda
