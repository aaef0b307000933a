// The norm of one row, by one block: what makes a unit row of it where rows are taken one by one.
//
// Squares are summed in double whatever the rows are: those of float32 neither under- nor overflow there, and
// beside the products of pairs the sum costs nothing. Rows of double whose squares leave [2^-900, 2^900] are
// summed again, scaled by a power of two.
#pragma once

#include "block.cuh"
#include "elements.cuh"
#include "norms.cuh"

namespace tfc::cuda {

// unit row = x * power_of<double>(kind) * scale. scale = 0: the row is all zero; NaN: it holds a NaN or Inf.
struct RowNorm {
  double scale;
  int32_t kind;

  __device__ __forceinline__ double power() const { return power_of<double>(kind); }
  __device__ __forceinline__ bool takes_part() const { return scale > 0; }
};

// Threads for rows of that many elements, some of a piece each: the shape of the row alone decides.
template <typename T>
unsigned threads_for(int64_t width) {
  const int64_t pieces = (width + kPiece<T> - 1) / kPiece<T>;
  const int64_t warps = (pieces + 31) / 32;
  return static_cast<unsigned>(32 * (warps < 1 ? 1 : warps > 16 ? 16 : warps));
}

// Calls visit(column, piece) for the pieces of the row that are this thread's.
template <typename T, typename Visit>
__device__ __forceinline__ void for_each_piece(const T* row, int64_t width, bool aligned,
                                               const Visit& visit) {
  const int64_t step = static_cast<int64_t>(blockDim.x) * kPiece<T>;
  for (int64_t j = static_cast<int64_t>(threadIdx.x) * kPiece<T>; j < width; j += step) {
    visit(j, load_piece<T>(row + j, 0, pieces_left<T>(width - j), aligned));
  }
}

// Every thread gets it. `slots`: shared, one per warp.
template <typename T>
__device__ __forceinline__ double row_squares(const T* row, int64_t width, bool aligned, double factor,
                                              double* slots) {
  double sum = 0;
  for_each_piece<T>(row, width, aligned, [&](int64_t, const uint4& piece) {
    double squares = 0;
#pragma unroll
    for (int i = 0; i < kPiece<T>; ++i) {
      const double value = static_cast<double>(Element<T>::value(piece, i)) * factor;
      squares += value * value;
    }
    sum += squares;
  });
  return block_sum(sum, slots);
}

template <typename T>
__device__ __forceinline__ RowNorm row_norm(const T* row, int64_t width, bool aligned, double* slots) {
  double squares = row_squares(row, width, aligned, 1, slots);
  int32_t kind = kUsual;
  if constexpr (sizeof(T) == 8) {
    if (!(squares >= 0x1p-900 && squares <= 0x1p+900)) {
      kind = squares < 1 ? kTiny : kHuge;
      squares = row_squares(row, width, aligned, power_of<double>(kind), slots);
    }
  }
  if (!(squares <= kLargestDouble)) return {nan(""), kUsual};
  if (squares == 0) return {0, kUsual};
  return {1.0 / sqrt(squares), kind};
}

}  // namespace tfc::cuda
