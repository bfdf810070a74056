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

#include "kernels/beam_step.h"
#include "kernels/cuda/collectives.cuh"

namespace janus_fast::cuda {

constexpr int kBeamThreads = 128;

__global__ void __launch_bounds__(kBeamThreads, 8) beam_step_kernel(BeamStepCall call) {
  DYNAMIC_SHARED(shared_memory);
  auto* keys = reinterpret_cast<uint32_t*>(shared_memory);  // [beams * K]
  // The best candidates, best first.
  SHARED(int, ranked, 2 * kMostBeams);
  SHARED(int, origin, 2 * kMostBeams);
  SHARED(int64_t, token, 2 * kMostBeams);
  SHARED(float, total, 2 * kMostBeams);
  SHARED(float, score, 2 * kMostBeams);
  SHARED(bool, finishes, 2 * kMostBeams);
  SHARED(int, survivor, kMostBeams);
  SHARED(int, branch, kMostBeams);
  SHARED(int, time, kMostBeams);

  const int64_t sentence = blockIdx.x;
  const int thread = static_cast<int>(threadIdx.x), steps = static_cast<int>(call.most_steps);
  const int beams = static_cast<int>(call.beams), choices = static_cast<int>(call.choices);
  const int step = call.steps[sentence];
  if (step < 0 || step >= steps) return;  // a state out of range: it cannot complain, but stays within its buffers
  const int64_t first_row = sentence * beams;
  const int candidates = beams * choices, kept = smaller(2 * beams, candidates);
  const int finished_before = smaller(larger(call.finished_count[sentence], 0), beams);

  auto total_of = [&](int candidate) {
    return call.totals[first_row + candidate / choices] + call.log_probs[first_row * choices + candidate];
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
    origin[thread] = c / choices;
    token[thread] = call.ids[first_row * choices + c];
    total[thread] = total_of(c);
    score[thread] = call.log_probs[first_row * choices + c];
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
  const bool broken = total[0] != total[0];  // NaN comes before all numbers: the sentence has no output
  const int finished_after = broken ? 0 : finished_before + finishing;
  const bool done = broken || finished_after >= beams || step + 1 == steps;

  int32_t* slots = call.slots + sentence * steps * beams;
  int32_t* history_tokens = call.history_tokens + sentence * steps * beams;
  float* history_scores = call.history_scores + sentence * steps * beams;
  int number = finished_before;
  for (int r = 0; r < kept && number < finished_after; r++) {
    if (!finishes[r]) continue;
    const int64_t to = 2 * first_row + number++;
    for (int position = 1 + thread; position <= step; position += kBeamThreads) {
      const int ancestor = position < step ? slots[position * beams + origin[r]] : origin[r];
      const int slot = smaller(larger(ancestor, 0), beams - 1);
      call.finished_tokens[to * steps + position - 1] = history_tokens[(position - 1) * beams + slot];
      call.finished_scores[to * steps + position - 1] = history_scores[(position - 1) * beams + slot];
    }
    if (thread == 0) {
      call.finished_scores[to * steps + step] = score[r];
      call.finished_lengths[to] = step;
      call.finished_totals[to] = total[r];
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
  const int parent = origin[survivor[beam]];
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
    const int r = survivor[thread];
    history_tokens[step * beams + thread] = static_cast<int>(token[r]);
    history_scores[step * beams + thread] = score[r];
    call.tokens[first_row + thread] = token[r];
    call.totals[first_row + thread] = token[r] == call.eos ? -INFINITY : total[r];
  }
}

}  // namespace janus_fast::cuda
