// The stem: a 3 x 3 convolution of planes of floats. Included after a vector_*.h.
//
// Three channels fill no vector, so each pixel is broadcast and multiplied by vectors of output channels.
#pragma once

#include "network.h"

namespace {

using rexnet::Stem;

// kMaxRows pixels from `column` on, kVectors vectors of channels from `channel` on. Pixels beyond the width lie in the
// border's slack and are not written.
template <int kVectors, class Value, class Put>
INLINE void convolve_stem_tile(const Stem& stem, const float* in, int pitch, int plane, int pixels, int channel,
                               Value* out, Put&& put) {
  Vector sums[kMaxRows][kVectors];
#pragma GCC unroll 8
  for (int pixel = 0; pixel < kMaxRows; ++pixel) {
#pragma GCC unroll 2
    for (int each = 0; each < kVectors; ++each) sums[pixel][each] = load(stem.bias + channel + each * kLanes);
  }
  const float* taps = stem.taps + channel;
  for (int index = 0; index < stem.image_channels; ++index, in += plane) {
    for (int tap = 0; tap < 9; ++tap, taps += stem.channels) {
      const float* at = in + tap / 3 * pitch + tap % 3;
      Vector w[kVectors];
#pragma GCC unroll 2
      for (int each = 0; each < kVectors; ++each) w[each] = load(taps + each * kLanes);
#pragma GCC unroll 8
      for (int pixel = 0; pixel < kMaxRows; ++pixel) {
        const Vector value = fill(at[pixel * stem.stride]);
#pragma GCC unroll 2
        for (int each = 0; each < kVectors; ++each) sums[pixel][each] = multiply_add(value, w[each], sums[pixel][each]);
      }
    }
  }
#pragma GCC unroll 8
  for (int pixel = 0; pixel < kMaxRows; ++pixel) {
    if (pixel >= pixels) break;
#pragma GCC unroll 2
    for (int each = 0; each < kVectors; ++each) put(out + pixel * stem.channels + each * kLanes, sums[pixel][each]);
  }
}

// One row of output; `in`: its first row of input, in the first plane.
template <class Value, class Put>
INLINE void convolve_stem_row(const Stem& stem, const float* in, int pitch, int plane, int width, Value* out,
                              Put&& put) {
  for (int column = 0; column < width; column += kMaxRows) {
    const float* from = in + column * stem.stride;
    Value* to = out + size_t(column) * stem.channels;
    int channel = 0;
    for (; channel + 2 * kLanes <= stem.channels; channel += 2 * kLanes) {
      convolve_stem_tile<2>(stem, from, pitch, plane, width - column, channel, to + channel, put);
    }
    if (channel < stem.channels) {
      convolve_stem_tile<1>(stem, from, pitch, plane, width - column, channel, to + channel, put);
    }
  }
}

}  // namespace
