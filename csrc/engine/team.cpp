#include "csrc/engine/team.h"

#include <pthread.h>

#include <string>
#include <system_error>
#include <utility>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace janus_fast {
namespace {

constexpr int kSpins = 4000;  // some 50 us: longer than what lies between two pieces, shorter than a time slice
constexpr std::chrono::microseconds kSoonest(100), kLatest(10000);  // from one wake-up to the next
constexpr uint64_t kParts = kMostThreads + 1;                       // posted_: the piece's number * kParts + its parts
constexpr uint64_t kClosing = ~uint64_t{0};

void pause() {
#ifdef __x86_64__
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

std::atomic<int64_t> forked{0};
[[maybe_unused]] const int counting = pthread_atfork(nullptr, nullptr, [] { forked++; });

}  // namespace

int64_t forks() { return forked.load(); }

void require_threads(const std::string& argument, int count) {
  if (count < 1 || count > kMostThreads)
    throw std::invalid_argument(argument + " must be in [1, " + std::to_string(kMostThreads) + "], got " +
                                std::to_string(count));
}

Team::Team(int threads, const std::string& argument) {
  helpers_.reserve(threads - 1);
  try {
    for (int index = 1; index < threads; index++) {
      helpers_.push_back(std::make_unique<Helper>());
      helpers_.back()->thread = std::thread([this, index, own = helpers_.back().get()] { work(index, *own); });
    }
  } catch (const std::system_error& error) {
    helpers_.pop_back();
    close();
    throw NotStarted(argument, std::to_string(threads), static_cast<int64_t>(helpers_.size()), error.code().message());
  } catch (...) {
    close();
    throw;
  }
}

Team::~Team() { close(); }

void Team::close() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    posted_.store(kClosing);
  }
  posted_wake_.notify_all();
  for (auto& helper : helpers_)
    if (helper->thread.joinable()) helper->thread.join();
}

void Team::look_around() {
  if (!look) return;
  const int64_t before = forks();
  look();
  if (forks() != before) throw std::runtime_error(kForked);  // the handler of a signal did it, and went on in the child
}

void Team::run_part(int part) noexcept {
  try {
    const auto [call, run, tasks, parts] = piece_;
    call(run, tasks * part / parts, tasks * (part + 1) / parts, part);
  } catch (...) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = std::current_exception();
  }
}

void Team::divide(const Piece& piece) {
  piece_ = piece;
  const uint64_t number = ++pieces_, begun = 2 * number, done = begun + 1;
  posted_.store(number * kParts + piece.parts);
  if (sleeping_.load() > 0) wake();
  shared_out_ += piece.parts - 1;
  run_part(0);
  for (int part = 1; part < piece.parts; part++) {
    std::atomic<uint64_t>& state = helpers_[part - 1]->state;
    uint64_t found = state.load(std::memory_order_acquire);
    if (found < begun && state.compare_exchange_strong(found, done)) {  // its thread is not there
      taken_over_++;
      run_part(part);
    }
  }
  for (int part = 1; part < piece.parts; part++) await(helpers_[part - 1]->state, done);
  if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Team::await(const std::atomic<uint64_t>& state, uint64_t done) {
  for (int spin = 0; spin < kSpins; spin++) {
    if (state.load(std::memory_order_acquire) == done) return;
    pause();
  }
  std::unique_lock<std::mutex> lock(mutex_);
  waiting_.store(true);
  done_wake_.wait(lock, [&] { return state.load() == done; });
  waiting_.store(false);
}

void Team::work(int index, Helper& own) {
  for (uint64_t seen = 0;;) {
    uint64_t posted = posted_.load(std::memory_order_acquire);
    for (int spin = 0; posted == seen && spin < kSpins; spin++) {
      pause();
      posted = posted_.load(std::memory_order_acquire);
    }
    if (posted == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      sleeping_.fetch_add(1);
      posted_wake_.wait(lock, [&] { return (posted = posted_.load()) != seen; });
      sleeping_.fetch_sub(1);
    }
    if (posted == kClosing) return;
    seen = posted;
    if (index >= static_cast<int>(posted % kParts)) continue;
    const uint64_t begun = posted / kParts * 2;
    uint64_t found = own.state.load(std::memory_order_acquire);
    if (found >= begun || !own.state.compare_exchange_strong(found, begun)) continue;  // the caller has it
    run_part(index);
    own.state.store(begun + 1);
    if (waiting_.load()) {
      std::lock_guard<std::mutex> lock(mutex_);
      done_wake_.notify_one();
    }
  }
}

// Where others want the cores, a helper that is woken may take the caller's, find nothing to do there, and fall asleep
// again, and so at every piece. If little came of the last wake-up, it is twice as long until the next.
void Team::wake() {
  const auto now = std::chrono::steady_clock::now();
  if (now < next_wake_) return;
  pause_ = 2 * taken_over_ > shared_out_ ? std::min(2 * pause_, kLatest) : kSoonest;
  next_wake_ = now + pause_;
  shared_out_ = taken_over_ = 0;
  std::lock_guard<std::mutex> lock(mutex_);
  posted_wake_.notify_all();
}

}  // namespace janus_fast
