// Threads that work on a call together, without barriers: a thread that the system has interrupted holds up the others
// only if it is inside a task.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace rexnet {

inline void pause() { __builtin_ia32_pause(); }

// The phases of a call, each a number of tasks, which threads claim one by one.
class Phases {
 public:
  explicit Phases(int count) : counters_(count) {}

  // Only while no thread takes part.
  void reset() {
    for (Counter& counter : counters_) counter.claimed = counter.done = 0;
  }

  // Take part in a phase; return when all its tasks are done.
  template <class Task>
  void run(int phase, int tasks, Task&& task) {
    Counter& counter = counters_[phase];
    for (int mine; (mine = counter.claimed.fetch_add(1, std::memory_order_acq_rel)) < tasks;) {
      task(mine);
      counter.done.fetch_add(1, std::memory_order_acq_rel);
    }
    for (int turns = 0; counter.done.load(std::memory_order_acquire) < tasks; ++turns) {
      turns < kTurns ? pause() : std::this_thread::yield();
    }
  }

 private:
  static constexpr int kTurns = 2000;
  struct alignas(64) Counter {  // a cache line each
    std::atomic<int> claimed{0}, done{0};
  };
  std::vector<Counter> counters_;
};

// Threads beside the caller's. They sleep when there is no call.
class Team {
 public:
  // `work(thread)` is each thread's part of a call; the caller is thread 0.
  Team(int threads, std::function<void(int thread)> work);
  ~Team();

  // Whether all threads have left the call before, so that what `work` reads may change. A thread that the system has
  // interrupted may take long: the caller had better work alone.
  bool is_free();
  // Work on a call, when `is_free`; return when the caller's part has ended.
  void run();

 private:
  void live(int thread);

  static constexpr int kTurns = 20000;  // of waiting before sleep: a quarter of a millisecond, for calls in a row
  std::function<void(int)> work_;
  std::atomic<uint32_t> call_{0};
  std::atomic<bool> open_{false}, stop_{false};
  std::atomic<int> inside_{0}, asleep_{0};
  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<std::thread> threads_;
};

}  // namespace rexnet
