// A packed network: padded sizes, weights in the order in which the kernels read them.
#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "description.h"
#include "kernels.h"

namespace rexnet {

// Memory that is aligned to cache lines, zero at first, and freed together.
class Arena {
 public:
  template <class Type>
  Type* get(size_t count) {
    const size_t bytes = (count * sizeof(Type) + kSlack + 63) / 64 * 64;
    void* memory = std::aligned_alloc(64, bytes);
    if (memory == nullptr) throw std::bad_alloc();
    blocks_.emplace_back(memory);
    __builtin_memset(memory, 0, bytes);
    bytes_ += bytes;
    return static_cast<Type*>(memory);
  }
  size_t bytes() const { return bytes_; }

 private:
  static constexpr size_t kSlack = 64;  // loads of a whole vector may begin at the last value
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::vector<std::unique_ptr<void, Free>> blocks_;
  size_t bytes_ = 0;
};

struct Model {
  Model(const rexnet_network& description, const Kernels& kernels);

  // Whether only the first block's depthwise convolution reads the stem's output: then no map is made of it.
  bool stem_is_part_of_block() const { return !blocks[0].has_expand && blocks[0].added == 0; }

  const Kernels& kernels;
  Stem stem{};
  std::vector<Block> blocks;
  Convolution penultimate, hidden, classifier;  // outputs 0: there is none
  int features = 0;                             // true channels of the last map, before pooling
  int outputs = 0;                              // true channels of the result
  std::vector<int> block_channels;              // true channels of each block's output
  Arena arena;

 private:
  Convolution convolution(const rexnet_convolution& description);
  const float* padded(const float* values, int count);
};

}  // namespace rexnet
