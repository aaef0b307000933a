// The numbers of a tile of products, as the kernels of cosine_tile.h walk them.
#pragma once

#include "cosine_tile.h"
#include "elements.cuh"

namespace tfc::cuda {

constexpr int kTileThreads = 256;
constexpr int kTileSide = static_cast<int>(kTileStep);

// Sum of many numbers and of what its additions round away.
template <typename Real>
struct ExactSum {
  Real sum = 0;
  Real lost = 0;

  __device__ __forceinline__ void add(Real value) {
    const Real total = sum + value;
    const Real added = total - sum;
    lost += (sum - (total - added)) + (value - added);
    sum = total;
  }
  __device__ __forceinline__ Real total() const { return sum + lost; }
};

// Columns that a thread takes of one row.
template <typename Real>
constexpr int kTileColumns = kPiece<Real>;

// Calls visit(r, c, values) for runs of kTileColumns columns from row r and column c of the tile on, those of
// the square of kTileSide from (top, left) on that are this thread's. What lies past the columns is
// undefined.
template <typename Real, typename Visit>
__device__ __forceinline__ void for_each_run(const CosineTile& tile, int64_t top, int64_t left,
                                             const Visit& visit) {
  constexpr int kAcross = kTileSide / kTileColumns<Real>;
  const int64_t c = left + static_cast<int>(threadIdx.x) % kAcross * kTileColumns<Real>;
  if (c >= tile.columns) return;
  for (int i = static_cast<int>(threadIdx.x) / kAcross; i < kTileSide; i += kTileThreads / kAcross) {
    const int64_t r = top + i;
    if (r >= tile.rows) return;
    const Real* piece = static_cast<const Real*>(tile.pieces) + r * tile.stride + c;
    ExactSum<Real> sums[kTileColumns<Real>];
#pragma unroll 4
    for (int64_t p = 0; p < tile.count; ++p, piece += tile.rows * tile.stride) {
      const uint4 values = load(reinterpret_cast<const uint4*>(piece));
#pragma unroll
      for (int k = 0; k < kTileColumns<Real>; ++k) sums[k].add(Element<Real>::value(values, k));
    }
    Real values[kTileColumns<Real>];
#pragma unroll
    for (int k = 0; k < kTileColumns<Real>; ++k) values[k] = sums[k].total();
    visit(r, c, values);
  }
}

// The same with factors: cosines, not yet clamped.
template <typename Real, typename Visit>
__device__ __forceinline__ void for_each_cosine(const CosineTile& tile, int64_t top, int64_t left,
                                                const Visit& visit) {
  for_each_run<Real>(tile, top, left, [&](int64_t r, int64_t c, const Real* values) {
    const Real by = static_cast<Real>(load(tile.row_factors + tile.row + r));
#pragma unroll
    for (int k = 0; k < kTileColumns<Real>; ++k) {
      if (c + k >= tile.columns) break;
      const Real factor = static_cast<Real>(load(tile.column_factors + tile.column + c + k));
      visit(r, c + k, by, factor, values[k] * (by * factor));
    }
  });
}

}  // namespace tfc::cuda
