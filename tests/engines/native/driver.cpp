// Networks of random shapes through the C interface, for builds with sanitizers: memory, undefined behaviour, races.
// Prints "ok", the instructions for fp32 and bf16 and a checksum of the results in AVX2, or what differs.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "description.h"

extern "C" {
const char* rexnet_instructions(int32_t precision, const char* mask);
void* rexnet_open(const rexnet_network* network, int32_t precision, const char* mask, int32_t threads);
void rexnet_close(void* model);
bool rexnet_run(void* model, const float* images, int32_t batch, int32_t height, int32_t width, float* results,
                const int32_t* blocks, float* const* maps, int32_t wanted);
}

namespace {

std::mt19937 random_bits(1);

int pick(int least, int most) { return std::uniform_int_distribution<int>(least, most)(random_bits); }

// A network and its weights, of exactly the size that the engine may read.
struct Network {
  std::vector<std::unique_ptr<float[]>> arrays;
  std::vector<rexnet_block> blocks;
  std::vector<int> channels;
  rexnet_network description{};
  int outputs;

  const float* array(size_t count, float scale) {
    arrays.push_back(std::make_unique<float[]>(count));
    std::uniform_real_distribution<float> values(-scale, scale);
    for (size_t index = 0; index < count; ++index) arrays.back()[index] = values(random_bits);
    return arrays.back().get();
  }

  rexnet_convolution convolution(int inputs, int outputs, int activation) {
    const float* weights = array(size_t(inputs) * outputs, 1.5f / float(inputs));
    return {inputs, outputs, activation, weights, array(outputs, 0.1f), nullptr, 0.0f, 0.0f};
  }

  // One of a map, which int8 computes with bytes.
  rexnet_convolution of_map(int inputs, int outputs, int activation) {
    rexnet_convolution made = convolution(inputs, outputs, activation);
    arrays.push_back(std::make_unique<float[]>(outputs));
    for (int output = 0; output < outputs; ++output) arrays.back()[output] = 1.5f / (127.0f * float(inputs));
    made.weight_scales = arrays.back().get(), made.input_scale = 0.02f, made.input_zero = float(pick(0, 255));
    return made;
  }

  Network() {
    description.image_channels = pick(1, 4);
    description.stem_channels = pick(1, 50);
    description.stem_stride = pick(1, 2);
    description.stem_activation = pick(0, 7);
    description.stem_taps = array(size_t(description.stem_channels) * description.image_channels * 9, 0.5f);
    description.stem_bias = array(description.stem_channels, 0.1f);
    int in = description.stem_channels;
    for (int count = pick(1, 4); count > 0; --count) {
      rexnet_block block{};
      block.kernel = 2 * pick(0, 2) + 1;
      block.dilation = pick(1, 2);
      block.stride = pick(1, 3);
      const bool expands = pick(0, 3) > 0;
      block.channels = expands ? pick(in + 1, in + 130) : in;
      int out = pick(1, 90);
      if (block.stride == 1 && pick(0, 1)) block.shortcut = 1, out = in + pick(0, 20);
      block.depthwise_activation = pick(0, 7);
      block.taps = array(size_t(block.channels) * block.kernel * block.kernel, 0.3f);
      block.taps_bias = array(block.channels, 0.1f);
      if (expands) block.expand = of_map(in, block.channels, pick(0, 7));
      if (pick(0, 1)) {
        const int squeezed = pick(1, 40);
        block.squeeze = convolution(block.channels, squeezed, 1);
        block.excite = convolution(squeezed, block.channels, 8);
      }
      block.project = of_map(block.channels, out, 0);
      blocks.push_back(block);
      channels.push_back(out);
      in = out;
    }
    description.num_blocks = int(blocks.size());
    description.blocks = blocks.data();
    outputs = in;
    if (pick(0, 1)) outputs = pick(1, 100), description.penultimate = of_map(in, outputs, 7);
    if (pick(0, 1)) {
      const int hidden = pick(1, 60);
      description.hidden = convolution(outputs, hidden, 2), outputs = hidden;
    }
    if (pick(0, 2)) {
      const int classes = pick(1, 60);
      description.classifier = convolution(outputs, classes, 0), outputs = classes;
    }
  }
};

std::vector<float> run(void* model, const Network& network, const std::vector<float>& images, int batch, int height,
                       int width) {
  std::vector<float> results(size_t(batch) * network.outputs);
  if (!rexnet_run(model, images.data(), batch, height, width, results.data(), nullptr, nullptr, 0)) std::abort();
  return results;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

uint32_t checksum = 0;

void add_to_checksum(const std::vector<float>& results) {
  for (const float value : results) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    checksum = checksum * 31 + bits;
  }
}

bool try_network(int precision, const char* mask) {
  const Network network;
  const int batch = pick(1, 4), height = pick(1, 70), width = pick(1, 70);
  const size_t values = size_t(network.description.image_channels) * height * width;
  std::vector<float> images(batch * values);
  for (float& value : images) value = float(pick(-100, 100)) / 50.0f;
  void* alone = rexnet_open(&network.description, precision, mask, 1);
  void* together = rexnet_open(&network.description, precision, mask, 3);
  const std::vector<float> expected = run(alone, network, images, batch, height, width);
  bool right = same(expected, run(together, network, images, batch, height, width));
  if (std::strcmp(mask, "avx2") == 0) add_to_checksum(expected);

  // One map of one image, several callers at once.
  int block = pick(0, int(network.blocks.size()) - 1), rows = height, columns = width;
  const auto shrink = [&](int stride) { rows = (rows - 1) / stride + 1, columns = (columns - 1) / stride + 1; };
  shrink(network.description.stem_stride);
  for (int index = 0; index <= block; ++index) shrink(network.blocks[index].stride);
  std::vector<float> map(size_t(network.channels[block]) * rows * columns);
  float* planes = map.data();
  if (!rexnet_run(together, images.data(), 1, height, width, nullptr, &block, &planes, 1)) return false;
  std::vector<std::thread> callers;
  std::vector<char> agree(4, 0);
  for (size_t caller = 0; caller < agree.size(); ++caller) {
    callers.emplace_back([&, caller] {
      for (int call = 0; call < 3; ++call) {
        agree[caller] = same(expected, run(together, network, images, batch, height, width));
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const char each : agree) right = right && each;
  rexnet_close(alone);
  rexnet_close(together);
  return right;
}

bool try_fork() {
  const Network network;
  void* model = rexnet_open(&network.description, 0, "", 3);
  const std::vector<float> images(size_t(network.description.image_channels) * 32 * 32, 0.5f);
  const std::vector<float> expected = run(model, network, images, 1, 32, 32);
  const pid_t child = fork();
  if (child == 0) _exit(same(expected, run(model, network, images, 1, 32, 32)) ? 0 : 1);
  int status = 1;
  waitpid(child, &status, 0);
  rexnet_close(model);
  return status == 0;
}

}  // namespace

int main(int, char** arguments) {
  const int networks = std::atoi(arguments[1]);
  const bool forks = std::atoi(arguments[2]) != 0;
  for (int number = 0; number < networks; ++number) {
    for (const char* mask : {"avx2", ""}) {
      for (int precision = 0; precision < 3; ++precision) {
        // The same networks on CPUs with and without other instructions.
        random_bits.seed(6 * number + 3 * (*mask == 0) + precision);
        if (rexnet_instructions(precision, mask) && !try_network(precision, mask)) {
          std::printf("network %d, precision %d, mask '%s': results differ\n", number, precision, mask);
          return 1;
        }
      }
    }
  }
  if (forks && !try_fork()) {
    std::puts("a child process finds something else");
    return 1;
  }
  const char* fp32 = rexnet_instructions(0, "");
  const char* bf16 = rexnet_instructions(1, "");
  std::printf("ok %s %s %08x\n", fp32 ? fp32 : "none", bf16 ? bf16 : "none", checksum);
}
