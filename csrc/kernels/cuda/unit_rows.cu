// Unit rows, one block per row. Reads each row once from memory (again from cache), writes it once with its
// padding, and 8 or 24 bytes more per row. One launch.
#include "unit_rows.h"

#include "row_norm.cuh"

namespace tfc::cuda {
namespace {

// float16 holds 2^-24 ... 65504: rows of a norm of some 2^15 keep all digits of entries down to 2^-29 of it.
template <typename T>
constexpr int kExponent = 0;
template <>
constexpr int kExponent<Half> = 15;

template <typename T, typename Out>
__global__ void __launch_bounds__(512) unit_rows_kernel(UnitRows a, bool aligned) {
  static_assert(kPiece<T> % kPiece<Out> == 0);
  constexpr bool kIsPowerOfTwo = sizeof(Out) == 2;
  TFC_DYNAMIC_SHARED(double, slots);
  const int64_t position = blockIdx.x;
  const bool is_row = position < a.n;
  const int64_t row = is_row && a.order != nullptr ? load(a.order + position) : position;
  const T* x = static_cast<const T*>(a.rows) + (is_row ? row * a.stride : 0);
  const RowNorm norm = is_row ? row_norm(x, a.width, aligned, slots) : RowNorm{0, kUsual};
  double pre = norm.power();
  double scale = norm.scale;
  if (kIsPowerOfTwo && norm.takes_part()) {
    int exponent;
    frexp(scale, &exponent);
    pre = ldexp(1.0, exponent - 1 + kExponent<T>);
    scale /= pre;
  }
  if (threadIdx.x == 0) {
    if (a.factors != nullptr) store(a.factors + position, kIsPowerOfTwo || !(scale > 0) ? scale : 1.0);
    if (a.scales != nullptr && is_row) store(a.scales + position, {pre, scale});
  }
  if (a.out == nullptr) return;
  Out* out = static_cast<Out*>(a.out) + position * a.pitch;
  const double by = kIsPowerOfTwo ? 1.0 : scale;
  const int64_t step = static_cast<int64_t>(blockDim.x) * kPiece<T>;
  for (int64_t j = static_cast<int64_t>(threadIdx.x) * kPiece<T>; j < a.pitch; j += step) {
    uint4 piece = {0, 0, 0, 0};
    if (norm.takes_part() && j < a.width) {
      piece = load_piece<T>(x + j, 0, pieces_left<T>(a.width - j), aligned);
    }
#pragma unroll
    for (int from = 0; from < kPiece<T>; from += kPiece<Out>) {
      uint4 unit = {0, 0, 0, 0};
#pragma unroll
      for (int i = 0; i < kPiece<Out>; ++i) {
        const double value = static_cast<double>(Element<T>::value(piece, from + i)) * pre * by;
        Element<Out>::put(unit, i, Element<Out>::rounded(value));
      }
      // A row that takes no part has no scale to multiply by.
      if (!norm.takes_part()) unit = {0, 0, 0, 0};
      if (j + from < a.pitch) store(reinterpret_cast<uint4*>(out + j + from), unit);
    }
  }
}

template <typename T, typename Out>
cudaError_t launch(const UnitRows& a, cudaStream_t stream) {
  const bool aligned = is_aligned(a.rows, a.stride, sizeof(T));
  const int64_t rows = a.out == nullptr && a.factors == nullptr ? a.n : a.padded_rows;
  const dim3 grid{static_cast<unsigned>(rows), 1, 1};
  const dim3 block{threads_for<T>(a.width), 1, 1};
  if (rows == 0) return cudaSuccess;
  return TFC_LAUNCH((unit_rows_kernel<T, Out>), grid, block, block.x / 32 * sizeof(double), stream, a,
                    aligned);
}

template <typename T>
cudaError_t launch(const UnitRows& a, cudaStream_t stream) {
  if (a.form == UnitForm::kDouble) return launch<T, double>(a, stream);
  if constexpr (sizeof(T) == 2) {
    if (a.form == UnitForm::kPowerOfTwo) return launch<T, T>(a, stream);
  }
  if constexpr (sizeof(T) < 8) {
    if (a.form == UnitForm::kFloat) return launch<T, float>(a, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace

cudaError_t unit_rows(const UnitRows& a, cudaStream_t stream) {
  return with_element(a.scalar, [&]<typename T>() { return launch<T>(a, stream); });
}

}  // namespace tfc::cuda
