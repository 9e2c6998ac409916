// Depthwise convolutions of one vector of channels. Included after a vector_*.h and activations.h.
#pragma once

#include "network.h"

namespace {

// One vector of channels in a slice with borders: where its rows begin, and how the window moves.
template <class Value>
struct Window {
  const Value* in;      // the vector's channels of the first value under the window
  size_t pixel, row;    // values from a pixel to the next, from a row to the next
  int kernel, stride, dilation;
  const float* taps;    // kernel * kernel rows, `taps_pitch` floats apart
  size_t taps_pitch;
  Vector bias;
};

// Slide a 3 x 3 window with stride 1 along a row: each input vector is loaded once and is added to the three outputs
// it belongs to, of which two are unfinished (`next`, `after`).
template <class Value, class Take>
INLINE void filter_row_3x3(const Window<Value>& window, const Vector* w, const Value* a, int width, Take&& take) {
  const Value *b = a + window.row, *c = b + window.row;
  const auto column = [&](int tap, Vector x, Vector y, Vector z, Vector sum) INLINE_LAMBDA {
    return multiply_add(z, w[6 + tap], multiply_add(y, w[3 + tap], multiply_add(x, w[tap], sum)));
  };
  Vector x = load(a), y = load(b), z = load(c);
  Vector next = column(0, x, y, z, window.bias);
  x = load(a + window.pixel), y = load(b + window.pixel), z = load(c + window.pixel);
  next = column(1, x, y, z, next);
  Vector after = column(0, x, y, z, window.bias);
  for (int i = 0; i < width; ++i) {
    const size_t at = (i + 2) * window.pixel;
    x = load(a + at), y = load(b + at), z = load(c + at);
    take(i, column(2, x, y, z, next));
    next = column(1, x, y, z, after);
    after = column(0, x, y, z, window.bias);
  }
}

// The same with stride 2, where neighbouring windows share one column.
template <class Value, class Take>
INLINE void filter_row_3x3_stride_2(const Window<Value>& window, const Vector* w, const Value* a, int width,
                                    Take&& take) {
  const Value *b = a + window.row, *c = b + window.row;
  Vector x = load(a), y = load(b), z = load(c);
  for (int i = 0; i < width; ++i) {
    const size_t middle = (2 * i + 1) * window.pixel, right = middle + window.pixel;
    Vector sum = multiply_add(z, w[6], multiply_add(y, w[3], multiply_add(x, w[0], window.bias)));
    // A second sum: one chain of nine additions would wait for each of them.
    const Vector other = multiply_add(load(c + middle), w[7],
                                      multiply_add(load(b + middle), w[4], multiply(load(a + middle), w[1])));
    x = load(a + right), y = load(b + right), z = load(c + right);
    sum = multiply_add(z, w[8], multiply_add(y, w[5], multiply_add(x, w[2], sum)));
    take(i, add(sum, other));
  }
}

// Any kernel, stride and dilation, for networks other than the published ones.
template <class Value, class Take>
INLINE void filter_row(const Window<Value>& window, const Value* in, int width, Take&& take) {
  for (int i = 0; i < width; ++i) {
    Vector sum = window.bias;
    const Value* at = in + size_t(i) * window.stride * window.pixel;
    for (int y = 0; y < window.kernel; ++y) {
      for (int x = 0; x < window.kernel; ++x) {
        const Vector tap = load(window.taps + (y * window.kernel + x) * window.taps_pitch);
        sum = multiply_add(load(at + y * window.dilation * window.row + x * window.dilation * window.pixel), tap, sum);
      }
    }
    take(i, sum);
  }
}

// Filter `rows` rows of output, `width` wide, and give each value to `take(row, column, value)` and each row's end to
// `end(row)`.
template <class Value, class Take, class End>
INLINE void filter(const Window<Value>& window, int rows, int width, Take&& take, End&& end) {
  const bool fast = window.kernel == 3 && window.dilation == 1 && window.stride <= 2;
  Vector w[9];
  for (int tap = 0; fast && tap < 9; ++tap) w[tap] = load(window.taps + tap * window.taps_pitch);
  for (int row = 0; row < rows; ++row) {
    const Value* in = window.in + size_t(row) * window.stride * window.row;
    const auto put = [&](int column, Vector value) INLINE_LAMBDA { take(row, column, value); };
    if (!fast) {
      filter_row(window, in, width, put);
    } else if (window.stride == 1) {
      filter_row_3x3(window, w, in, width, put);
    } else {
      filter_row_3x3_stride_2(window, w, in, width, put);
    }
    end(row);
  }
}

}  // namespace
