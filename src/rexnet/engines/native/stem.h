// The stem: a 3 x 3 convolution of planes of floats. Included after a vector_*.h.
//
// Three channels fill no vector, so each pixel is broadcast and multiplied by vectors of output channels.
#pragma once

#include "network.h"

namespace {

using rexnet::Image;
using rexnet::Stem;

// kMaxRows pixels from `column` on, kVectors vectors of channels from `channel` on. Pixels beyond the width lie in the
// border's slack and are not written.
template <int kVectors, class Value, class Put>
INLINE void convolve_stem_tile(const Stem& stem, const float* in, int pitch, int plane, int pixels, int channel,
                               Value* out, int out_pitch, Put&& put) {
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
    for (int each = 0; each < kVectors; ++each) put(out + pixel * out_pitch + each * kLanes, sums[pixel][each]);
  }
}

// Channels [first, last) of one row of output, `out_pitch` values from a pixel to the next; `in`: its first row of
// input, in the first plane.
template <class Value, class Put>
INLINE void convolve_stem_row(const Stem& stem, const float* in, int pitch, int plane, int width, int first, int last,
                              Value* out, int out_pitch, Put&& put) {
  for (int column = 0; column < width; column += kMaxRows) {
    const float* from = in + column * stem.stride;
    Value* to = out + size_t(column) * out_pitch - first;
    int channel = first;
    for (; channel + 2 * kLanes <= last; channel += 2 * kLanes) {
      convolve_stem_tile<2>(stem, from, pitch, plane, width - column, channel, to + channel, out_pitch, put);
    }
    if (channel < last) {
      convolve_stem_tile<1>(stem, from, pitch, plane, width - column, channel, to + channel, out_pitch, put);
    }
  }
}

// Copy rows [first, last) of all planes with a border of zeros: one pixel on the left, the rest of the pitch on the
// right, and rows outside the image.
INLINE void copy_with_border(const Image& image, int channels, int first, int last, float* to) {
  for (int channel = 0; channel < channels; ++channel) {
    const float* plane = image.values + size_t(channel) * image.height * image.width;
    for (int row = first; row < last; ++row, to += image.pitch) {
      if (row < 0 || row >= image.height) {
        __builtin_memset(to, 0, image.pitch * sizeof(float));
        continue;
      }
      to[0] = 0.0f;
      __builtin_memcpy(to + 1, plane + size_t(row) * image.width, image.width * sizeof(float));
      __builtin_memset(to + 1 + image.width, 0, (image.pitch - 1 - image.width) * sizeof(float));
    }
  }
}

// Rows [first, last) of output, channels as above, from the image.
template <class Value, class Put>
INLINE void convolve_stem_rows(const Stem& stem, const Image& image, float* planes, int width, int first, int last,
                               int first_channel, int last_channel, Value* out, size_t row_values, int out_pitch,
                               Put&& put) {
  const int first_in = first * stem.stride - 1, rows = rexnet::stem_rows(stem, last - first);
  copy_with_border(image, stem.image_channels, first_in, first_in + rows, planes);
  for (int row = first; row < last; ++row, planes += stem.stride * image.pitch, out += row_values) {
    convolve_stem_row(stem, planes, image.pitch, rows * image.pitch, width, first_channel, last_channel, out, out_pitch,
                      put);
  }
}

}  // namespace
