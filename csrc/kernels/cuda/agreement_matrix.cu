// How alike the gates of every row are to those of every other: one tile of 64 x 64 pairs per block (see
// gate_tiles.cuh). Without a second batch only tiles on and above the diagonal are compared, and written
// twice.
//
// Traffic: reads 2 x 64 rows of gates per tile, mostly from cache; writes 4 bytes per pair, in rows of the
// output or in its columns, whichever are closer together. One launch.
#include "gate_launchers.h"
#include "gate_tiles.cuh"

namespace tfc::cuda {
namespace {

struct MatrixArguments {
  GateRows rows;
  GateTileGrid grid;
  float* out;
  int64_t row_stride, column_stride;
};

// Whole numbers up to 2^24 are exact as float. Others are divided as double and rounded again, which does no
// harm below 2^29: no such fraction is so near to the middle between two floats without being there.
__device__ __forceinline__ float fraction(int32_t part, int32_t whole, bool exact_as_float) {
  if (exact_as_float) return static_cast<float>(part) / static_cast<float>(whole);
  return static_cast<float>(static_cast<double>(part) / static_cast<double>(whole));
}

template <bool kJaccard>
__device__ __forceinline__ void divide(const OnesOfThread& ones, int32_t units, GateTileMemory& memory) {
  const bool exact_as_float = units <= 1 << 24;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int row = row_of(i);
      const int column = column_of(j);
      const int32_t differing = ones[i][j].total();
      float agreement;
      if constexpr (kJaccard) {
        const int32_t open = memory.open[row] + memory.open[kTileRows + column];
        agreement = fraction((open - differing) / 2, (open + differing) / 2, exact_as_float);
      } else {
        agreement = fraction(units - differing, units, exact_as_float);
      }
      memory.agreement[row][column] = agreement;
    }
  }
}

// The tile to `out`, whose first entry is that of its first pair.
__device__ __forceinline__ void place(const GateTileMemory& memory, int64_t rows, int64_t columns, float* out,
                                      int64_t row_stride, int64_t column_stride) {
  const bool along_rows = column_stride <= row_stride;
  for (int at = static_cast<int>(threadIdx.x); at < kTileRows * kTileRows; at += kTileThreads) {
    const int row = along_rows ? at / kTileRows : at % kTileRows;
    const int column = along_rows ? at % kTileRows : at / kTileRows;
    if (row < rows && column < columns) {
      store(out + row * row_stride + column * column_stride, memory.agreement[row][column]);
    }
  }
}

template <bool kJaccard>
__global__ void __launch_bounds__(kTileThreads, 2) agreement_matrix_kernel(const MatrixArguments a) {
  TFC_DYNAMIC_SHARED(GateTileMemory, memory);
  GateTile tile;
  if (!a.grid.find(blockIdx.x, tile)) return;  // the whole block
  OnesOfThread ones;
  compare_tile<kJaccard>(a.rows, tile, *memory, ones);
  __syncthreads();  // the words are read, and the open units are there
  divide<kJaccard>(ones, static_cast<int32_t>(a.rows.units), *memory);
  __syncthreads();
  const int64_t row = tile.first[0];
  const int64_t column = tile.first[1];
  const int64_t rows = a.rows.count[0] - row;
  const int64_t columns = a.rows.count[1] - column;
  float* out = a.out + row * a.row_stride + column * a.column_stride;
  place(*memory, rows, columns, out, a.row_stride, a.column_stride);
  if (!a.grid.triangle || row == column) return;
  out = a.out + column * a.row_stride + row * a.column_stride;
  place(*memory, rows, columns, out, a.column_stride, a.row_stride);
}

}  // namespace

cudaError_t agreement_matrix(const PackedPairs& pairs, bool jaccard, float* out, int64_t row_stride,
                             int64_t column_stride, cudaStream_t stream) {
  const MatrixArguments a{{{pairs.left, pairs.right},
                           {pairs.left_stride, pairs.right_stride},
                           {pairs.left_rows, pairs.right_rows},
                           nullptr,
                           pairs.units},
                          make_gate_grid(pairs.left_rows, pairs.right_rows, pairs.same()),
                          out,
                          row_stride,
                          column_stride};
  const int64_t tiles = a.grid.count();
  if (tiles > INT32_MAX) return cudaErrorInvalidValue;
  if (tiles == 0) return cudaSuccess;
  const dim3 grid{static_cast<unsigned>(tiles), 1, 1};
  const dim3 block{kTileThreads, 1, 1};
  if (jaccard) {
    return TFC_LAUNCH(agreement_matrix_kernel<true>, grid, block, sizeof(GateTileMemory), stream, a);
  }
  return TFC_LAUNCH(agreement_matrix_kernel<false>, grid, block, sizeof(GateTileMemory), stream, a);
}

}  // namespace tfc::cuda
