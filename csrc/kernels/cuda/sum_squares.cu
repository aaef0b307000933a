// Sums of squares of a tile of products of centred rows: one block per 64 rows and 256 columns.
//
// Reads 4 `count` bytes per product (float64: 8) and 4 per row and column, writes 16 per block. Sums are
// double, in an order that the tile's shape alone decides. One launch per tile.
#include "block.cuh"
#include "centred_rows.h"
#include "cosine_tile.cuh"

namespace tfc::cuda {
namespace {

constexpr int kSquares = 4;  // of kTileSide that a block takes

dim3 grid_of(const CosineTile& tile) {
  return {static_cast<unsigned>((tile.columns + kSquares * kTileStep - 1) / (kSquares * kTileStep)),
          static_cast<unsigned>((tile.rows + kTileStep - 1) / kTileStep), 1};
}

template <typename Real>
__global__ void __launch_bounds__(kTileThreads)
    sum_squares_kernel(CosineTile tile, const int32_t* label, const double* shifts, double* partials) {
  TFC_DYNAMIC_SHARED(double, slots);
  const int64_t top = blockIdx.y * kTileStep;
  const int64_t begin = blockIdx.x * (kSquares * kTileStep);
  double within = 0;
  double between = 0;
#pragma unroll 1
  for (int square = 0; square < kSquares; ++square) {
    for_each_run<Real>(tile, top, begin + square * kTileStep, [&](int64_t r, int64_t c, const Real* values) {
      const int64_t row = tile.row + r;
      const int32_t of_row = load(label + row);
#pragma unroll
      for (int k = 0; k < kTileColumns<Real>; ++k) {
        const int64_t column = tile.column + c + k;
        if (c + k >= tile.columns || column <= row) continue;
        const double product = static_cast<double>(values[k]);
        if (load(label + column) == of_row) {
          const double shifted = product + load(shifts + of_row);
          within += shifted * shifted;
        } else {
          between += product * product;
        }
      }
    });
  }
  within = block_sum(within, slots);
  between = block_sum(between, slots);
  if (threadIdx.x != 0) return;
  double* partial = partials + (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * 2;
  store(partial, within);
  store(partial + 1, between);
}

}  // namespace

int64_t sum_squares_blocks(const CosineTile& tile) {
  const dim3 grid = grid_of(tile);
  return static_cast<int64_t>(grid.x) * grid.y;
}

cudaError_t sum_squares(const CosineTile& tile, const int32_t* label, const double* shifts, double* partials,
                        cudaStream_t stream) {
  if (tile.rows == 0 || tile.columns == 0) return cudaSuccess;
  const dim3 grid = grid_of(tile);
  const dim3 block{kTileThreads, 1, 1};
  const auto shared = kTileThreads / 32 * sizeof(double);
  return tile.is_double ? TFC_LAUNCH(sum_squares_kernel<double>, grid, block, shared, stream, tile, label,
                                     shifts, partials)
                        : TFC_LAUNCH(sum_squares_kernel<float>, grid, block, shared, stream, tile, label,
                                     shifts, partials);
}

}  // namespace tfc::cuda
