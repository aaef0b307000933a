// Norms of rows, and the scale that makes a unit row.
//
// The squares of float32 under- and overflow; a sum outside of [2^-80, 2^120] is not trusted, and the row
// is done again in double, where products of floats are exact. Rows of double are scaled by a power of two
// instead. A row is left out only if it is exactly zero or not finite.
#pragma once

#include <cmath>

#include "partials.cuh"

namespace tfc::cuda {

constexpr double kLargestDouble = 1.7976931348623157e308;

__device__ __forceinline__ bool is_in_range(float squares) {
  return squares >= 0x1p-80f && squares <= 0x1p+120f;
}

// x * power_of is a number whose square, or whose quotient by the norm, is a normal number.
template <typename Sum>
__device__ __forceinline__ Sum power_of(int kind) {
  constexpr Sum kUp = static_cast<Sum>(sizeof(Sum) == 8 ? 0x1p+600 : 0x1p+100);
  return kind == kUsual ? 1 : kind == kTiny ? kUp : 1 / kUp;
}

__device__ __forceinline__ RowScale<float> scale_in_range(float squares) {
  const float norm = sqrtf(squares);
  return {1.0f / norm, kUsual, norm};
}

// From the squares of a row of floats, summed in double.
__device__ __forceinline__ RowScale<float> scale_from_double(double squares) {
  if (!(squares <= kLargestDouble)) return {0.0f, kUsual, nan("")};
  if (squares == 0) return {0.0f, kUsual, 0.0};
  const double norm = sqrt(squares);
  const ScaleKind kind = norm < 0x1p-120 ? kTiny : norm > 0x1p+120 ? kHuge : kUsual;
  return {static_cast<float>(1.0 / (norm * power_of<float>(kind))), kind, norm};
}

// From the squares of a row of doubles, each multiplied by power_of(kind).
__device__ __forceinline__ RowScale<double> scale_from_squares(double squares, ScaleKind kind) {
  if (!(squares <= kLargestDouble)) return {0.0, kUsual, nan("")};
  if (squares == 0) return {0.0, kUsual, 0.0};
  const double norm = sqrt(squares);
  return {1.0 / norm, kind, norm / power_of<double>(kind)};
}

}  // namespace tfc::cuda
