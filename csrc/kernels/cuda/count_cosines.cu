// Pairs of rows by their cosine: a tile of products becomes counts. One block per 64 rows and 256 columns.
//
// Reads 4 `count` bytes per cosine (float64: 8), 12 per row and block, and adds at most two integers per bin
// and block to the totals; with more than 4096 bins one per cosine, or per run of equal ones. Counts are
// integers, so their order does not matter. One launch per tile.
#include "block.cuh"
#include "cosine_tile.cuh"

namespace tfc::cuda {
namespace {

constexpr int kSquares = 4;             // of kTileSide that a block takes
constexpr int64_t kSharedCells = 8192;  // 32 KB
constexpr int kMostCopies = kTileThreads / 32;

__device__ __forceinline__ void add(int64_t* total, uint32_t count) {
  atomicAdd(reinterpret_cast<unsigned long long*>(total), static_cast<unsigned long long>(count));
}

template <typename Real>
__device__ __forceinline__ int64_t cell_of(Real cosine, Real half, Real last) {
  const Real cell = (cosine + 1) * half;
  return static_cast<int64_t>(cell < 0 ? 0 : cell > last ? last : cell);
}

// copies: of the counts [2, bins] in shared memory, so that warps do not wait for each other; 0: none.
template <typename Real>
__global__ void __launch_bounds__(kTileThreads)
    count_cosines_kernel(CosineTile tile, const int32_t* label_at, int64_t bins, int copies,
                         int64_t* counts) {
  TFC_DYNAMIC_SHARED(uint32_t, shared);
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t top = blockIdx.y * kTileStep;
  const int64_t begin = blockIdx.x * (kSquares * kTileStep);
  // Columns end before rows begin: no pairs.
  const int64_t end =
      begin + kSquares * kTileStep < tile.columns ? begin + kSquares * kTileStep : tile.columns;
  if (tile.column + end <= tile.row + top + 1) return;
  const int64_t cells = 2 * bins;
  for (int64_t i = thread; i < copies * cells; i += kTileThreads) shared[i] = 0;
  __syncthreads();
  uint32_t* mine = shared + (copies > 0 ? thread / 32 % copies * cells : 0);
  const Real half = static_cast<Real>(bins) / 2;
  const Real last = static_cast<Real>(bins - 1);
  // Neighbours are often alike, above all where features have collapsed: one addition for all of them.
  int64_t at = 0;
  uint32_t pending = 0;
  const auto flush = [&] {
    if (pending == 0) return;
    if (copies > 0) {
      atomicAdd(mine + at, pending);
    } else {
      add(counts + at, pending);
    }
  };
  for (int64_t left = begin; left < end; left += kTileStep) {
    for_each_cosine<Real>(tile, top, left, [&](int64_t r, int64_t c, Real by, Real factor, Real cosine) {
      const int64_t row = tile.row + r;
      const int64_t column = tile.column + c;
      if (column <= row || !(by > 0) || !(factor > 0)) return;
      const bool same = label_at == nullptr || load(label_at + row) == load(label_at + column);
      const int64_t cell = cell_of(cosine, half, last) + (same ? 0 : bins);
      if (cell != at) {
        flush();
        at = cell;
        pending = 0;
      }
      ++pending;
    });
  }
  flush();
  if (copies == 0) return;
  __syncthreads();
  for (int64_t i = thread; i < cells; i += kTileThreads) {
    uint32_t count = 0;
    for (int copy = 0; copy < copies; ++copy) count += shared[copy * cells + i];
    if (count > 0) add(counts + i, count);
  }
}

template <typename Real>
cudaError_t launch(const CosineTile& tile, const int32_t* label_at, int64_t bins, int64_t* counts,
                   cudaStream_t stream) {
  const int64_t fitting = kSharedCells / (2 * bins);
  const int copies = static_cast<int>(fitting < kMostCopies ? fitting : kMostCopies);
  const dim3 grid{static_cast<unsigned>((tile.columns + kSquares * kTileStep - 1) / (kSquares * kTileStep)),
                  static_cast<unsigned>((tile.rows + kTileStep - 1) / kTileStep), 1};
  const dim3 block{kTileThreads, 1, 1};
  return TFC_LAUNCH(count_cosines_kernel<Real>, grid, block, copies * 2 * bins * sizeof(uint32_t), stream,
                    tile, label_at, bins, copies, counts);
}

__global__ void __launch_bounds__(kTileThreads)
    count_rows_kernel(const double* factors, int64_t n, int64_t* rows) {
  TFC_DYNAMIC_SHARED(int64_t, slots);
  int64_t zero = 0;
  int64_t nonfinite = 0;
  for (int64_t i = threadIdx.x; i < n; i += kTileThreads) {
    const double factor = load(factors + i);
    zero += factor == 0 ? 1 : 0;
    nonfinite += factor != factor ? 1 : 0;
  }
  zero = block_sum(zero, slots);
  nonfinite = block_sum(nonfinite, slots);
  if (threadIdx.x != 0) return;
  store(rows, n - zero - nonfinite);
  store(rows + 1, zero);
  store(rows + 2, nonfinite);
}

}  // namespace

cudaError_t count_cosines(const CosineTile& tile, const int32_t* label_at, int64_t bins, int64_t* counts,
                          cudaStream_t stream) {
  if (tile.rows == 0 || tile.columns == 0) return cudaSuccess;
  return tile.is_double ? launch<double>(tile, label_at, bins, counts, stream)
                        : launch<float>(tile, label_at, bins, counts, stream);
}

cudaError_t count_rows(const double* factors, int64_t n, int64_t* rows, cudaStream_t stream) {
  return TFC_LAUNCH(count_rows_kernel, (dim3{1, 1, 1}), (dim3{kTileThreads, 1, 1}),
                    kTileThreads / 32 * sizeof(int64_t), stream, factors, n, rows);
}

}  // namespace tfc::cuda
