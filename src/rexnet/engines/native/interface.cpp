// The C interface. Python has checked all sizes; nothing throws across it.
#include <cstring>
#include <exception>

#include "runner.h"

using rexnet::Call;
using rexnet::Kernels;
using rexnet::Precision;
using rexnet::Runner;

namespace {

// The kernels for a precision on this CPU, or null. `mask` is the most that may be used: "avx2", or "" for all.
const Kernels* choose_kernels(Precision precision, const char* mask) {
  const bool only_avx2 = std::strcmp(mask, "avx2") == 0;
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = !only_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  if (precision == Precision::bf16) return bf16 ? &rexnet::kernels_avx512_bf16 : nullptr;
  if (precision == Precision::int8) {
    return bf16 && __builtin_cpu_supports("avx512vnni") ? &rexnet::kernels_avx512_int8 : nullptr;
  }
  return avx512 ? &rexnet::kernels_avx512_fp32 : avx2 ? &rexnet::kernels_avx2_fp32 : nullptr;
}

}  // namespace

extern "C" {

#define EXPORTED __attribute__((visibility("default")))

// Grows with each change of description.h or of these functions; library.py opens no other version.
EXPORTED int32_t rexnet_interface() { return 2; }

// The name of the instructions that would be used for a precision, or null.
EXPORTED const char* rexnet_instructions(int32_t precision, const char* mask) {
  const Kernels* kernels = choose_kernels(Precision(precision), mask);
  return kernels ? kernels->name : nullptr;
}

// A model, or null without the instructions, the memory or the threads.
EXPORTED void* rexnet_open(const rexnet_network* network, int32_t precision, const char* mask, int32_t threads) {
  const Kernels* kernels = choose_kernels(Precision(precision), mask);
  if (kernels == nullptr) return nullptr;
  try {
    return new Runner(*network, *kernels, threads);
  } catch (const std::exception&) {
    return nullptr;
  }
}

EXPORTED void rexnet_close(void* model) { delete static_cast<Runner*>(model); }

EXPORTED int64_t rexnet_bytes(const void* model) { return int64_t(static_cast<const Runner*>(model)->bytes()); }

// Logits (batch, outputs) of images (batch, channels, height, width), and with results null the maps of `blocks`. False
// without the memory or the threads.
EXPORTED bool rexnet_run(void* model, const float* images, int32_t batch, int32_t height, int32_t width, float* results,
                         const int32_t* blocks, float* const* maps, int32_t wanted) {
  try {
    static_cast<Runner*>(model)->run(
        Call{images, batch, height, width, results, {blocks, blocks + wanted}, {maps, maps + wanted}});
    return true;
  } catch (const std::exception&) {
    return false;
  }
}

EXPORTED double rexnet_peak_macs(const void* model, int32_t repeats) {
  return static_cast<const Runner*>(model)->model().kernels.peak_macs(repeats);
}

}  // extern "C"
