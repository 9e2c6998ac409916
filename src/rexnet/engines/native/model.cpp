#include "model.h"

#include <cmath>

namespace rexnet {

Model::Model(const rexnet_network& description, const Kernels& kernels) : kernels(kernels) {
  const int channels = round_up(description.stem_channels, kGroup), taps = description.image_channels * 9;
  stem = {description.image_channels, channels, description.stem_stride, nullptr, nullptr,
          Activation(description.stem_activation), {}};
  auto* stem_taps = arena.get<float>(size_t(taps) * channels);
  for (int channel = 0; channel < description.stem_channels; ++channel) {
    for (int tap = 0; tap < taps; ++tap) {
      stem_taps[size_t(tap) * channels + channel] = description.stem_taps[size_t(channel) * taps + tap];
    }
  }
  stem.taps = stem_taps;
  stem.bias = padded(description.stem_bias, description.stem_channels);

  int inputs = description.stem_channels;
  for (int index = 0; index < description.num_blocks; ++index) {
    const rexnet_block& given = description.blocks[index];
    Block block{};
    block.stride = given.stride;
    block.dilation = given.dilation;
    block.kernel = given.kernel;
    block.in = round_up(inputs, kGroup);
    block.expanded = round_up(given.channels, kGroup);
    block.out = round_up(given.project.outputs, kGroup);
    block.added = given.shortcut ? block.in : 0;
    block.has_expand = given.expand.outputs > 0;
    block.has_gate = given.squeeze.outputs > 0;
    block.expand = convolution(given.expand);
    block.project = convolution(given.project);
    block.squeeze = convolution(given.squeeze);
    block.excite = convolution(given.excite);
    block.depthwise_activation = Activation(given.depthwise_activation);
    const int window = given.kernel * given.kernel;
    auto* filter = arena.get<float>(size_t(window) * block.expanded);
    for (int channel = 0; channel < given.channels; ++channel) {
      for (int tap = 0; tap < window; ++tap) {
        filter[size_t(tap) * block.expanded + channel] = given.taps[size_t(channel) * window + tap];
      }
    }
    block.taps = filter;
    block.taps_bias = padded(given.taps_bias, given.channels);
    blocks.push_back(block);
    inputs = given.project.outputs;
    block_channels.push_back(inputs);
  }
  penultimate = convolution(description.penultimate);
  for (size_t index = 0; index < blocks.size(); ++index) {
    (index ? blocks[index - 1].out_bytes : stem.out_bytes) = blocks[index].expand.bytes;
  }
  blocks.back().out_bytes = penultimate.bytes;
  hidden = convolution(description.hidden);
  classifier = convolution(description.classifier);
  features = outputs = description.penultimate.outputs ? description.penultimate.outputs : inputs;
  if (description.hidden.outputs) outputs = description.hidden.outputs;
  if (description.classifier.outputs) outputs = description.classifier.outputs;
}

Convolution Model::convolution(const rexnet_convolution& given) {
  const size_t count = size_t(given.outputs) * given.inputs;
  Convolution made{given.inputs, round_up(given.outputs, kGroup), nullptr, nullptr, Activation(given.activation), {}};
  if (given.outputs == 0) return made;
  std::vector<float> bias(given.bias, given.bias + given.outputs), weights(given.weights, given.weights + count);
  if (kernels.has_bytes && given.weight_scales) {
    made.bytes = {1.0f / given.input_scale, given.input_zero};
    std::vector<float> scales(given.outputs);
    for (int output = 0; output < given.outputs; ++output) {
      float sum = 0.0f;  // whole numbers, and so exact
      for (int input = 0; input < given.inputs; ++input) {
        float& weight = weights[size_t(output) * given.inputs + input];
        weight = std::nearbyint(weight / given.weight_scales[output]);
        sum += weight;
      }
      scales[output] = given.input_scale * given.weight_scales[output];
      bias[output] -= scales[output] * given.input_zero * sum;
    }
    made.scales = padded(scales.data(), given.outputs);
  }
  void* packed = arena.get<char>(kernels.packed_bytes(made));
  kernels.pack(made, weights.data(), given.outputs, given.inputs, packed);
  made.weights = packed;
  made.bias = padded(bias.data(), given.outputs);
  return made;
}

const float* Model::padded(const float* values, int count) {
  auto* copy = arena.get<float>(round_up(count, kGroup));
  for (int index = 0; index < count; ++index) copy[index] = values[index];
  return copy;
}

}  // namespace rexnet
