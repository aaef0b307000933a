// The product of fused_gemm.h for AVX2; its compiler flags are in CMakeLists.txt. Unlike all other loops it
// is compiled with fused multiply-adds: there is only one of it, so no other has to give the same bits.
//
// Eight sums of eight entries, four rows by sixteen columns, stay in registers for a run of terms and then
// join c in first-level cache: as many as two multipliers with a latency of four cycles keep busy. A strip
// of sixteen columns of b is laid out one row after the other first, so that it never falls into a few
// sets of the cache. Nothing here instantiates a standard template, see simd.h.
#include "../fused_gemm.h"

namespace tfc::cpu::x86_64_v3 {
namespace {

typedef float Vector __attribute__((vector_size(32)));
typedef float Unaligned __attribute__((vector_size(32), aligned(4), may_alias));

constexpr int kWidth = 8;
constexpr int kRows = 4;
constexpr int kColumns = 2 * kWidth;
constexpr int64_t kDepth = 128;  // rows of b in a strip: 8 KiB
constexpr int64_t kBlock = 128;  // rows of a that all strips of b meet in turn: 64 KiB, in second-level cache

inline int64_t lesser(int64_t a, int64_t b) { return a < b ? a : b; }

// A copy by memcpy would keep sums in memory.
inline __attribute__((always_inline)) Vector load(const float* from) { return *(const Unaligned*)from; }
inline __attribute__((always_inline)) void store(float* to, Vector value) { *(Unaligned*)to = value; }

inline __attribute__((always_inline)) Vector in_all_lanes(float x) { return Vector{x, x, x, x, x, x, x, x}; }

// Four rows of a, or columns if it is transposed, with a strip.
template <bool kTransposed>
inline __attribute__((always_inline)) void multiply(int64_t depth, int64_t run, const float* a, int64_t lda,
                                                    const float* strip, bool add, float* c, int64_t ldc) {
  for (int64_t first = 0; first < depth; first += run) {
    Vector sum[kRows][2] = {};
    const int64_t last = lesser(depth, first + run);
#pragma GCC unroll 2
    for (int64_t k = first; k < last; ++k) {
      const Vector left = load(strip + k * kColumns);
      const Vector right = load(strip + k * kColumns + kWidth);
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const Vector factor = in_all_lanes(kTransposed ? a[k * lda + r] : a[r * lda + k]);
        sum[r][0] += factor * left;
        sum[r][1] += factor * right;
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kRows; ++r) {
      float* to = c + r * ldc;
      if (add || first > 0) {
        sum[r][0] += load(to);
        sum[r][1] += load(to + kWidth);
      }
      store(to, sum[r][0]);
      store(to + kWidth, sum[r][1]);
    }
  }
}

inline void copy_strip(int64_t depth, const float* b, int64_t ldb, float* strip) {
  for (int64_t k = 0; k < depth; ++k, b += ldb, strip += kColumns) {
    store(strip, load(b));
    store(strip + kWidth, load(b + kWidth));
  }
}

template <bool kTransposed>
void product(int64_t m, int64_t n, int64_t k, int64_t run, const float* a, int64_t lda, const float* b,
             int64_t ldb, bool add, float* c, int64_t ldc) {
  alignas(64) float strip[kDepth * kColumns];
  const int64_t most = kDepth / run * run;
  for (int64_t row = 0; row < k; row += most) {
    const int64_t depth = lesser(most, k - row);
    for (int64_t top = 0; top < m; top += kBlock) {
      for (int64_t j = 0; j < n; j += kColumns) {
        copy_strip(depth, b + row * ldb + j, ldb, strip);
        for (int64_t i = top; i < lesser(m, top + kBlock); i += kRows) {
          const float* from = kTransposed ? a + row * lda + i : a + i * lda + row;
          multiply<kTransposed>(depth, run, from, lda, strip, add || row > 0, c + i * ldc + j, ldc);
        }
      }
    }
  }
}

}  // namespace

void fused_gemm(int64_t m, int64_t n, int64_t k, int64_t run, bool transposed, const float* a, int64_t lda,
                const float* b, int64_t ldb, bool add, float* c, int64_t ldc) {
  (transposed ? product<true> : product<false>)(m, n, k, run, a, lda, b, ldb, add, c, ldc);
}

}  // namespace tfc::cpu::x86_64_v3
