#include "image.h"

#include <algorithm>

namespace rexnet {
namespace {

constexpr int kProjections = 4;       // tasks of a thread, so that one that starts late takes fewer
constexpr int kFeatureChannels = 64;  // of a task

class Pass {
 public:
  Pass(const Model& model, Workspace& space, const Call& call, int index, const Part& part)
      : model_(model), kernels_(model.kernels), space_(space), call_(call), index_(index), part_(part),
        mine_(space.scratch[part.thread]),
        image_{call.images + size_t(index) * model.stem.image_channels * call.height * call.width, call.height,
               call.width, space.pitch} {}

  void run() {
    stem();
    int last = int(model_.blocks.size()) - 1;
    if (call_.results == nullptr) last = *std::max_element(call_.blocks.begin(), call_.blocks.end());
    for (int index = 0; index <= last; ++index) {
      block(index);
      features(index);
    }
    if (call_.results) head();
  }

 private:
  template <class Task>
  void each(int tasks, Task&& task) {
    if (part_.phases) return part_.phases->run(phase_++, tasks, task);
    for (int index = 0; index < tasks; ++index) task(index);
  }

  void stem() {
    if (model_.stem_is_part_of_block()) return;
    each((space_.stem_height + kStemRows - 1) / kStemRows, [&](int task) {
      const int first = task * kStemRows, last = std::min(first + kStemRows, space_.stem_height);
      kernels_.convolve_stem(model_.stem, image_, mine_.planes, space_.stem_width, first, last, space_.maps[0],
                             space_.bytes[0]);
    });
  }

  void block(int index) {
    const Block& block = model_.blocks[index];
    const BlockShape& shape = space_.shapes[index];
    const bool with_stem = index == 0 && model_.stem_is_part_of_block();
    const int from = index % 2, to = 1 - from;
    const Task task{space_.maps[from], space_.bytes[from], space_.expanded,
                    space_.row_sums,   space_.maps[to],    space_.bytes[to],
                    mine_.area,        with_stem ? &model_.stem : nullptr,
                    &image_,           mine_.planes};
    const int strips = shape.strips, pixels = shape.out_height * shape.out_width;
    each(kernels_.panels(block.expanded) * strips, [&](int number) {
      kernels_.expand_and_filter(block, shape, task, number / strips, number % strips);
    });
    // Each thread computes the gates itself, which takes less time than to wait for another one.
    bool have_gates = false;
    const int rows = kernels_.rows, tiles = (pixels + rows - 1) / rows;
    const int tasks = part_.phases ? std::min(tiles, kProjections * space_.threads) : 1;
    each(tasks, [&](int number) {
      if (block.has_gate && !have_gates) {
        gates(block, shape);
        have_gates = true;
      }
      const auto begin = [&](int task) { return int(int64_t(tiles) * task / tasks) * rows; };
      const int first = begin(number), last = std::min(begin(number + 1), pixels);
      kernels_.project(block, task, block.has_gate ? mine_.gates : nullptr, first, last);
    });
  }

  // Squeeze-excitation. Rows are added in order, so that the sum does not depend on strips or threads.
  void gates(const Block& block, const BlockShape& shape) {
    std::fill(mine_.means, mine_.means + block.expanded, 0.0f);
    for (int row = 0; row < shape.out_height; ++row) {
      const float* sums = space_.row_sums + size_t(row) * block.expanded;
      for (int channel = 0; channel < block.expanded; ++channel) mine_.means[channel] += sums[channel];
    }
    const float fraction = 1.0f / (float(shape.out_height) * float(shape.out_width));
    for (int channel = 0; channel < block.expanded; ++channel) mine_.means[channel] *= fraction;
    multiply_whole(block.squeeze, mine_.means, mine_.hidden);
    multiply_whole(block.excite, mine_.hidden, mine_.gates);
  }

  void multiply_whole(const Convolution& convolution, const float* in, float* out) {
    kernels_.multiply_vector(convolution, in, mine_.vector, out, 0, kernels_.panels(convolution.outputs));
  }

  void features(int index) {
    const BlockShape& shape = space_.shapes[index];
    const int channels = model_.block_channels[index], padded = model_.blocks[index].out;
    const size_t pixels = size_t(shape.out_height) * shape.out_width;
    for (size_t wanted = 0; wanted < call_.blocks.size(); ++wanted) {
      if (call_.blocks[wanted] != index) continue;
      float* planes = call_.maps[wanted] + index_ * channels * pixels;
      const char* map = space_.maps[1 - index % 2];
      each((channels + kFeatureChannels - 1) / kFeatureChannels, [&](int task) {
        const int first = task * kFeatureChannels, kept = std::min(kFeatureChannels, channels - first);
        kernels_.to_planes(map + first * kernels_.map_bytes, padded, int(pixels), kept, planes + first * pixels);
      });
    }
  }

  void head() {
    const size_t last = model_.blocks.size() % 2;
    const int channels = model_.blocks.back().out;
    const Convolution& penultimate = model_.penultimate;
    each(penultimate.outputs ? kernels_.panels(penultimate.outputs) : 1, [&](int panel) {
      if (penultimate.outputs) {
        kernels_.convolve_and_pool(penultimate, space_.bytes[last], channels, space_.last_pixels, mine_.area,
                                   space_.pooled, panel);
      } else {
        kernels_.pool(space_.maps[last], channels, space_.last_pixels, space_.pooled);
      }
    });
    const float* found = multiply(model_.hidden, space_.pooled, space_.hidden);
    found = multiply(model_.classifier, found, space_.logits);
    each(1, [&](int) { std::copy(found, found + model_.outputs, call_.results + size_t(index_) * model_.outputs); });
  }

  // A layer of the head; without the layer, its input.
  const float* multiply(const Convolution& layer, const float* in, float* out) {
    if (layer.outputs == 0) return in;
    each(kernels_.panels(layer.outputs), [&](int panel) {
      kernels_.multiply_vector(layer, in, mine_.vector, out, panel, panel + 1);
    });
    return out;
  }

  const Model& model_;
  const Kernels& kernels_;
  Workspace& space_;
  const Call& call_;
  const int index_;
  const Part part_;
  Scratch& mine_;
  const Image image_;
  int phase_ = 0;
};

}  // namespace

int image_phases(const Model& model) { return 1 + 3 * int(model.blocks.size()) + 4; }

void run_image(const Model& model, Workspace& workspace, const Call& call, int index, const Part& part) {
  Pass(model, workspace, call, index, part).run();
}

}  // namespace rexnet
