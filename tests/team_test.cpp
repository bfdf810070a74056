// A team whose threads are stopped at any point for a while, as a busy machine does. Built and run by test_team.py.
#include "csrc/engine/team.h"

#include <pthread.h>
#include <signal.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <set>

using namespace janus_fast;

namespace {

std::atomic<int64_t> stops{0};
std::atomic<bool> held{false}, holding{false};

void rest(int64_t nanoseconds) {
  const timespec time = {0, nanoseconds};
  nanosleep(&time, nullptr);
}

void stop(int) {  // of the thread that it meets
  stops++;
  rest(3'000'000);
}

void hold(int) {
  holding = true;
  while (held) rest(100'000);
  holding = false;
}

void require(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "team_test: %s\n", what);
  std::exit(1);
}

struct Threads {  // that have run a part
  std::mutex mutex;
  std::set<pthread_t> all;
  void add() {
    std::lock_guard<std::mutex> lock(mutex);
    all.insert(pthread_self());
  }
  void send(int number, pthread_t but) {
    std::lock_guard<std::mutex> lock(mutex);
    for (pthread_t thread : all)
      if (!pthread_equal(thread, but)) pthread_kill(thread, number);
  }
};

// Pieces of all sizes: every task is done once, by the time that `share` returns; what a part throws reaches the
// caller.
void pieces(int threads, int count) {
  Threads known;
  std::atomic<bool> ended{false};
  Team team(threads);
  std::thread stopper([&] {
    while (!ended) {
      known.send(SIGUSR1, pthread_self());
      rest(5'000'000);
    }
  });
  std::mt19937 random(threads);
  for (int piece = 0; piece < count; piece++) {
    const int64_t tasks = random() % (3 * threads + 2), wrong = piece % 17 ? -1 : random() % (tasks + 1);
    std::vector<int> done(tasks), part_of(tasks);  // plain, as what decodes write is
    bool thrown = false;
    try {
      team.share(tasks, [&](int64_t begin, int64_t end, int part) {
        known.add();
        for (int64_t task = begin; task < end; task++) {
          if (task == wrong) throw std::runtime_error("wrong");
          done[task]++, part_of[task] = part;
        }
      });
    } catch (const std::runtime_error&) {
      thrown = true;
    }
    require(thrown == (wrong >= 0 && wrong < tasks), "an error must reach the caller, and nothing else may");
    for (int64_t task = 0; task < tasks; task++) {
      require(thrown ? done[task] <= 1 : done[task] == 1, "a task must be done once");
      require(part_of[task] >= 0 && part_of[task] < threads, "there must be no more parts than threads");
      require(!task || part_of[task] >= part_of[task - 1] || thrown, "parts must lie in order");
    }
    if (piece % 50 == 0) rest(1'000'000);  // longer than helpers stay awake
  }
  ended = true;
  stopper.join();
}

// A helper that does not run holds up nothing that it has not begun.
void absent() {
  Threads known;
  Team team(2);
  const auto run = [&](int64_t, int64_t) {
    known.add();
    rest(1000);
  };
  while (known.all.size() < 2) team.share(2, run);
  rest(20'000'000);  // it sleeps
  held = true;
  known.send(SIGUSR2, pthread_self());
  while (!holding) rest(100'000);
  int64_t done = 0;
  for (int piece = 0; piece < 1000; piece++) team.share(2, [&](int64_t begin, int64_t end) { done += end - begin; });
  require(done == 2000, "the caller must do what nobody else does");
  held = false;
  while (holding) rest(100'000);
  std::atomic<int64_t> together{0};
  team.share(2, [&](int64_t, int64_t) { together++; });
  require(together == 2, "a helper must come back");
}

}  // namespace

int main() {
  struct sigaction action = {};
  action.sa_handler = stop, action.sa_flags = SA_RESTART;
  sigaction(SIGUSR1, &action, nullptr);
  action.sa_handler = hold;
  sigaction(SIGUSR2, &action, nullptr);
  for (int threads : {1, 2, 3, 16}) pieces(threads, 2000);
  require(stops > 0, "nothing was stopped");
  absent();
}
