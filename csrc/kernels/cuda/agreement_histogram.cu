// Pairs of rows counted by the units in which their gates agree, without the matrix of pairs: each block
// walks tiles of 64 x 64 pairs (see gate_tiles.cuh) on and above the diagonal.
//
// Blocks count in shared memory and add that up at their end. Where rows have so many units that the counts
// do not fit, the lanes of a warp whose pairs fall into the same cell add to it in one operation on global
// memory: beside the comparing of so many units that is little. Whole numbers only, so no order matters.
//
// Traffic: reads 2 x 64 rows of gates per tile, mostly from cache; 8 bytes per block and cell that is not
// empty, or per 32 pairs and cell that they fall into. One launch.
#include <algorithm>

#include "gate_launchers.h"
#include "gate_tiles.cuh"

namespace tfc::cuda {
namespace {

using Count = unsigned long long;

struct HistogramArguments {
  GateRows rows;
  GateTileGrid grid;
  const int32_t* label_at;
  Count* counts;
  int64_t tiles;
};

// Behind the memory of the tile, the labels of its rows, and then the counts of the block.
constexpr int kLabelsAt = sizeof(GateTileMemory);
constexpr int kCountsAt = kLabelsAt + 2 * kTileRows * static_cast<int>(sizeof(int32_t));
constexpr int64_t kMostSharedBytes = 96 * 1024;  // of a block: two of them fit many a multiprocessor
// Pairs that a block counts stay below 2^32.
constexpr int64_t kMostTilesPerBlock = int64_t{1} << 19;

// The class of each row of the tile; read after a barrier.
__device__ __forceinline__ void read_labels(const HistogramArguments& a, const GateTile& tile,
                                            int32_t* labels) {
  if (a.label_at == nullptr || threadIdx.x >= 2 * kTileRows) return;
  const int64_t position =
      (threadIdx.x < kTileRows ? tile.first[0] : tile.first[1]) + threadIdx.x % kTileRows;
  labels[threadIdx.x] = position < a.rows.count[0] ? load(a.label_at + position) : 0;
}

template <bool kShared>
__device__ __forceinline__ void count_tile(const HistogramArguments& a, const GateTile& tile,
                                           const OnesOfThread& ones, const int32_t* labels,
                                           unsigned* counts) {
  const auto units = static_cast<int32_t>(a.rows.units);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
#pragma unroll
    for (int j = 0; j < kPerThread; ++j) {
      const int row = row_of(i);
      const int column = column_of(j);
      const int64_t later = tile.first[1] + column;
      const bool is_pair = tile.first[0] + row < later && later < a.rows.count[1];
      const bool between = a.label_at != nullptr && labels[row] != labels[kTileRows + column];
      const int32_t cell = units - ones[i][j].total() + (between ? units + 1 : 0);
      if constexpr (kShared) {
        if (is_pair) atomicAdd(counts + cell, 1u);
      } else {
        const unsigned same = __match_any_sync(kFullWarp, is_pair ? cell : -1);
        const int leader = __ffs(static_cast<int>(same)) - 1;
        if (is_pair && static_cast<int>(threadIdx.x) % 32 == leader) {
          atomicAdd(a.counts + cell, static_cast<Count>(__popc(same)));
        }
      }
    }
  }
}

template <bool kShared>
__global__ void __launch_bounds__(kTileThreads, 2) agreement_histogram_kernel(const HistogramArguments a) {
  TFC_DYNAMIC_SHARED(char, memory);
  auto* tile_memory = reinterpret_cast<GateTileMemory*>(memory);
  auto* labels = reinterpret_cast<int32_t*>(memory + kLabelsAt);
  auto* counts = reinterpret_cast<unsigned*>(memory + kCountsAt);
  const auto cells = static_cast<int>((a.label_at == nullptr ? 1 : 2) * (a.rows.units + 1));
  if constexpr (kShared) {
    for (int i = static_cast<int>(threadIdx.x); i < cells; i += kTileThreads) counts[i] = 0;
  }
  for (int64_t index = blockIdx.x; index < a.tiles; index += gridDim.x) {
    GateTile tile;
    if (!a.grid.find(index, tile)) continue;
    read_labels(a, tile, labels);
    OnesOfThread ones;
    compare_tile<false>(a.rows, tile, *tile_memory, ones);
    count_tile<kShared>(a, tile, ones, labels, counts);
    __syncthreads();  // nobody needs the tile any more; after the last one, all is counted
  }
  if constexpr (kShared) {
    for (int i = static_cast<int>(threadIdx.x); i < cells; i += kTileThreads) {
      if (counts[i] != 0) atomicAdd(a.counts + i, static_cast<Count>(counts[i]));
    }
  }
}

}  // namespace

cudaError_t agreement_histogram(const PackedGroups& groups, const Device& device, int64_t* counts,
                                cudaStream_t stream) {
  HistogramArguments a{{{groups.rows, groups.rows},
                        {groups.stride, groups.stride},
                        {groups.n, groups.n},
                        groups.order,
                        groups.units},
                       make_gate_grid(groups.n, groups.n, /*triangle=*/true),
                       groups.label_at,
                       reinterpret_cast<Count*>(counts),
                       0};
  a.tiles = a.grid.count();
  if (a.tiles == 0) return cudaSuccess;
  constexpr int64_t kBlocks = 4;  // per multiprocessor, for as many as it can hold
  const int64_t blocks = std::max(std::min(a.tiles, kBlocks * device.multiprocessors),
                                  (a.tiles + kMostTilesPerBlock - 1) / kMostTilesPerBlock);
  if (blocks > INT32_MAX) return cudaErrorInvalidValue;
  const dim3 grid{static_cast<unsigned>(blocks), 1, 1};
  const dim3 block{kTileThreads, 1, 1};
  const int64_t cells = (groups.label_at == nullptr ? 1 : 2) * (groups.units + 1);
  const int64_t shared_bytes = kCountsAt + cells * static_cast<int64_t>(sizeof(unsigned));
  if (shared_bytes > std::min(device.shared_bytes, kMostSharedBytes)) {
    return TFC_LAUNCH(agreement_histogram_kernel<false>, grid, block, kCountsAt, stream, a);
  }
  const cudaError_t error =
      cudaFuncSetAttribute(agreement_histogram_kernel<true>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(shared_bytes));
  if (error != cudaSuccess) return error;
  return TFC_LAUNCH(agreement_histogram_kernel<true>, grid, block, shared_bytes, stream, a);
}

}  // namespace tfc::cuda
