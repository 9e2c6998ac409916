// Kernels in fp32 for CPUs with AVX-512 (Intel's servers since 2017, AMD since 2022).
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#endif

#include "vector_avx512.h"
// Included last, since it builds on the vectors.
#include "tasks.h"

namespace rexnet {
extern const Kernels kernels_avx512_fp32 = Tasks<Fp32>::table("avx512");
}
#ifdef __clang__
#pragma clang attribute pop
#endif
