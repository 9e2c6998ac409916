#include "team.h"

#include <system_error>

namespace rexnet {

Team::Team(int threads, std::function<void(int)> work) : work_(std::move(work)) {
  try {
    for (int thread = 1; thread < threads; ++thread) threads_.emplace_back([this, thread] { live(thread); });
  } catch (const std::system_error&) {
    // The system starts no more threads; those that run are enough, since a call needs only the caller's.
  }
}

Team::~Team() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

bool Team::is_free() {
  for (int turns = 0; inside_ > 0 && turns < kTurns; ++turns) pause();
  return inside_ == 0;
}

void Team::run() {
  open_ = true;
  ++call_;
  if (asleep_ > 0) {
    const std::lock_guard<std::mutex> lock(mutex_);
    wake_.notify_all();
  }
  work_(0);
  open_ = false;
}

// A thread counts itself in before it looks whether the team is open, and `run` closes the team before `is_free` looks
// at the count: in the one order that all threads see, one of them sees the other.
void Team::live(int thread) {
  uint32_t seen = 0;
  for (;;) {
    for (int turns = 0; call_ == seen && !stop_ && turns < kTurns; ++turns) pause();
    if (call_ == seen) {
      std::unique_lock<std::mutex> lock(mutex_);
      ++asleep_;
      wake_.wait(lock, [&] { return call_ != seen || stop_; });
      --asleep_;
    }
    if (stop_) return;
    seen = call_;
    ++inside_;
    if (open_) work_(thread);
    --inside_;
  }
}

}  // namespace rexnet
