// What becomes of a tile of the matrix of cosines while it is in cache: written out, counted, or
// summed.
#pragma once

#include <cstdint>

namespace tfc::cpu {

// out[i * row_stride + j * column_stride] = tile[i * stride + j], clamped to [-1, 1]; NaN stays NaN.
template <typename Real>
using PlaceCosinesFunction = void (*)(const Real* tile, int64_t stride, int64_t rows, int64_t columns,
                                      Real* out, int64_t row_stride, int64_t column_stride);

// tile[i * stride + j] *= left[i] * right[j]
using ScaleCosinesFunction = void (*)(const float* left, const float* right, int64_t rows, int64_t columns,
                                      float* tile, int64_t stride);

// Counts come in several columns, so that equal neighbours need not wait for each other's increment.
constexpr int kCountWays = 4;

// Adds the `count` cosines at `cosine`, none of them NaN, to counts[kCountWays, bins]: cell
// floor((c + 1) bins / 2), the last one closed above.
template <typename Real>
using CountCosinesFunction = void (*)(const Real* cosine, int64_t count, int64_t bins, uint32_t* counts);

// Sum of (value + shift)^2 over the `count` values at `values`, in double.
template <typename Real>
using SumSquaresFunction = double (*)(const Real* values, int64_t count, double shift);

}  // namespace tfc::cpu
