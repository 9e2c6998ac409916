// A network that is ready to run: calls from any thread, several at once, also in a child process after fork.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "model.h"

namespace rexnet {

// Images (batch, channels, height, width) and where their results go.
struct Call {
  const float* images;
  int batch, height, width;
  float* results;            // (batch, outputs), or null
  std::vector<int> blocks;   // blocks whose maps are wanted
  std::vector<float*> maps;  // (batch, channels, height, width) each
};

class Runner {
 public:
  Runner(const rexnet_network& network, const Kernels& kernels, int threads);
  ~Runner();

  void run(const Call& call);
  const Model& model() const { return model_; }
  // Memory for weights and activations that is held now.
  size_t bytes() const;

 private:
  class Crew;

  Crew& crew();

  const Model model_;
  const int threads_;
  std::atomic<Crew*> crew_{nullptr};
};

}  // namespace rexnet
