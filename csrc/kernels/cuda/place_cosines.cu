// A tile of cosines on its way to the matrix, with its mirror image: one block per square of 64.
//
// Reads 4 `count` bytes per cosine (float64: 8) and 16 per row, writes each entry of the matrix once: 4 bytes
// (8) per cosine, twice that with the mirror image. The image is turned in shared memory, so that both are
// written along the rows, 16 bytes at a time where they are aligned. One launch per tile.
#include "cosine_tile.cuh"

namespace tfc::cuda {
namespace {

constexpr int kPitch = kTileSide + 1;  // columns of the square lie in different banks

// NaN fails both comparisons and stays.
template <typename Real>
__device__ __forceinline__ Real clamped(Real value) {
  value = value < -1 ? static_cast<Real>(-1) : value;
  return value > 1 ? static_cast<Real>(1) : value;
}

// out[a * stride_a + b * stride_b] = get(a, b) for a < count_a and b < count_b, neither more than kTileSide.
template <typename Real, typename Get>
__device__ __forceinline__ void write_square(Real* out, int count_a, int count_b, int64_t stride_a,
                                             int64_t stride_b, const Get& get) {
  constexpr int kAcross = kTileSide / kPiece<Real>;
  const int b = static_cast<int>(threadIdx.x) % kAcross * kPiece<Real>;
  for (int a = static_cast<int>(threadIdx.x) / kAcross; a < count_a; a += kTileThreads / kAcross) {
    Real* to = out + a * stride_a + b * stride_b;
    if (stride_b == 1 && b + kPiece<Real> <= count_b && reinterpret_cast<uintptr_t>(to) % 16 == 0) {
      uint4 piece = {0, 0, 0, 0};
#pragma unroll
      for (int k = 0; k < kPiece<Real>; ++k) {
        Element<Real>::put(piece, k, bits_of(get(a, b + k)));
      }
      store(reinterpret_cast<uint4*>(to), piece);
      continue;
    }
#pragma unroll
    for (int k = 0; k < kPiece<Real>; ++k) {
      if (b + k < count_b) store(to + k * stride_b, get(a, b + k));
    }
  }
}

// Along whichever stride is the smaller one.
template <typename Real, typename Get>
__device__ __forceinline__ void write_either_way(Real* out, int rows, int columns, int64_t row_stride,
                                                 int64_t column_stride, const Get& get) {
  if (column_stride <= row_stride) {
    write_square(out, rows, columns, row_stride, column_stride, get);
  } else {
    write_square(out, columns, rows, column_stride, row_stride, [&](int c, int r) { return get(r, c); });
  }
}

template <typename Real>
__global__ void __launch_bounds__(kTileThreads)
    place_cosines_kernel(CosineTile tile, Real* out, int64_t row_stride, int64_t column_stride) {
  TFC_DYNAMIC_SHARED(Real, square);
  const int64_t top = blockIdx.y * kTileStep;
  const int64_t left = blockIdx.x * kTileStep;
  const bool on_diagonal = tile.triangle && tile.row + top == tile.column + left;
  if (tile.triangle && tile.row + top > tile.column + left) return;
  for_each_cosine<Real>(tile, top, left, [&](int64_t r, int64_t c, Real by, Real, Real cosine) {
    if (on_diagonal && r - top == c - left) cosine = by > 0 ? static_cast<Real>(1) : by;
    square[(r - top) * kPitch + (c - left)] = clamped(cosine);
  });
  __syncthreads();
  const int rows = static_cast<int>(tile.rows - top < kTileStep ? tile.rows - top : kTileStep);
  const int columns = static_cast<int>(tile.columns - left < kTileStep ? tile.columns - left : kTileStep);
  const auto get = [&](int r, int c) { return square[r * kPitch + c]; };
  const int64_t row = tile.row + top;
  const int64_t column = tile.column + left;
  Real* place = out + row * row_stride + column * column_stride;
  if (on_diagonal) {
    // Below the diagonal the product itself may be rounded otherwise.
    write_either_way(place, rows, columns, row_stride, column_stride,
                     [&](int r, int c) { return r <= c ? get(r, c) : get(c, r); });
    return;
  }
  write_either_way(place, rows, columns, row_stride, column_stride, get);
  if (tile.triangle) {
    write_either_way(out + column * row_stride + row * column_stride, columns, rows, row_stride,
                     column_stride, [&](int c, int r) { return get(r, c); });
  }
}

template <typename Real>
cudaError_t launch(const CosineTile& tile, void* out, int64_t row_stride, int64_t column_stride,
                   cudaStream_t stream) {
  const dim3 grid{static_cast<unsigned>((tile.columns + kTileStep - 1) / kTileStep),
                  static_cast<unsigned>((tile.rows + kTileStep - 1) / kTileStep), 1};
  const dim3 block{kTileThreads, 1, 1};
  return TFC_LAUNCH(place_cosines_kernel<Real>, grid, block, kTileSide * kPitch * sizeof(Real), stream, tile,
                    static_cast<Real*>(out), row_stride, column_stride);
}

}  // namespace

cudaError_t place_cosines(const CosineTile& tile, void* out, int64_t row_stride, int64_t column_stride,
                          cudaStream_t stream) {
  if (tile.rows == 0 || tile.columns == 0) return cudaSuccess;
  return tile.is_double ? launch<double>(tile, out, row_stride, column_stride, stream)
                        : launch<float>(tile, out, row_stride, column_stride, stream);
}

}  // namespace tfc::cuda
