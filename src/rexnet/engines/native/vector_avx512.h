// Vectors of 16 floats. A micro-kernel of 8 pixels x 3 vectors fills 24 of 32 registers with sums; 3 hold weights.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "network.h"

#define INLINE static inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

namespace {

using rexnet::Quantizer;

constexpr int kLanes = 16, kMaxRows = 8;
using Vector = __m512;

INLINE Vector zero() { return _mm512_setzero_ps(); }
INLINE Vector fill(float value) { return _mm512_set1_ps(value); }
INLINE Vector load(const float* from) { return _mm512_loadu_ps(from); }
INLINE void store(float* to, Vector v) { _mm512_storeu_ps(to, v); }
INLINE Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
INLINE Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
INLINE Vector multiply(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
INLINE Vector divide(Vector a, Vector b) { return _mm512_div_ps(a, b); }
// 1 / v with a relative error of 2^-14.
INLINE Vector estimate_reciprocal(Vector v) { return _mm512_rcp14_ps(v); }
INLINE Vector multiply_add(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Vector minimum(Vector a, Vector b) { return _mm512_min_ps(a, b); }
INLINE Vector maximum(Vector a, Vector b) { return _mm512_max_ps(a, b); }
INLINE Vector distance_to_integer(Vector v) { return _mm512_reduce_ps(v, 0); }
INLINE Vector scale_by_power_of_2(Vector v, Vector power) { return _mm512_scalef_ps(v, power); }

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
    return _mm512_fmadd_ps(_mm512_set1_ps(*inputs), weights, sum);
  }
};

#ifdef REXNET_BF16
INLINE Vector load(const uint16_t* from) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
INLINE void store(uint16_t* to, Vector v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
}

struct Bf16 : FloatSums {
  using Value = uint16_t;
  using Input = uint16_t;
  using Weight = uint16_t;
  using Plain = Bf16;
  static constexpr int kStep = 2;
  INLINE Vector accumulate(Vector sum, const uint16_t* inputs, Vector weights) {
    int32_t pair;
    __builtin_memcpy(&pair, inputs, sizeof pair);
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair)),
                            reinterpret_cast<__m512bh>(weights));
  }
};
#endif

#ifdef REXNET_INT8
INLINE void store_bytes(uint8_t* to, Vector v, const Quantizer& bytes) {
  const Vector bounded = minimum(fill(255.0f), multiply_add(v, fill(bytes.factor), fill(bytes.zero)));
  const __m512i whole = _mm512_cvtps_epi32(bounded);
  const __m512i least = _mm512_max_epi32(whole, _mm512_setzero_si512());
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8(least));
}

// Maps are in bf16, as in Bf16; only the inputs of large convolutions are bytes.
struct Int8 {
  using Value = uint16_t;
  using Input = uint8_t;
  using Weight = int8_t;
  using Sum = __m512i;
  using Plain = Bf16;
  static constexpr int kStep = 4;
  INLINE Sum begin(const float*) { return _mm512_setzero_si512(); }
  INLINE Sum accumulate(Sum sum, const uint8_t* inputs, Vector weights) {
    int32_t four;
    __builtin_memcpy(&four, inputs, sizeof four);
    // gcc 12 copies each sum to memory and back around the intrinsic, which takes twice the time.
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(_mm512_set1_epi32(four)), "v"(weights));
    return sum;
  }
  INLINE Vector finish(Sum sum, const float* scales, const float* bias, int channel) {
    return multiply_add(_mm512_cvtepi32_ps(sum), load(scales + channel), load(bias + channel));
  }
};
#endif

}  // namespace
