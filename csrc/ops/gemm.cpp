#include "gemm.h"

#include <ATen/Context.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <c10/core/CPUAllocator.h>
#include <c10/util/BFloat16.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <utility>

#include "../kernels/cpu/dispatch.h"
#include "../kernels/cpu/fused_gemm.h"

namespace tfc::ops {
namespace {

constexpr std::pair<FloatGemm, const char*> kNames[] = {
    {FloatGemm::kOneDnn, "onednn"}, {FloatGemm::kFused, "fused"}, {FloatGemm::kTorch, "torch"}};

std::atomic<FloatGemm> best_allowed{FloatGemm::kOneDnn};
std::atomic<bool> pairs_always{false};

template <typename Real>
at::Tensor view(const Real* data, int64_t rows, int64_t columns, int64_t stride) {
  return at::from_blob(const_cast<Real*>(data), {rows, columns}, {stride, 1},
                       at::TensorOptions().dtype(c10::CppTypeToScalarType<Real>::value));
}

// [m, k], or what it is the transpose of.
template <typename Real>
struct Left {
  const Real* data;
  int64_t stride;
  bool transposed;

  Left from(int64_t term) const { return {data + term * (transposed ? stride : 1), stride, transposed}; }
  at::Tensor tensor(int64_t m, int64_t k) const {
    return transposed ? view(data, k, m, stride).t() : view(data, m, k, stride);
  }
};

template <typename Real>
void library_gemm(int64_t m, int64_t n, int64_t k, const Left<Real>& a, const Real* b, int64_t ldb, bool add,
                  Real* c, int64_t ldc) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  at::Tensor out = view<Real>(c, m, n, ldc);
  const at::Tensor left = a.tensor(m, k);
  const at::Tensor right = view(b, k, n, ldb);
  if (add) {
    at::addmm_out(out, out, left, right);
  } else {
    at::mm_out(out, left, right);
  }
}

bool float_products_are_float() {
  const auto precision =
      at::globalContext().float32Precision(at::Float32Backend::MKLDNN, at::Float32Op::MATMUL);
  return precision != at::Float32Precision::BF16 && precision != at::Float32Precision::TF32;
}

#if defined(CPUBLAS_BRGEMM_F32F32F32)
bool try_onednn() {
  const float a[2] = {1, 2};
  const float b[2] = {3, 4};
  float c = 0;
  try {
    at::native::cpublas::brgemm(1, 1, 2, 2, 1, 1, /*add_C=*/false, a, b, &c, /*is_vnni=*/false);
    at::native::cpublas::brgemm_release(/*is_vnni=*/false);
  } catch (const c10::Error&) {
    return false;  // torch says so when the processor lacks AVX-512
  }
  return c == 11;
}
#endif

#if defined(CPUBLAS_BRGEMM_BF16BF16F32)
void brgemm(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb,
            bool add, float* c, int64_t ldc) {
  at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, add, reinterpret_cast<const at::BFloat16*>(a),
                              reinterpret_cast<const at::BFloat16*>(b), c, /*is_vnni=*/true);
}

bool try_bfloat16() {
  // Elsewhere oneDNN makes do with several instructions, which takes longer than a product of floats.
  if (!cpu::multiplies_bfloat16()) return false;
  const uint16_t a[2] = {0x3f80, 0x4000};  // 1, 2
  const uint16_t b[2] = {0x4040, 0x4080};  // 3, 4
  float c = 0;
  try {
    brgemm(1, 1, 2, a, 2, b, 1, /*add=*/false, &c, 1);
    at::native::cpublas::brgemm_release();
  } catch (const c10::Error&) {
    return false;
  }
  return c == 11;
}
#endif

bool works(FloatGemm gemm) {
  switch (gemm) {
    case FloatGemm::kOneDnn: {
#if defined(CPUBLAS_BRGEMM_F32F32F32)
      // For AVX2 it has them too, slower than ours and than MKL's products.
      if (!cpu::has_avx512() || !at::globalContext().userEnabledMkldnn()) return false;
      static const bool onednn_works = try_onednn();
      return onednn_works;
#else
      return false;
#endif
    }
    case FloatGemm::kFused:
      return cpu::fused_gemm() != nullptr;
    case FloatGemm::kTorch:
      return true;
  }
  return false;
}

bool brgemm_takes_pairs() {
#if defined(CPUBLAS_BRGEMM_BF16BF16F32)
  if (float_gemm() != FloatGemm::kOneDnn) return false;
  static const bool takes = try_bfloat16();
  return takes;
#else
  return false;
#endif
}

float widened(uint16_t bfloat16) { return c10::detail::f32_from_bits(bfloat16); }

// c += a b of one run, pair by pair.
void add_pairs(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t lda, const uint16_t* b,
               int64_t ldb, float* c, int64_t ldc) {
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      float sum = 0;
      for (int64_t l = 0; l < k; ++l) {
        sum += widened(a[i * lda + l]) * widened(b[(l / 2 * ldb + j) * 2 + l % 2]);
      }
      c[i * ldc + j] += sum;
    }
  }
}

#if defined(CPUBLAS_BRGEMM_F32F32F32)
// oneDNN takes no transposed factor.
void brgemm(int64_t m, int64_t n, int64_t k, const Left<float>& a, const float* b, int64_t ldb, bool add,
            float* c, int64_t ldc) {
  if (a.transposed) {
    const at::DataPtr memory = c10::GetCPUAllocator()->allocate(static_cast<size_t>(m * k) * sizeof(float));
    auto* const rows = static_cast<float*>(memory.get());
    cpu::UnitRows columns{};
    columns.data = a.data;
    columns.stride = a.stride;
    columns.width = m;
    cpu::kernels().unit_columns_float[static_cast<int>(cpu::Scalar::kFloat32)](columns, 0, k, rows, k);
    return brgemm(m, n, k, {rows, k, false}, b, ldb, add, c, ldc);
  }
  for (int64_t first = 0; first < k; first += kGemmRun) {
    at::native::cpublas::brgemm(m, n, std::min(kGemmRun, k - first), a.stride, ldb, ldc, add || first > 0,
                                a.from(first).data, b + first * ldb, c, /*is_vnni=*/false);
  }
  at::native::cpublas::brgemm_release(/*is_vnni=*/false);
}
#endif

void multiply(int64_t m, int64_t n, int64_t k, const Left<float>& a, const float* b, int64_t ldb, bool add,
              float* c, int64_t ldc) {
  const FloatGemm best = float_gemm();
#if defined(CPUBLAS_BRGEMM_F32F32F32)
  if (best == FloatGemm::kOneDnn) return brgemm(m, n, k, a, b, ldb, add, c, ldc);
#endif
  if (best == FloatGemm::kFused) {
    cpu::fused_gemm()(m, n, k, kGemmRun, a.transposed, a.data, a.stride, b, ldb, add, c, ldc);
    return;
  }
  if (float_products_are_float()) {
    for (int64_t first = 0; first < k; first += kGemmRun) {
      library_gemm(m, n, std::min(kGemmRun, k - first), a.from(first), b + first * ldb, ldb, add || first > 0,
                   c, ldc);
    }
    return;
  }
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const at::Tensor product = at::mm(a.tensor(m, k).to(at::kDouble), view(b, k, n, ldb).to(at::kDouble));
  at::Tensor out = view<float>(c, m, n, ldc);
  add ? out.add_(product) : out.copy_(product);
}

}  // namespace

FloatGemm float_gemm() {
  for (const auto& [gemm, name] : kNames) {
    if (gemm >= best_allowed.load(std::memory_order_relaxed) && works(gemm)) return gemm;
  }
  return FloatGemm::kTorch;
}

bool multiplies_pairs() { return pairs_always.load(std::memory_order_relaxed) || brgemm_takes_pairs(); }

void always_multiply_pairs(bool always) { pairs_always.store(always); }

std::vector<std::string> float_gemms() {
  std::vector<std::string> names;
  for (const auto& [gemm, name] : kNames) {
    if (works(gemm)) names.emplace_back(name);
  }
  return names;
}

void use_float_gemm(const std::string& best) {
  for (const auto& [gemm, name] : kNames) {
    if (best == name) return best_allowed.store(gemm);
  }
  throw std::invalid_argument("no product is named '" + best + "'; choose one of: onednn, fused, torch");
}

void gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b, int64_t ldb, bool add,
          float* c, int64_t ldc) {
  multiply(m, n, k, {a, lda, false}, b, ldb, add, c, ldc);
}

void gemm(int64_t m, int64_t n, int64_t k, const double* a, int64_t lda, const double* b, int64_t ldb,
          bool add, double* c, int64_t ldc) {
  library_gemm<double>(m, n, k, {a, lda, false}, b, ldb, add, c, ldc);
}

void transposed_gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t lda, const float* b,
                     int64_t ldb, bool add, float* c, int64_t ldc) {
  multiply(m, n, k, {a, lda, true}, b, ldb, add, c, ldc);
}

void transposed_gemm(int64_t m, int64_t n, int64_t k, const double* a, int64_t lda, const double* b,
                     int64_t ldb, bool add, double* c, int64_t ldc) {
  library_gemm<double>(m, n, k, {a, lda, true}, b, ldb, add, c, ldc);
}

void gemm(int64_t m, int64_t n, int64_t k, const uint16_t* a, int64_t lda, const uint16_t* b, int64_t ldb,
          bool add, float* c, int64_t ldc) {
#if defined(CPUBLAS_BRGEMM_BF16BF16F32)
  if (brgemm_takes_pairs()) {
    for (int64_t first = 0; first < k; first += kGemmRun) {
      brgemm(m, n, std::min(kGemmRun, k - first), a + first, lda, b + first * ldb, ldb, add || first > 0, c,
             ldc);
    }
    at::native::cpublas::brgemm_release();
    return;
  }
#endif
  for (int64_t i = 0; i < m && !add; ++i) std::fill(c + i * ldc, c + i * ldc + n, 0.0f);
  for (int64_t first = 0; first < k; first += kGemmRun) {
    add_pairs(m, n, std::min(kGemmRun, k - first), a + first, lda, b + first * ldb, ldb, c, ldc);
  }
}

}  // namespace tfc::ops
