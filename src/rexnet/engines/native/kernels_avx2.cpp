// Kernels in fp32 for CPUs with AVX2 and FMA (Intel since 2013, AMD since 2015).
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

#include "vector_avx2.h"
// Included last, since it builds on the vectors.
#include "tasks.h"

namespace rexnet {
extern const Kernels kernels_avx2_fp32 = Tasks<Fp32>::table("avx2");
}
#ifdef __clang__
#pragma clang attribute pop
#endif
