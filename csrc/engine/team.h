// Threads that share out pieces of work. One thread, the caller's, runs a decode; `share` splits a piece of it into
// parts, one a thread. The others stand by between pieces, so that a piece costs two cache lines, not a wake-up. Nobody
// waits for a thread that is not there: whatever part its thread has not begun when the caller is through, the caller
// does.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

namespace janus_fast {

constexpr int kMostThreads = 1024;  // as engine.MOST_THREADS

// Throws std::invalid_argument when there cannot be so many threads, or teams of them.
void require_threads(const std::string& argument, int count);

// Threads that the system did not start: OSError in Python.
struct NotStarted : std::runtime_error {
  NotStarted(const std::string& arguments, const std::string& got, int64_t started, const std::string& reason)
      : std::runtime_error(arguments + " must be as many as the system can start, got " + got + ": it started " +
                           std::to_string(started) + " beside the caller's (" + reason + ")"),
        started(started),
        reason(reason) {}
  const int64_t started;
  const std::string reason;
};

// How many forks lie between this process and the one that loaded the library. A child of fork has the memory of all
// threads and none of them but the one that forked: locks may be held for ever, and there is nobody to join.
int64_t forks();

// What is said in a child that a signal's handler made in the middle of a call.
inline constexpr char kForked[] = "Translator: a signal's handler must not fork and return";

class Team {
 public:
  // Throws NotStarted, and leaves no thread behind, when the system refuses one.
  explicit Team(int threads, const std::string& argument = "threads");
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(helpers_.size()) + 1; }

  // Calls run(begin, end), or run(begin, end, part), on parts of [0, tasks), at most one a thread; returns when all are
  // done, and what they wrote is then visible. Throws what any of them threw first. Two parts may run one after the
  // other on the same thread. By one thread at a time, and not from within a part.
  template <typename F>
  void share(int64_t tasks, const F& run) {
    const Call call = [](const void* run, int64_t begin, int64_t end, int part) {
      if constexpr (std::is_invocable_v<const F&, int64_t, int64_t, int>)
        (*static_cast<const F*>(run))(begin, end, part);
      else
        (*static_cast<const F*>(run))(begin, end);
    };
    if (tasks > 1 && !helpers_.empty())
      divide({call, &run, tasks, static_cast<int>(std::min<int64_t>(tasks, size()))});
    else if (tasks > 0)
      call(&run, 0, tasks, 0);
  }

  // Called between pieces, now and then; what it throws ends the decode.
  std::function<void()> look;
  void look_around();

 private:
  typedef void (*Call)(const void* run, int64_t begin, int64_t end, int part);
  struct Piece {
    Call call;
    const void* run;
    int64_t tasks;
    int parts;
  };
  struct alignas(64) Helper {
    std::atomic<uint64_t> state{0};  // 2 n: has begun its part of piece n; 2 n + 1: that part is done, by whomever
    std::thread thread;
  };

  void close();
  void work(int index, Helper& own);
  void wake();
  void divide(const Piece& piece);
  void run_part(int part) noexcept;
  void await(const std::atomic<uint64_t>& state, uint64_t value);

  std::vector<std::unique_ptr<Helper>> helpers_;
  std::mutex mutex_;
  std::condition_variable posted_wake_, done_wake_;
  std::exception_ptr error_;  // guarded by mutex_ while parts run
  uint64_t pieces_ = 0;
  // Of waking helpers: not before, how long it waits after the next time, and what came of the last one, in parts.
  std::chrono::steady_clock::time_point next_wake_;
  std::chrono::microseconds pause_{0};
  int64_t shared_out_ = 0, taken_over_ = 0;
  // What helpers read at every piece, in a cache line that is written once a piece, and in one that hardly ever is.
  alignas(64) Piece piece_ = {};
  std::atomic<uint64_t> posted_{0};           // the piece's number and how many parts it has
  alignas(64) std::atomic<int> sleeping_{0};  // helpers
  std::atomic<bool> waiting_{false};          // the caller sleeps
};

}  // namespace janus_fast
