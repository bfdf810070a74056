// Threads and memory to decode with, for as many calls at once as there are workers.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "csrc/engine/forward.h"
#include "csrc/engine/team.h"

namespace janus_fast {

struct Worker {
  explicit Worker(int threads) : team(threads) {}
  Workspace workspace;
  Team team;
  std::thread::id user;  // of whom it serves
};

class Workers {
 public:
  Workers(int count, int threads) : process(forks()) {
    try {
      for (int i = 0; i < count; i++) all_.push_back(std::make_unique<Worker>(threads));
    } catch (const NotStarted& error) {
      const int64_t before = static_cast<int64_t>(all_.size()) * (threads - 1);
      throw NotStarted("Translator: intra_threads and inter_threads",
                       std::to_string(threads) + " and " + std::to_string(count), before + error.started, error.reason);
    }
    for (const auto& worker : all_) free_.push_back(worker.get());
  }

  // While none of them is at work.
  template <typename F>
  void each(const F& f) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (free_.size() < all_.size()) throw std::runtime_error("Decoder: profile must be read while nothing is decoded");
    for (const auto& worker : all_) f(*worker);
  }

  const int64_t process;  // forks() of the one that has the threads

 private:
  friend class Lease;
  std::vector<std::unique_ptr<Worker>> all_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable freed_;
  std::vector<Worker*> free_;
};

// A worker of one's own, as soon as one is free. `look`, if there is one, is called while one waits and while it works.
class Lease {
 public:
  Lease(Workers& workers, const std::function<void()>& look) : workers_(workers) {
    std::unique_lock<std::mutex> lock(workers.mutex_);
    while (workers.free_.empty()) {
      for (const auto& worker : workers.all_)
        if (worker->user == std::this_thread::get_id())
          throw std::runtime_error(
              "Translator: a callback or a signal's handler must not use the Translator whose call it interrupts");
      workers.freed_.wait_for(lock, std::chrono::milliseconds(100));
      lock.unlock();
      if (look) look();
      if (workers.process != forks()) throw std::runtime_error(kForked);  // whoever held the lock is not there
      lock.lock();
    }
    worker_ = workers.free_.back();
    workers.free_.pop_back();
    worker_->user = std::this_thread::get_id();
    worker_->team.look = look;
  }
  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;
  ~Lease() {
    worker_->team.look = nullptr;
    if (workers_.process != forks()) return;  // the lock may be held by a thread that is not there
    {
      std::lock_guard<std::mutex> lock(workers_.mutex_);
      worker_->user = {};
      workers_.free_.push_back(worker_);
    }
    workers_.freed_.notify_one();
  }

  Worker& operator*() const { return *worker_; }

 private:
  Workers& workers_;
  Worker* worker_;
};

}  // namespace janus_fast
