// The functions that are compiled once for each instruction set and precision.
#pragma once

#include "network.h"

namespace rexnet {

struct Kernels {
  const char* name;
  size_t map_bytes;  // of one value of a map
  bool has_bytes;    // inputs of convolutions are bytes, in maps of their own
  int rows;          // pixels of a tile
  int panel;         // channels of the widest panel

  // Panels of output channels, each computed in one pass over the inputs.
  int (*panels)(int channels);
  // Bytes of `convolution`'s packed weights, and the packing of (outputs, inputs) floats.
  size_t (*packed_bytes)(const Convolution& convolution);
  void (*pack)(const Convolution& convolution, const float* weights, int outputs, int inputs, void* packed);

  // Rows [first, last) of the stem's output map, `width` wide. `planes`: memory for rows of the image with borders.
  void (*convolve_stem)(const Stem& stem, const Image& image, float* planes, int width, int first, int last, void* out,
                        void* out_bytes);
  // Channels of panel `panel` in strip `strip`: expansion, depthwise convolution and sums of its rows.
  void (*expand_and_filter)(const Block& block, const BlockShape& shape, const Task& task, int panel, int strip);
  // Pixels [first, last) of the output: gate, activation, projection, shortcut. `gates`: `expanded` floats or null.
  void (*project)(const Block& block, const Task& task, const float* gates, int first, int last);
  // Channels of panel `panel` of a 1x1 convolution of `map` (in int8 of its bytes), averaged over all pixels.
  void (*convolve_and_pool)(const Convolution& convolution, const void* map, int channels, int pixels, void* scratch,
                            float* means, int panel);
  // Means over all pixels of a map.
  void (*pool)(const void* map, int channels, int pixels, float* means);
  // Panels [first, last) of a 1x1 convolution of one pixel. `in` has a multiple of kGroup floats.
  void (*multiply_vector)(const Convolution& convolution, const float* in, void* scratch, float* out, int first,
                          int last);
  // Channels [0, kept) of a map (pixels, channels) to planes (kept, pixels) of floats.
  void (*to_planes)(const void* map, int channels, int pixels, int kept, float* planes);
  // Multiply-accumulates of `repeats` calls of the micro-kernel on zeros in the first cache: the machine's limit.
  double (*peak_macs)(int repeats);
};

extern const Kernels kernels_avx2_fp32;
extern const Kernels kernels_avx512_fp32;
extern const Kernels kernels_avx512_bf16;
extern const Kernels kernels_avx512_int8;

}  // namespace rexnet
