// Kernels in int8 for CPUs with AVX-512 VNNI and BF16 (Intel's servers since 2020, AMD since 2022). Only the inputs of
// large 1x1 convolutions are bytes.
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vnni")
#endif

#define REXNET_BF16
#define REXNET_INT8
#include "vector_avx512.h"
// Included last, since it builds on the vectors.
#include "tasks.h"

namespace rexnet {
extern const Kernels kernels_avx512_int8 = Tasks<Int8>::table("avx512_vnni");
}
#ifdef __clang__
#pragma clang attribute pop
#endif
