// Products of small float matrices by fused multiply-add.
#pragma once

#include <cstdint>

namespace tfc::cpu {

// c[m, n] = a[m, k] b[k, n], or c += with `add`; all row by row, rows `ld*` elements apart, and with
// `transposed` a as [k, m]. m is a multiple of 4, n of 16. Every entry is summed in one order, in runs of
// `run` terms (128 at most), whatever m and n are.
using FusedGemmFunction = void (*)(int64_t m, int64_t n, int64_t k, int64_t run, bool transposed,
                                   const float* a, int64_t lda, const float* b, int64_t ldb, bool add,
                                   float* c, int64_t ldc);

// Null where the processor lacks AVX2 and FMA, and on others than x86-64.
FusedGemmFunction fused_gemm();

}  // namespace tfc::cpu
