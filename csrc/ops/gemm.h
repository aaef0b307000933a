// Products of small packed matrices, each on the thread that asks for it.
#pragma once

#include <cstdint>

namespace tfc::ops {

// c[m, n] = a[m, k] b[k, n], or c += with `add`; all row by row, rows `ld*` elements apart. Runs on
// the calling thread alone when that is inside at::parallel_for, so a task's bits do not depend on
// the number of threads. Float products are float32 throughout, whatever
// torch.set_float32_matmul_precision allows, and are summed in runs of kGemmRun terms: a thousand equal
// products, whose roundings all go one way, are then off by less than 1e-6 of their sum.
void gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, bool add,
          float* c, int64_t ldc);
void gemm(int64_t m, int64_t n, int64_t k, const double* a, int64_t lda, const double* b, int64_t ldb,
          bool add, double* c, int64_t ldc);

// The same of bfloat16, summed in float32: a holds rows, b [k / 2, n, 2] pairs of entries of a column, `ldb`
// columns apart; k is even. Denormal entries count as zero. Only where bfloat16_gemm_is_compiled().
void gemm(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb,
          bool add, float* c, int64_t ldc);

constexpr int64_t kGemmRun = 32;

// Float products want m, n and k to be multiples of 16 (pad with zeros), and few different ones:
// each shape is compiled once per thread, which takes as long as a small product.

// Whether float products run on oneDNN's batch-reduce kernels (the processor and torch have them) or
// on at::mm, and whether those do bfloat16 with an instruction for it. For tests: use at::mm from now on, or
// whatever is best.
bool gemm_is_compiled();
bool bfloat16_gemm_is_compiled();
void use_compiled_gemm(bool allowed);

}  // namespace tfc::ops
