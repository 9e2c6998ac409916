// Vectors of 8 floats. A micro-kernel of 4 pixels x 3 vectors fills 12 of 16 registers with sums; 3 hold weights.
#pragma once

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace {

constexpr int kLanes = 8, kMaxRows = 4;
using Vector = __m256;

INLINE Vector zero() { return _mm256_setzero_ps(); }
INLINE Vector fill(float value) { return _mm256_set1_ps(value); }
INLINE Vector load(const float* from) { return _mm256_loadu_ps(from); }
INLINE void store(float* to, Vector v) { _mm256_storeu_ps(to, v); }
INLINE Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
INLINE Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
INLINE Vector multiply(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
INLINE Vector divide(Vector a, Vector b) { return _mm256_div_ps(a, b); }
// 1 / v; AVX2's estimate (2^-12) would need a step of Newton, and only bf16 asks for one, which AVX2 does not have.
INLINE Vector estimate_reciprocal(Vector v) { return _mm256_div_ps(_mm256_set1_ps(1.0f), v); }
INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
INLINE Vector minimum(Vector a, Vector b) { return _mm256_min_ps(a, b); }
INLINE Vector maximum(Vector a, Vector b) { return _mm256_max_ps(a, b); }
INLINE Vector distance_to_integer(Vector v) {
  return _mm256_sub_ps(v, _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
// Adds the power to the exponent, which must not overflow: beyond 2^126 any sigmoid is 0 or 1.
INLINE Vector scale_by_power_of_2(Vector v, Vector power) {
  const Vector bounded = minimum(maximum(power, fill(-126.0f)), fill(126.0f));
  const __m256i shifted = _mm256_slli_epi32(_mm256_cvtps_epi32(bounded), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), shifted));
}

// Sums that begin with the bias.
struct FloatSums {
  using Sum = Vector;
  INLINE Sum begin(const float* bias) { return load(bias); }
  INLINE Vector finish(Sum sum, const float*, const float*, int) { return sum; }
};

struct Fp32 : FloatSums {
  using Value = float;  // of a map
  using Input = float;  // of a convolution
  using Weight = float;
  using Plain = Fp32;              // for layers without scales
  static constexpr int kStep = 1;  // input channels of one instruction
  INLINE Vector accumulate(Vector sum, const float* inputs, Vector weights) {
    return _mm256_fmadd_ps(_mm256_set1_ps(*inputs), weights, sum);
  }
};

}  // namespace
