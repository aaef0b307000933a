// Gates over the updates of a run: in how many rows each unit was open, and when last.
//
// A block counts the rows of one chunk in up to 32 pieces of 16 bytes per row, several rows side by side, and
// adds what it has counted to the unit's record. The first block of an update to find a unit open is the one
// that takes the number of an earlier update out of its record, and it alone knows whether the unit is
// revived: so one launch will do, and the numbers depend on no order, since all are whole.
//
// Traffic: reads n x width elements once; two atomic operations of 8 bytes per unit and chunk. One launch.
#include <algorithm>

#include "gate_launchers.h"
#include "gates.cuh"

namespace tfc::cuda {
namespace {

constexpr int kThreads = 256;

struct UpdateArguments {
  const void* rows;
  int64_t stride, n, width;
  int64_t chunk_rows;
  int across;  // pieces of a row in a block, a power of two
  bool aligned;
  UnitRecord units;
  int64_t update, window;
};

using Word = unsigned long long;

__device__ __forceinline__ void add_open(const UpdateArguments& a, int64_t column, int32_t open) {
  if (open == 0) return;
  atomicAdd(reinterpret_cast<Word*>(a.units.open_rows + column), static_cast<Word>(open));
  const auto last = static_cast<int64_t>(
      atomicExch(reinterpret_cast<Word*>(a.units.last_active + column), static_cast<Word>(a.update)));
  if (a.update - last > a.window) atomicAdd(reinterpret_cast<Word*>(a.units.revived + column), Word{1});
}

template <typename T>
__device__ __forceinline__ void count(const uint4& piece, int32_t (&open)[kPiece<T>]) {
#pragma unroll
  for (int i = 0; i < kPiece<T>; ++i) open[i] += is_open<T>(Element<T>::bits(piece, i)) ? 1 : 0;
}

template <typename T>
__global__ void __launch_bounds__(kThreads) update_units_kernel(const UpdateArguments a) {
  TFC_DYNAMIC_SHARED(int32_t, counts);  // [kPiece<T>, down, across]
  const int across = a.across;
  const int down = kThreads / across;
  const int x = static_cast<int>(threadIdx.x) % across;
  const int y = static_cast<int>(threadIdx.x) / across;
  const int64_t first_column = blockIdx.x * int64_t{across} * kPiece<T>;
  const int64_t column = first_column + x * kPiece<T>;
  const int64_t begin = blockIdx.y * a.chunk_rows;
  const int64_t end = begin + a.chunk_rows < a.n ? begin + a.chunk_rows : a.n;
  const T* rows = static_cast<const T*>(a.rows);
  int32_t open[kPiece<T>] = {};
  if (a.aligned && column + kPiece<T> <= a.width) {
#pragma unroll 4
    for (int64_t row = begin + y; row < end; row += down) {
      count<T>(load(reinterpret_cast<const uint4*>(rows + row * a.stride + column)), open);
    }
  } else if (column < a.width) {
    for (int64_t row = begin + y; row < end; row += down) {
      count<T>(load_elements(rows + row * a.stride, column, a.width), open);
    }
  }
#pragma unroll
  for (int i = 0; i < kPiece<T>; ++i) counts[i * kThreads + threadIdx.x] = open[i];
  __syncthreads();
  const int mine = static_cast<int>(threadIdx.x);
  const int64_t unit = first_column + mine % across * kPiece<T> + mine / across;
  if (mine >= across * kPiece<T> || unit >= a.width) return;
  int32_t sum = 0;
  for (int i = 0; i < down; ++i) sum += counts[mine / across * kThreads + i * across + mine % across];
  add_open(a, unit, sum);
}

template <typename T>
cudaError_t launch(UpdateArguments a, const Device& device, cudaStream_t stream) {
  const int64_t pieces = (a.width + kPiece<T> - 1) / kPiece<T>;
  a.across = 1;
  while (a.across < 32 && a.across < pieces) a.across *= 2;
  a.aligned = is_aligned(a.rows, a.stride, sizeof(T));
  // As many blocks as the device holds, but a thread has a few rows.
  constexpr int64_t kBlocks = 8;
  constexpr int64_t kRows = 4;
  const int64_t tiles = (pieces + a.across - 1) / a.across;
  const int64_t wanted = (kBlocks * device.multiprocessors + tiles - 1) / tiles;
  const int64_t least = kRows * kThreads / a.across;
  const int64_t most = (a.n + least - 1) / least;
  a.chunk_rows = (a.n + std::min(wanted, most) - 1) / std::min(wanted, most);
  if (tiles > INT32_MAX || a.chunk_rows > INT32_MAX) return cudaErrorInvalidValue;
  const dim3 grid{static_cast<unsigned>(tiles),
                  static_cast<unsigned>((a.n + a.chunk_rows - 1) / a.chunk_rows), 1};
  const dim3 block{kThreads, 1, 1};
  return TFC_LAUNCH(update_units_kernel<T>, grid, block, kThreads * kPiece<T> * sizeof(int32_t), stream, a);
}

}  // namespace

cudaError_t update_units(const void* rows, Scalar scalar, int64_t stride, int64_t n, int64_t width,
                         const UnitRecord& units, int64_t update, int64_t window, const Device& device,
                         cudaStream_t stream) {
  if (n == 0 || width == 0) return cudaSuccess;
  const UpdateArguments a{rows, stride, n, width, 0, 0, false, units, update, window};
  return with_element(scalar, [&]<typename T>() { return launch<T>(a, device, stream); });
}

}  // namespace tfc::cuda
