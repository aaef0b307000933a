// Products of small packed matrices, each on the thread that asks for it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

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

// The same of a that lies there as [k, m].
void transposed_gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
                     int64_t ldb, bool add, float* c, int64_t ldc);
void transposed_gemm(int64_t m, int64_t n, int64_t k, const double* a, int64_t lda, const double* b,
                     int64_t ldb, bool add, double* c, int64_t ldc);

// The first of bfloat16, summed in float32: a holds rows, b [k / 2, n, 2] pairs of entries of a column, `ldb`
// columns apart; k is even. Denormal entries count as zero. Quick only where multiplies_pairs().
void gemm(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb,
          bool add, float* c, int64_t ldc);

constexpr int64_t kGemmRun = 32;

// Float products want m, n and k to be multiples of 16 (pad with zeros), and few different ones:
// oneDNN compiles each shape once per thread, which takes as long as a small product.

// What multiplies floats. kOneDnn: its batch-reduce kernels, for AVX-512. kFused: ours (fused_gemm.h), for
// AVX2. kTorch: at::mm.
enum class FloatGemm { kOneDnn, kFused, kTorch };

// The best that this processor and torch have. torch.backends.mkldnn.flags(enabled=False) rules out oneDNN.
FloatGemm float_gemm();

// Whether bfloat16 is multiplied as such: oneDNN does, where the processor has an instruction for it. For
// tests: everywhere from now on, be it slowly; or only there.
bool multiplies_pairs();
void always_multiply_pairs(bool always);

// For tests: "onednn", "fused" and "torch", as far as they are there, best first; and nothing better than
// that from now on. Throws std::invalid_argument for another name.
std::vector<std::string> float_gemms();
void use_float_gemm(const std::string& best);

}  // namespace tfc::ops
