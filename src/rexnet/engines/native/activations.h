// Activations of vectors. Included after a vector_*.h.
#pragma once

#include "network.h"

namespace {

using rexnet::Activation;

// 2^x: 2^n * 2^f with f in [-1/2, 1/2] and a polynomial for 2^f. Exact: Taylor's of degree 6, relative error 3e-7; else
// one of degree 3 with 1e-4, enough for bf16, whose last bit is 4e-3.
template <bool Exact>
INLINE Vector power_of_2(Vector x) {
  const Vector part = distance_to_integer(x);
  Vector series;
  if (Exact) {
    const float rest[] = {1.33335581e-3f, 9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f, 6.93147182e-1f, 1.0f};
    series = fill(1.54035304e-4f);
    for (const float coefficient : rest) series = multiply_add(series, part, fill(coefficient));
  } else {
    series = multiply_add(fill(0.0558014f), part, fill(0.2402265f));
    series = multiply_add(multiply_add(series, part, fill(0.6931472f)), part, fill(1.0f));
  }
  return scale_by_power_of_2(series, subtract(x, part));
}

constexpr float kLog2E = 1.44269504f;

template <bool Exact>
INLINE Vector sigmoid(Vector x) {
  const Vector divisor = add(fill(1.0f), power_of_2<Exact>(multiply(x, fill(-kLog2E))));
  return Exact ? divide(fill(1.0f), divisor) : estimate_reciprocal(divisor);
}

INLINE Vector relu6(Vector x) { return minimum(maximum(x, zero()), fill(6.0f)); }

// ln(1 + e^x), lane by lane: no network of the package is fast with it, and exactness is easy this way.
__attribute__((noinline)) static void softplus(float* values) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const float x = values[lane];
    values[lane] = x > 20.0f ? x : __builtin_log1pf(__builtin_expf(x));
  }
}

// Activations that are too rare for a copy of each loop. PyTorch's default settings.
__attribute__((noinline)) static Vector rare_activation(Vector x, Activation activation) {
  switch (activation) {
    case Activation::relu:
      return maximum(x, zero());
    case Activation::leaky_relu:
      return maximum(x, multiply(x, fill(0.01f)));
    case Activation::elu:
      return add(maximum(x, zero()),
                 subtract(power_of_2<true>(multiply(minimum(x, zero()), fill(kLog2E))), fill(1.0f)));
    case Activation::hardswish:
      return multiply(multiply(x, fill(1.0f / 6.0f)), relu6(add(x, fill(3.0f))));
    case Activation::sigmoid:
      return sigmoid<true>(x);
    case Activation::softplus: {
      float values[kLanes];
      store(values, x);
      softplus(values);
      return load(values);
    }
    default:
      return x;
  }
}

// How a loop is compiled: with one of the activations that the networks use, or with a call of the rare ones.
enum class Compiled { identity, relu6, silu, rare };

template <Compiled Kind, bool Exact>
INLINE Vector activate(Vector x, Activation activation) {
  switch (Kind) {
    case Compiled::identity:
      return x;
    case Compiled::relu6:
      return relu6(x);
    case Compiled::silu:
      return multiply(x, sigmoid<Exact>(x));
    default:
      return rare_activation(x, activation);
  }
}

// Call `function` with the Compiled value of an activation as a type's value.
template <Compiled Kind>
struct Kindly {
  static constexpr Compiled kind = Kind;
};

template <class Function>
INLINE void with_activation(Activation activation, Function&& function) {
  switch (activation) {
    case Activation::identity:
      return function(Kindly<Compiled::identity>{});
    case Activation::relu6:
      return function(Kindly<Compiled::relu6>{});
    case Activation::silu:
      return function(Kindly<Compiled::silu>{});
    default:
      return function(Kindly<Compiled::rare>{});
  }
}

}  // namespace
