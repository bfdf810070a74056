// Where the time of decodes goes, stage by stage; kept on request alone (`python -m benchmarks decode --profile`).
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/cpu/engine.h"

namespace janus_fast {

// Of a team's threads together.
class Profile {
 public:
  struct Time {
    double worked = 0, waited = 0;  // the rest of the time that the stage took, once for each thread
  };

  // Of a stage of the encoder or decoder, in ticks. Names are literals.
  void add(std::string_view part, std::string_view stage, int64_t worked, int64_t waited) {
    Time& time = times_[{part, stage}];
    time.worked += static_cast<double>(worked), time.waited += static_cast<double>(waited);
  }

  // Adds the seconds of each stage to those of other teams.
  void read(std::map<std::string, Time>& all) const {
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - began_;
    const double tick = seconds.count() / static_cast<double>(ticks() - first_);
    for (const auto& [name, time] : times_) {
      Time& sum = all[std::string(name.first) + ": " + std::string(name.second)];
      sum.worked += time.worked * tick, sum.waited += time.waited * tick;
    }
  }

 private:
  std::map<std::pair<std::string_view, std::string_view>, Time> times_;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  int64_t first_ = ticks();
};

}  // namespace janus_fast
