// A network as Python describes it: true sizes, weights in PyTorch's order. Mirrored by ctypes in description.py.
#pragma once

#include <cstdint>

extern "C" {

struct rexnet_convolution {
  int32_t inputs, outputs, activation;  // 0 outputs: there is no such layer
  const float* weights;                 // (outputs, inputs)
  const float* bias;
  // In int8: what a step of each output's weights is worth, and of the inputs, and the byte of the input 0; else null.
  const float* weight_scales;
  float input_scale, input_zero;
};

struct rexnet_block {
  int32_t stride, dilation, kernel, shortcut, depthwise_activation, channels;  // channels: of the depthwise convolution
  const float* taps;                                                           // (channels, kernel * kernel)
  const float* taps_bias;
  rexnet_convolution expand, squeeze, excite, project;
};

struct rexnet_network {
  int32_t image_channels, stem_channels, stem_stride, stem_activation, num_blocks;
  const float* stem_taps;  // (stem_channels, image_channels, 3, 3)
  const float* stem_bias;
  const rexnet_block* blocks;
  rexnet_convolution penultimate, hidden, classifier;
};

}  // extern "C"
