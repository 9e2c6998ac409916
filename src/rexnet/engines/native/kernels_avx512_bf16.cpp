// Kernels in bf16 for CPUs with AVX-512 BF16 (Intel's servers since 2020, AMD since 2022). Sums are in fp32.
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#endif

#define REXNET_BF16
#include "vector_avx512.h"
// Included last, since it builds on the vectors.
#include "tasks.h"

namespace rexnet {
extern const Kernels kernels_avx512_bf16 = Tasks<Bf16>::table("avx512_bf16");
}
#ifdef __clang__
#pragma clang attribute pop
#endif
