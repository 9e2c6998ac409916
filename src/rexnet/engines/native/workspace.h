// The memory of one image on its way through a network, and how its work is cut into tasks.
#pragma once

#include "model.h"

namespace rexnet {

constexpr int kStemRows = 8;  // of a task of the stem

// What each thread needs for itself.
struct Scratch {
  char* area;     // a slice of expanded channels, or gated inputs of the projection
  char* vector;   // inputs of multiply_vector
  float* means;   // of the gate's inputs
  float* hidden;  // between squeeze and excite
  float* gates;
  float* planes;  // rows of the image with borders
};

class Workspace {
 public:
  // `height`, `width`: of the image. `threads`: that work on it together.
  Workspace(const Model& model, int height, int width, int threads);

  bool fits(int height, int width) const { return height == this->height && width == this->width; }

  int height, width, threads;
  int stem_height, stem_width;
  std::vector<BlockShape> shapes;
  int last_pixels;  // of the last map
  int pitch;        // of a row of the image with borders
  char *maps[2], *expanded;  // input and output of a block, in turns; the depthwise convolution's output
  char* bytes[2];            // in int8 the maps as inputs of convolutions, else the maps
  float *row_sums, *pooled, *hidden, *logits;
  std::vector<Scratch> scratch;
  Arena arena;
};

}  // namespace rexnet
