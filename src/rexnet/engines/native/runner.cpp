#include "runner.h"

#include <unistd.h>

#include <algorithm>

#include "image.h"
#include "team.h"

namespace rexnet {

// Threads and memory of one process: fork copies neither threads nor the state of locks in a useful way, so that a
// child makes a crew of its own.
class Runner::Crew {
 public:
  Crew(const Model& model, int threads)
      : model_(model), threads_(threads), phases_(image_phases(model)), alone_(threads),
        team_(threads, [this](int thread) { work(thread); }) {}

  bool is_of_this_process() const { return process_ == getpid(); }
  size_t bytes() const { return bytes_; }

  void run(const Call& call) {
    const std::unique_lock<std::mutex> lock(team_lock_, std::try_to_lock);
    if (threads_ == 1 || !lock.owns_lock()) {
      run_alone(call, 0, call.batch);
      return;
    }
    // First as many images as keep each thread busy with its own, then all threads on each of the rest.
    const int whole = call.batch / threads_ * threads_;
    if (whole) run_together(call, 0, whole);
    for (int image = whole; image < call.batch; ++image) run_together(call, image, image + 1);
  }

 private:
  void run_together(const Call& call, int first, int last) {
    if (!team_.is_free()) {
      run_alone(call, first, last);
      return;
    }
    call_ = call, first_ = first, last_ = last;
    if (last == first + 1) {
      renew(together_, call, threads_);
    } else {
      for (auto& workspace : alone_) renew(workspace, call, 1);
    }
    phases_.reset();
    team_.run();
  }

  // A thread's part. The last phase ends when all tasks are done, so the caller returns with the results complete.
  void work(int thread) {
    if (last_ == first_ + 1) {
      run_image(model_, *together_, call_, first_, {thread, &phases_});
    } else {
      phases_.run(0, last_ - first_, [&](int task) { run_image(model_, *alone_[thread], call_, first_ + task, {}); });
    }
  }

  void run_alone(const Call& call, int first, int last) {
    std::unique_ptr<Workspace> workspace;
    {
      const std::lock_guard<std::mutex> lock(spare_lock_);
      if (!spare_.empty()) {
        workspace = std::move(spare_.back());
        spare_.pop_back();
      }
    }
    renew(workspace, call, 1);
    for (int image = first; image < last; ++image) run_image(model_, *workspace, call, image, {});
    const std::lock_guard<std::mutex> lock(spare_lock_);
    if (spare_.size() < kept_) {
      spare_.push_back(std::move(workspace));
    } else {
      bytes_ -= workspace->arena.bytes();
    }
  }

  void renew(std::unique_ptr<Workspace>& workspace, const Call& call, int threads) {
    if (workspace && workspace->fits(call.height, call.width)) return;
    if (workspace) bytes_ -= workspace->arena.bytes();
    workspace.reset();
    workspace = std::make_unique<Workspace>(model_, call.height, call.width, threads);
    bytes_ += workspace->arena.bytes();
  }

  const Model& model_;
  const int threads_;
  // As many as may run at once, so that calls from several threads do not make new ones each time.
  const size_t kept_ = std::max(unsigned(threads_), std::thread::hardware_concurrency());
  const pid_t process_ = getpid();
  std::atomic<size_t> bytes_{0};
  std::mutex spare_lock_;
  std::vector<std::unique_ptr<Workspace>> spare_;  // of calls beside the team's
  std::mutex team_lock_;                           // held by the call that the team works on
  // What the team's threads read; it changes only when the team is free.
  Call call_{};  // a copy: a thread may look at it for a moment after the call has returned
  int first_ = 0, last_ = 0;  // images
  Phases phases_;
  std::unique_ptr<Workspace> together_;
  std::vector<std::unique_ptr<Workspace>> alone_;
  Team team_;
};

Runner::Runner(const rexnet_network& network, const Kernels& kernels, int threads)
    : model_(network, kernels), threads_(threads) {}

Runner::~Runner() {
  Crew* crew = crew_;
  if (crew && crew->is_of_this_process()) delete crew;
}

void Runner::run(const Call& call) {
  if (call.batch > 0) crew().run(call);
}

size_t Runner::bytes() const {
  const Crew* crew = crew_;
  return model_.arena.bytes() + (crew ? crew->bytes() : 0);
}

Runner::Crew& Runner::crew() {
  Crew* current = crew_;
  if (current && current->is_of_this_process()) return *current;
  // The parent's crew stays as it is: its threads do not exist here, and its locks may be held for ever.
  auto mine = std::make_unique<Crew>(model_, threads_);
  return crew_.compare_exchange_strong(current, mine.get()) ? *mine.release() : *current;
}

}  // namespace rexnet
