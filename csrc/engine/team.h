// Threads that run one program together. Every member executes the same function; `share` splits a piece of work among
// them and waits for all, `once` lets the first do it alone. A decode is one such program from begin to end, so that a
// piece of work costs a barrier, not a wake-up.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace janus_fast {

class Member;

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

  int size() const { return static_cast<int>(threads_.size()) + 1; }
  // Runs program(member) on all threads, the caller's among them, and throws what any of them threw first. A program
  // may throw inside `share` and `once` alone.
  void run(const std::function<void(Member&)>& program);
  // Called by the first member now and then, as Member::look has it; what it throws ends the program.
  std::function<void()> look;

 private:
  friend class Member;
  void close();
  void look_around();
  void work(int index);
  void execute(int index) noexcept;
  bool wait();  // until all members are here; whether they are to leave the program, the same for all
  void fail(std::exception_ptr error);

  std::vector<std::thread> threads_;
  const std::function<void(Member&)>* program_ = nullptr;
  std::mutex mutex_;
  std::condition_variable wake_;
  int64_t runs_ = 0;  // guarded by mutex_, as is closing_
  bool closing_ = false;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> phase_{0};
  std::atomic<int> sleeping_{0};
  std::mutex sleep_mutex_;
  std::condition_variable sleep_;
  std::atomic<bool> failed_{false};
  bool leaving_ = false;  // what the last to arrive found of failed_, so that nobody leaves a barrier before the others
  std::exception_ptr error_;
  bool alone_ = false;  // in the child of a fork that `look` made: the other members are not there
};

// One thread's part in a team's program.
class Member {
 public:
  // Calls run(begin, end) on this member's part of [0, tasks); returns when all members have done theirs. What any
  // member wrote before is then visible to all. When one throws, all leave the program.
  template <typename F>
  void share(int64_t tasks, const F& run) {
    const int64_t begin = tasks * index / count, end = tasks * (index + 1) / count;
    if (begin < end) attempt([&] { run(begin, end); });
    wait();
  }
  // The first member calls run(), the others wait.
  template <typename F>
  void once(const F& run) {
    if (index == 0) attempt(run);
    wait();
  }
  // Whether the program is still wanted: if not, all leave it at the next barrier. Takes no barrier of its own.
  void look() {
    if (index == 0 && team_.look) team_.look_around();
  }

  const int index, count;

 private:
  friend class Team;
  struct Left {};  // thrown by the members that leave because another failed
  Member(Team& team, int index) : index(index), count(team.size()), team_(team) {}
  template <typename F>
  void attempt(const F& run) {
    try {
      run();
    } catch (...) {
      team_.fail(std::current_exception());
    }
  }
  void wait() {
    if (team_.wait()) throw Left();
  }
  Team& team_;
};

}  // namespace janus_fast
