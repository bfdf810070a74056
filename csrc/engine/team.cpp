#include "csrc/engine/team.h"

#include <pthread.h>

#include <string>
#include <system_error>

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace janus_fast {
namespace {

constexpr int kSpins = 4000;  // some 50 us: longer than the pieces between barriers, shorter than a time slice

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
  threads_.reserve(threads - 1);
  try {
    for (int index = 1; index < threads; index++) threads_.emplace_back([this, index] { work(index); });
  } catch (const std::system_error& error) {
    close();
    throw NotStarted(argument, std::to_string(threads), static_cast<int64_t>(threads_.size()), error.code().message());
  } catch (...) {
    close();
    throw;
  }
}

Team::~Team() { close(); }

void Team::close() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    closing_ = true;
  }
  wake_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void Team::look_around() {
  const int64_t before = forks();
  std::exception_ptr error;
  try {
    look();
  } catch (...) {
    error = std::current_exception();
  }
  if (forks() != before) {  // the handler of a signal did it, and went on in the child: no lock, as nobody is there
    error_ = error ? error : std::make_exception_ptr(std::runtime_error(kForked));
    alone_ = true;
  } else if (error) {
    fail(error);
  }
}

void Team::run(const std::function<void(Member&)>& program) {
  failed_ = false;
  error_ = nullptr;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    program_ = &program;
    runs_++;
  }
  wake_.notify_all();
  execute(0);
  if (error_) std::rethrow_exception(error_);
}

void Team::work(int index) {
  for (int64_t done = 0;; done++) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      wake_.wait(lock, [&] { return closing_ || runs_ > done; });
      if (closing_) return;
    }
    execute(index);
  }
}

void Team::execute(int index) noexcept {  // a program throws inside `share` and `once` alone
  Member member(*this, index);
  try {
    (*program_)(member);
  } catch (const Member::Left&) {
  }
  wait();  // nobody uses the program, or what it refers to, any more
}

void Team::fail(std::exception_ptr error) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!error_) error_ = error;
  failed_.store(true, std::memory_order_relaxed);  // before this member arrives at a barrier
}

bool Team::wait() {
  if (alone_) return true;
  const uint32_t phase = phase_.load();
  if (arrived_.fetch_add(1) + 1 == size()) {
    arrived_.store(0);
    const bool leaving = leaving_ = failed_.load(std::memory_order_relaxed);
    phase_.store(phase + 1);
    if (sleeping_.load() > 0) {
      std::lock_guard<std::mutex> lock(sleep_mutex_);
      sleep_.notify_all();
    }
    return leaving;
  }
  for (int spin = 0; spin < kSpins; spin++) {
    if (phase_.load(std::memory_order_acquire) != phase) return leaving_;
    pause();
  }
  std::unique_lock<std::mutex> lock(sleep_mutex_);
  sleeping_.fetch_add(1);
  sleep_.wait(lock, [&] { return phase_.load() != phase; });
  sleeping_.fetch_sub(1);
  return leaving_;
}

}  // namespace janus_fast
