// The tasks of kernels.h for one precision. Included last by each kernels_*.cpp.
#pragma once

#include "activations.h"
#include "convolution.h"
#include "depthwise.h"
#include "kernels.h"
#include "stem.h"

namespace {

using rexnet::Block;
using rexnet::BlockShape;
using rexnet::Task;

template <class Type>
struct Tasks {
  using Value = typename Type::Value;
  using Input = typename Type::Input;
  using Plain = typename Type::Plain;
  static constexpr bool kExact = Type::kStep == 1;

  static void convolve_stem(const Stem& stem, const Image& image, float* planes, int width, int first, int last,
                            void* out, void* out_bytes) {
    const size_t row_values = size_t(width) * stem.channels;
    auto* map = static_cast<Value*>(out);
    with_activation(stem.activation, [&](auto kindly) INLINE_LAMBDA {
      convolve_stem_rows(stem, image, planes, width, first, last, 0, stem.channels,
                         map + first * row_values, row_values, stem.channels,
                         [&](Value* to, Vector v) INLINE_LAMBDA {
                           v = activate<kindly.kind, kExact>(v, stem.activation);
                           store(to, v);
                           if constexpr (kHasBytes<Type>) {
                             store_bytes(static_cast<Input*>(out_bytes) + (to - map), v, stem.out_bytes);
                           }
                         });
    });
  }

  // Fill the slice of a strip with `panel`'s expanded channels (for a block without expansion the input's, or the
  // stem's), with zeros around the map, and filter it at once, while it is in the second cache.
  static void expand_and_filter(const Block& block, const BlockShape& shape, const Task& task, int panel_index,
                                int strip) {
    const Panel panel = panel_at(block.expanded, panel_index);
    const int border = block.kernel / 2 * block.dilation, pixel = panel.vectors * kLanes;
    const size_t row_values = size_t(shape.width + 2 * border) * pixel;
    const int first_out = strip * shape.strip_rows;
    const int last_out = first_out + shape.strip_rows < shape.out_height ? first_out + shape.strip_rows
                                                                         : shape.out_height;
    const int first = first_out * block.stride - border, last = (last_out - 1) * block.stride + border + 1;
    const int first_inside = first < 0 ? 0 : first, last_inside = last < shape.height ? last : shape.height;
    auto* slice = static_cast<float*>(task.scratch);
    clear_border(slice, row_values, border * pixel, first_inside - first, last_inside - first, last - first);
    float* inside = slice + (first_inside - first) * row_values + border * pixel;
    if (task.stem) {
      const Stem& stem = *task.stem;
      const int channel = panel.first * kLanes;
      with_activation(stem.activation, [&](auto kindly) INLINE_LAMBDA {
        convolve_stem_rows(stem, *task.image, task.planes, shape.width, first_inside, last_inside, channel,
                           channel + pixel, inside, row_values, pixel, [&](float* to, Vector v) INLINE_LAMBDA {
                             store(to, activate<kindly.kind, kExact>(v, stem.activation));
                           });
      });
    } else {
      expand(block, shape.width, task, panel, inside, row_values, first_inside, last_inside);
    }

    const size_t out_row = size_t(shape.out_width) * block.expanded;
    for (int vector = 0; vector < panel.vectors; ++vector) {
      const int channel = (panel.first + vector) * kLanes;
      const Window<float> window{slice + vector * kLanes, size_t(pixel), row_values,      block.kernel,
                                 block.stride,            block.dilation, block.taps + channel,
                                 size_t(block.expanded),  load(block.taps_bias + channel)};
      const size_t place = first_out * out_row + channel;
      if (block.has_gate) {
        auto* out = static_cast<Value*>(task.expanded) + place;
        Vector sum = zero();
        filter(
            window, last_out - first_out, shape.out_width,
            [&](int row, int column, Vector value) INLINE_LAMBDA {
              sum = add(sum, value);
              store(out + row * out_row + size_t(column) * block.expanded, value);
            },
            [&](int row) INLINE_LAMBDA {
              store(task.row_sums + size_t(first_out + row) * block.expanded + channel, sum);
              sum = zero();
            });
      } else {
        auto* out = static_cast<Input*>(task.expanded) + place;
        with_activation(block.depthwise_activation, [&](auto kindly) INLINE_LAMBDA {
          filter(
              window, last_out - first_out, shape.out_width,
              [&](int row, int column, Vector value) INLINE_LAMBDA {
                value = activate<kindly.kind, kExact>(value, block.depthwise_activation);
                store_input(out + row * out_row + size_t(column) * block.expanded, value, block.project.bytes);
              },
              [](int) {});
        });
      }
    }
  }

  // Zeros in the rows of a slice above `first` and from `last` on, and in `side` values at both ends of the others.
  static void clear_border(float* slice, size_t row_values, int side, int first, int last, int rows) {
    for (int row = 0; row < rows; ++row, slice += row_values) {
      if (row < first || row >= last) {
        __builtin_memset(slice, 0, row_values * sizeof(float));
      } else {
        __builtin_memset(slice, 0, side * sizeof(float));
        __builtin_memset(slice + row_values - side, 0, side * sizeof(float));
      }
    }
  }

  // Write rows [first, last) of `panel`'s channels, expanded or as they are, `row_values` apart.
  static void expand(const Block& block, int width, const Task& task, const Panel& panel, float* out, size_t row_values,
                     int first, int last) {
    const int pixel = panel.vectors * kLanes;
    with_activation(block.expand.activation, [&](auto kindly) INLINE_LAMBDA {
      for (int row = first; row < last; ++row, out += row_values) {
        const size_t place = size_t(row) * width * block.in;
        if (block.has_expand) {
          const Input* from = static_cast<const Input*>(task.in_bytes) + place;
          convolve_rows<Type, kindly.kind>(block.expand, panel, width,
                                           Rows<Type, float>{from, size_t(block.in), out, size_t(pixel)});
        } else {
          const Value* from = static_cast<const Value*>(task.in) + place;
          for (int column = 0; column < width; ++column) {
            const Value* at = from + size_t(column) * block.in + panel.first * kLanes;
            float* to = out + size_t(column) * pixel;
            for (int channel = 0; channel < pixel; channel += kLanes) store(to + channel, load(at + channel));
          }
        }
      }
    });
  }

  static void project(const Block& block, const Task& task, const float* gates, int first, int last) {
    const int panels = panel_count(block.out), added_vectors = block.added / kLanes;
    with_activation(block.project.activation, [&](auto kindly) INLINE_LAMBDA {
      for (int pixel = first; pixel < last;) {
        // Two tiles of pixels at a time: their gated inputs stay in the first cache while all panels pass over them.
        const int left = last - pixel, now = left > 2 * kMaxRows ? 2 * kMaxRows : left;
        const size_t place = size_t(pixel) * block.expanded;
        const Input* in = static_cast<const Input*>(task.expanded) + place;
        if (gates) {
          const Value* ungated = static_cast<const Value*>(task.expanded) + place;
          in = gated(block, ungated, gates, now, static_cast<Input*>(task.scratch));
        }
        for (int index = 0; index < panels; ++index) {
          const Panel panel = panel_at(block.out, index);
          const size_t channel = panel.first * kLanes;
          auto* out = static_cast<Value*>(task.out) + size_t(pixel) * block.out + channel;
          Rows<Type, Value> rows{in, size_t(block.expanded), out, size_t(block.out)};
          if (panel.first < added_vectors) {
            rows.residual = static_cast<const Value*>(task.in) + size_t(pixel) * block.in + channel;
            rows.residual_pitch = block.in;
            rows.residual_vectors = added_vectors - panel.first;
          }
          if (kHasBytes<Type> && block.out_bytes.factor != 0.0f) {
            rows.bytes = static_cast<Input*>(task.out_bytes) + size_t(pixel) * block.out + channel;
            rows.quantizer = &block.out_bytes;
          }
          convolve_rows<Type, kindly.kind>(block.project, panel, now, rows);
        }
        pixel += now;
      }
    });
  }

  // Multiply pixels by the gates and apply the activation that follows.
  static const Input* gated(const Block& block, const Value* in, const float* gates, int pixels, Input* out) {
    with_activation(block.depthwise_activation, [&](auto kindly) INLINE_LAMBDA {
      for (size_t at = 0; at < size_t(pixels) * block.expanded; at += block.expanded) {
        for (int channel = 0; channel < block.expanded; channel += kLanes) {
          const Vector value = multiply(load(in + at + channel), load(gates + channel));
          store_input(out + at + channel, activate<kindly.kind, kExact>(value, block.depthwise_activation),
                      block.project.bytes);
        }
      }
    });
    return out;
  }

  static void convolve_and_pool(const Convolution& convolution, const void* map, int channels, int pixels,
                                void* scratch, float* means, int panel_index) {
    const Panel panel = panel_at(convolution.outputs, panel_index);
    const int width = panel.vectors * kLanes;
    auto* out = static_cast<Value*>(scratch);
    float sums[kPanel] = {};
    with_activation(convolution.activation, [&](auto kindly) INLINE_LAMBDA {
      for (int pixel = 0; pixel < pixels;) {
        const int now = tile_rows(pixels - pixel);
        const Input* in = static_cast<const Input*>(map) + size_t(pixel) * channels;
        convolve_rows<Type, kindly.kind>(convolution, panel, now,
                                         Rows<Type, Value>{in, size_t(channels), out, size_t(width)});
        add_pixels(out, width, now, sums);
        pixel += now;
      }
    });
    write_means(sums, width, pixels, means + panel.first * kLanes);
  }

  static void pool(const void* map, int channels, int pixels, float* means) {
    for (int channel = 0; channel < channels; ++channel) means[channel] = 0.0f;
    add_pixels(static_cast<const Value*>(map), channels, pixels, means);
    write_means(means, channels, pixels, means);
  }

  static void add_pixels(const Value* map, int channels, int pixels, float* sums) {
    for (int pixel = 0; pixel < pixels; ++pixel, map += channels) {
      for (int channel = 0; channel < channels; channel += kLanes) {
        store(sums + channel, add(load(sums + channel), load(map + channel)));
      }
    }
  }

  static void write_means(const float* sums, int channels, int pixels, float* means) {
    const Vector fraction = fill(1.0f / float(pixels));
    for (int channel = 0; channel < channels; channel += kLanes) {
      store(means + channel, multiply(load(sums + channel), fraction));
    }
  }

  static void multiply_vector(const Convolution& convolution, const float* in, void* scratch, float* out, int first,
                              int last) {
    auto* inputs = static_cast<typename Plain::Value*>(scratch);
    for (int channel = 0; channel < convolution.depth; channel += kLanes) store(inputs + channel, load(in + channel));
    with_activation(convolution.activation, [&](auto kindly) INLINE_LAMBDA {
      for (int index = first; index < last; ++index) {
        const Panel at = panel_at(convolution.outputs, index);
        const size_t channel = at.first * kLanes;
        const auto put = [&](int, int vector, Vector v) INLINE_LAMBDA {
          store(out + channel + vector * kLanes, activate<kindly.kind, kExact>(v, convolution.activation));
        };
        multiply_panel<Plain, 1>(1, at.vectors, inputs, 0, factors_of<Plain>(convolution, at), put);
      }
    });
  }

  static void to_planes(const void* map, int channels, int pixels, int kept, float* planes) {
    const Value* in = static_cast<const Value*>(map);
    float values[kLanes];
    for (int channel = 0; channel < kept; channel += kLanes) {
      const int lanes = kept - channel < kLanes ? kept - channel : kLanes;
      for (int pixel = 0; pixel < pixels; ++pixel) {
        store(values, load(in + size_t(pixel) * channels + channel));
        for (int lane = 0; lane < lanes; ++lane) planes[size_t(channel + lane) * pixels + pixel] = values[lane];
      }
    }
  }

  static double peak_macs(int repeats) {
    constexpr int kDepth = 64;
    alignas(64) Input values[kMaxRows * kDepth] = {};
    alignas(64) typename Type::Weight weights[kPanel * kDepth] = {};
    alignas(64) float total[kLanes] = {}, others[kPanel] = {};
    const Factors<Type> factors{weights, others, others, kDepth};
    for (int repeat = 0; repeat < repeats; ++repeat) {
      __asm__ volatile("" : : "r"(values), "r"(weights) : "memory");  // for the compiler they may have changed
      multiply_tile<Type, kMaxRows, kPanelVectors>(
          values, kDepth, factors,
          [&](int, int, Vector sum) INLINE_LAMBDA { store(total, add(load(total), sum)); });
    }
    return double(kMaxRows) * kPanel * kDepth * repeats + total[0];
  }

  static int panels(int channels) { return panel_count(channels); }

  static size_t bytes_of(const Convolution& convolution) {
    return convolution.scales ? packed_bytes<Type>(convolution) : packed_bytes<Plain>(convolution);
  }

  static void pack_weights(const Convolution& convolution, const float* weights, int outputs, int inputs,
                           void* packed) {
    (convolution.scales ? pack<Type> : pack<Plain>)(convolution, weights, outputs, inputs, packed);
  }

  static constexpr rexnet::Kernels table(const char* name) {
    return {name,     sizeof(Value), kHasBytes<Type>, kMaxRows,     kPanel,
            panels,   bytes_of,      pack_weights,    convolve_stem, expand_and_filter,
            project,  convolve_and_pool, pool,        multiply_vector, to_planes,
            peak_macs};
  }
};

}  // namespace
