// A network as the kernels see it: plain structs, no methods, no standard containers, because the files that are
// compiled for one instruction set must not emit inline functions that the linker could share with the others.
//
// Maps are (height, width, channels) with the channels padded to kGroup by zeros. "Vectors" below are of one register.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rexnet {

constexpr int kGroup = 16;  // all channel counts are padded to it: a zmm register of float, two ymm registers

inline constexpr int round_up(int value, int multiple) { return (value + multiple - 1) / multiple * multiple; }

// The order of ACTIVATION_NAMES in models/config.py, then what only squeeze-excitation uses.
enum class Activation : int32_t { identity, relu, relu6, leaky_relu, elu, softplus, hardswish, silu, sigmoid };

enum class Precision : int32_t { fp32, bf16, int8 };

// The byte of a value: value * factor + zero, rounded, and bounded to 0 to 255. Factor 0: there are no bytes.
struct Quantizer {
  float factor = 0.0f, zero = 0.0f;
};

// A 1x1 convolution, its weights in panels (convolution.h).
struct Convolution {
  int depth = 0;    // input channels to multiply: without those that are padding
  int outputs = 0;  // padded
  const void* weights = nullptr;
  const float* bias = nullptr;
  Activation activation = Activation::identity;
  // In int8: the bytes of its inputs, and by what the integer sums are multiplied; else null.
  Quantizer bytes;
  const float* scales = nullptr;
};

struct Block {
  int stride, dilation, kernel;
  int in, expanded, out;  // channels, padded
  int added;              // input channels that the shortcut adds, padded; 0: no shortcut
  bool has_expand, has_gate;
  Convolution expand, project, squeeze, excite;
  const float* taps;  // depthwise: kernel * kernel rows of `expanded` floats
  const float* taps_bias;
  Activation depthwise_activation;
  Quantizer out_bytes;  // of the layer that reads the block's output
};

struct Stem {
  int image_channels, channels, stride;  // channels: padded
  const float* taps;                      // image_channels * 9 rows of `channels` floats
  const float* bias;
  Activation activation;
  Quantizer out_bytes;
};

// Rows of the image under `rows` rows of the stem's output.
inline constexpr int stem_rows(const Stem& stem, int rows) { return (rows - 1) * stem.stride + 3; }

// One block at one image size, and how its work is cut.
struct BlockShape {
  int height, width, out_height, out_width;
  int strip_rows, strips;  // rows of output of a strip, and their number
};

// The given image, as planes, and the floats from a row to the next in a copy with borders.
struct Image {
  const float* values;
  int height, width, pitch;
};

// What a task reads and writes. Types of maps depend on the precision.
struct Task {
  const void* in;        // the block's input map
  const void* in_bytes;  // the same as inputs of convolutions: in int8 bytes, else `in` itself
  void* expanded;        // the depthwise convolution's output map; without a gate inputs of the projection
  float* row_sums;       // sums of the rows of `expanded`: (out_height, channels)
  void* out;             // the block's output map
  void* out_bytes;       // the same in bytes, in int8
  void* scratch;         // this thread's own memory
  // For the first block, if its depthwise convolution follows the stem: instead of `in`.
  const Stem* stem;
  const Image* image;
  float* planes;  // this thread's copy of rows of the image
};

}  // namespace rexnet
