// 1x1 convolutions: packed weights and the micro-kernel. Included after a vector_*.h and activations.h.
//
// Weights are packed in panels of three vectors of output channels (the last panels may have fewer), and in a panel by
// input channel, so that the micro-kernel reads them in order: kRows pixels x 3 vectors of sums stay in registers, each
// step loads 3 vectors of weights and broadcasts one input of each pixel. 8 x 3 is 24 independent sums, more than the
// latency times the throughput of any FMA unit, and a weight that was loaded serves 8 pixels. (The scheme is Goto's,
// "Anatomy of high-performance matrix multiplication", without the packing of inputs: maps are already in order.)
#pragma once

#include "network.h"

namespace {

using rexnet::Convolution;
using rexnet::Quantizer;

constexpr int kPanelVectors = 3, kPanel = kPanelVectors * kLanes;

// Whether the inputs of convolutions have a type of their own.
template <class Type>
constexpr bool kHasBytes = sizeof(typename Type::Input) != sizeof(typename Type::Value);

// Vectors of the panel that begins when `left` vectors are left; 4 are 2 + 2, since a panel of one wastes loads.
INLINE int panel_vectors(int left) { return left == 4 ? 2 : left < kPanelVectors ? left : kPanelVectors; }

INLINE int panel_count(int channels) {
  int count = 0;
  for (int left = channels / kLanes; left > 0; left -= panel_vectors(left)) ++count;
  return count;
}

// The first vector of a panel and its number of vectors.
struct Panel {
  int first, vectors;
};

INLINE Panel panel_at(int channels, int index) {
  int left = channels / kLanes;
  for (; index > 0; --index) left -= panel_vectors(left);
  return {channels / kLanes - left, panel_vectors(left)};
}

template <class Type>
size_t packed_bytes(const Convolution& convolution) {
  return size_t(convolution.outputs) * rexnet::round_up(convolution.depth, Type::kStep) * sizeof(typename Type::Weight);
}

INLINE void convert(float* to, float from) { *to = from; }
INLINE void convert(int8_t* to, float from) { *to = int8_t(from); }  // a whole number
INLINE void convert(uint16_t* to, float from) {  // to the nearest bf16, ties to even; weights are finite
  uint32_t bits;
  __builtin_memcpy(&bits, &from, sizeof bits);
  *to = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <class Type>
void pack(const Convolution& convolution, const float* weights, int outputs, int inputs, void* packed) {
  auto* to = static_cast<typename Type::Weight*>(packed);
  const int count = panel_count(convolution.outputs);
  for (int index = 0; index < count; ++index) {
    const Panel panel = panel_at(convolution.outputs, index);
    for (int depth = 0; depth < convolution.depth; depth += Type::kStep) {
      for (int lane = 0; lane < panel.vectors * kLanes; ++lane) {
        for (int step = 0; step < Type::kStep; ++step) {
          const int output = panel.first * kLanes + lane, input = depth + step;
          convert(to++, output < outputs && input < inputs ? weights[size_t(output) * inputs + input] : 0.0f);
        }
      }
    }
  }
}

// What the micro-kernel reads of one panel.
template <class Type>
struct Factors {
  const typename Type::Weight* weights;
  const float *bias, *scales;
  int depth;
};

template <class Type>
INLINE Factors<Type> factors_of(const Convolution& convolution, const Panel& panel) {
  const size_t depth = rexnet::round_up(convolution.depth, Type::kStep), channel = panel.first * kLanes;
  const auto* weights = static_cast<const typename Type::Weight*>(convolution.weights);
  return {weights + channel * depth, convolution.bias + channel,
          convolution.scales ? convolution.scales + channel : nullptr, convolution.depth};
}

// Multiply kRows pixels, `pitch` values apart, by kVectors vectors of output channels, add the bias, and give each sum
// to `take(row, vector, sum)`.
template <class Type, int kRows, int kVectors, class Take>
INLINE void multiply_tile(const typename Type::Input* inputs, size_t pitch, const Factors<Type>& factors, Take&& take) {
  const auto* weights = factors.weights;
  typename Type::Sum sums[kRows][kVectors];
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
    for (int vector = 0; vector < kVectors; ++vector) sums[row][vector] = Type::begin(factors.bias + vector * kLanes);
  }
  for (int k = 0; k < factors.depth; k += Type::kStep) {
    Vector w[kVectors];
#pragma GCC unroll 3
    for (int vector = 0; vector < kVectors; ++vector) {
      w[vector] = load(reinterpret_cast<const float*>(weights) + vector * kLanes);
    }
    weights += kVectors * kLanes * Type::kStep;
#pragma GCC unroll 8
    for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
      for (int vector = 0; vector < kVectors; ++vector) {
        sums[row][vector] = Type::accumulate(sums[row][vector], inputs + row * pitch + k, w[vector]);
      }
    }
  }
#pragma GCC unroll 8
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
    for (int vector = 0; vector < kVectors; ++vector) {
      take(row, vector, Type::finish(sums[row][vector], factors.scales, factors.bias, vector * kLanes));
    }
  }
}

// Pixels of the next tile when `left` are left: as equal as possible, so that none is much narrower than kMaxRows.
INLINE int tile_rows(int left) {
  const int tiles = (left + kMaxRows - 1) / kMaxRows;
  return (left + tiles - 1) / tiles;
}

template <class Type, int kVectors, int kRows, class Take>
INLINE void multiply_rows(int rows, const typename Type::Input* inputs, size_t pitch, const Factors<Type>& factors,
                          Take&& take) {
  if constexpr (kRows == 1) {
    multiply_tile<Type, 1, kVectors>(inputs, pitch, factors, take);
  } else if (rows == kRows) {
    multiply_tile<Type, kRows, kVectors>(inputs, pitch, factors, take);
  } else {
    multiply_rows<Type, kVectors, kRows - 1>(rows, inputs, pitch, factors, take);
  }
}

// The same for up to kMost pixels and a whole panel.
template <class Type, int kMost, class Take>
INLINE void multiply_panel(int rows, int vectors, const typename Type::Input* inputs, size_t pitch,
                           const Factors<Type>& factors, Take&& take) {
  switch (vectors) {
    case 3:
      return multiply_rows<Type, 3, kMost>(rows, inputs, pitch, factors, take);
    case 2:
      return multiply_rows<Type, 2, kMost>(rows, inputs, pitch, factors, take);
    default:
      return multiply_rows<Type, 1, kMost>(rows, inputs, pitch, factors, take);
  }
}

template <class Input>
INLINE void store_input(Input* to, Vector v, const Quantizer& quantizer) {
  if constexpr (sizeof(Input) == 1) {
    store_bytes(to, v, quantizer);
  } else {
    store(to, v);
  }
}

// Where `convolve_rows` reads and writes, with the values from a pixel to the next. `residual`: a map of which the
// first `residual_vectors` vectors of the panel are added. `bytes`: where the same results go as bytes, if anywhere.
template <class Type, class Out>
struct Rows {
  const typename Type::Input* in;
  size_t in_pitch;
  Out* out;
  size_t out_pitch;
  const typename Type::Value* residual = nullptr;
  size_t residual_pitch = 0;
  int residual_vectors = 0;
  typename Type::Input* bytes = nullptr;
  const Quantizer* quantizer = nullptr;
};

// Convolve `count` pixels with one panel: bias, activation, then the residual.
template <class Type, Compiled Kind, class Out>
INLINE void convolve_rows(const Convolution& convolution, const Panel& panel, int count, const Rows<Type, Out>& rows) {
  const auto factors = factors_of<Type>(convolution, panel);
  constexpr bool kExact = Type::kStep == 1;
  for (int done = 0; done < count;) {
    const int now = tile_rows(count - done);
    auto* out = rows.out + done * rows.out_pitch;
    const auto* residual = rows.residual + done * rows.residual_pitch;
    multiply_panel<Type, kMaxRows>(
        now, panel.vectors, rows.in + done * rows.in_pitch, rows.in_pitch, factors,
        [&](int row, int vector, Vector v) INLINE_LAMBDA {
          v = activate<Kind, kExact>(v, convolution.activation);
          if (vector < rows.residual_vectors) {
            v = add(v, load(residual + row * rows.residual_pitch + vector * kLanes));
          }
          store(out + row * rows.out_pitch + vector * kLanes, v);
          if constexpr (kHasBytes<Type>) {
            if (rows.bytes) store_input(rows.bytes + (done + row) * rows.out_pitch + vector * kLanes, v, *rows.quantizer);
          }
        });
    done += now;
  }
}

}  // namespace
