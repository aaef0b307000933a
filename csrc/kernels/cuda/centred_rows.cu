// Means of the unit rows of each class, and the rows less those.
//
// class_means: a block has 32 columns of one class; 16 ranges of its rows are summed side by side, then put
// together in a fixed order. Reads each row once, with 28 bytes per row and block; writes the means.
// centred_rows: a block per row. Reads the row, the mean of its class (from cache, where rows are many) and
// 28 bytes, writes the row and 8 bytes. One launch each.
#include "centred_rows.h"

#include "block.cuh"
#include "elements.cuh"
#include "row_norm.cuh"

namespace tfc::cuda {
namespace {

constexpr int kMeanColumns = 32;
constexpr int kRanges = 16;

struct Aligned {
  bool rows, means;
};

template <typename T>
__device__ __forceinline__ double element(const T* address) {
  uint4 piece = {0, 0, 0, 0};
  Element<T>::put(piece, 0, load(reinterpret_cast<const typename Element<T>::Bits*>(address)));
  return static_cast<double>(Element<T>::value(piece, 0));
}

template <typename T>
__global__ void __launch_bounds__(kMeanColumns* kRanges)
    class_means_kernel(ClassedRows a, int64_t blocks_across, double* means) {
  TFC_DYNAMIC_SHARED(double, sums);
  const int lane = static_cast<int>(threadIdx.x) % kMeanColumns;
  const int range = static_cast<int>(threadIdx.x) / kMeanColumns;
  const int64_t c = blockIdx.x / blocks_across;
  const int64_t j = blockIdx.x % blocks_across * kMeanColumns + lane;
  const int64_t begin = load(a.class_ptr + c);
  const int64_t end = load(a.class_ptr + c + 1);
  double sum = 0;
  if (j < a.width) {
    for (int64_t i = begin + range; i < end; i += kRanges) {
      const int64_t row = load(a.order + i);
      const UnitScale by = load(a.scales + row);
      sum += element(static_cast<const T*>(a.rows) + row * a.stride + j) * by.pre * by.scale;
    }
  }
  sums[range * kMeanColumns + lane] = sum;
  __syncthreads();
  if (range != 0 || j >= a.width) return;
  for (int r = 1; r < kRanges; ++r) sum += sums[r * kMeanColumns + lane];
  store(means + c * a.width + j, sum / static_cast<double>(end - begin));
}

template <typename T, typename Out>
__global__ void __launch_bounds__(512) centred_rows_kernel(ClassedRows a, CentredRows to, Aligned aligned) {
  static_assert(kPiece<T> % kPiece<Out> == 0);
  TFC_DYNAMIC_SHARED(double, slots);
  const int64_t position = to.first + blockIdx.x;
  const bool is_row = position < to.last;
  const int64_t row = is_row ? load(a.order + position) : 0;
  const UnitScale by = is_row ? load(a.scales + row) : UnitScale{1, 0};
  const T* x = static_cast<const T*>(a.rows) + row * a.stride;
  const double* mean = to.means + (is_row ? load(a.label + position) * a.width : 0);
  Out* out = static_cast<Out*>(to.out) + blockIdx.x * to.pitch;
  double squares = 0;
  const int64_t step = static_cast<int64_t>(blockDim.x) * kPiece<T>;
  for (int64_t j = static_cast<int64_t>(threadIdx.x) * kPiece<T>; j < to.pitch; j += step) {
    const int64_t left = is_row && j < a.width ? a.width - j : 0;
    const uint4 entries = load_piece<T>(x + j, 0, pieces_left<T>(left), aligned.rows);
    double values[kPiece<T>];
#pragma unroll
    for (int from = 0; from < kPiece<T>; from += kPiece<double>) {
      const uint4 centre = load_piece<double>(mean + j, from, pieces_left<T>(left), aligned.means);
#pragma unroll
      for (int i = 0; i < kPiece<double>; ++i) {
        const double unit = static_cast<double>(Element<T>::value(entries, from + i)) * by.pre * by.scale;
        values[from + i] = unit - Element<double>::value(centre, i);
        squares += values[from + i] * values[from + i];
      }
    }
#pragma unroll
    for (int from = 0; from < kPiece<T>; from += kPiece<Out>) {
      uint4 piece = {0, 0, 0, 0};
#pragma unroll
      for (int i = 0; i < kPiece<Out>; ++i)
        Element<Out>::put(piece, i, Element<Out>::rounded(values[from + i]));
      if (j + from < to.pitch) store(reinterpret_cast<uint4*>(out + j + from), piece);
    }
  }
  if (to.squares == nullptr) return;
  squares = block_sum(squares, slots);
  if (is_row && threadIdx.x == 0) store(to.squares + blockIdx.x, squares);
}

template <typename T>
cudaError_t launch_means(const ClassedRows& a, double* means, cudaStream_t stream) {
  const int64_t across = (a.width + kMeanColumns - 1) / kMeanColumns;
  const dim3 grid{static_cast<unsigned>(across * a.classes), 1, 1};
  const dim3 block{kMeanColumns * kRanges, 1, 1};
  return TFC_LAUNCH(class_means_kernel<T>, grid, block, kMeanColumns * kRanges * sizeof(double), stream, a,
                    across, means);
}

template <typename T, typename Out>
cudaError_t launch_rows(const ClassedRows& a, const CentredRows& to, cudaStream_t stream) {
  const Aligned aligned{is_aligned(a.rows, a.stride, sizeof(T)),
                        is_aligned(to.means, a.width, sizeof(double))};
  const dim3 grid{static_cast<unsigned>(to.padded_rows), 1, 1};
  const dim3 block{threads_for<T>(a.width), 1, 1};
  return TFC_LAUNCH((centred_rows_kernel<T, Out>), grid, block, block.x / 32 * sizeof(double), stream, a, to,
                    aligned);
}

template <typename T>
cudaError_t launch_rows(const ClassedRows& a, const CentredRows& to, cudaStream_t stream) {
  if (to.is_double) return launch_rows<T, double>(a, to, stream);
  if constexpr (sizeof(T) == 8) {
    return cudaErrorInvalidValue;
  } else {
    return launch_rows<T, float>(a, to, stream);
  }
}

}  // namespace

cudaError_t class_means(const ClassedRows& a, double* means, cudaStream_t stream) {
  if (a.classes == 0 || a.width == 0) return cudaSuccess;
  return with_element(a.scalar, [&]<typename T>() { return launch_means<T>(a, means, stream); });
}

cudaError_t centred_rows(const ClassedRows& a, const CentredRows& to, cudaStream_t stream) {
  if (to.padded_rows == 0) return cudaSuccess;
  return with_element(a.scalar, [&]<typename T>() { return launch_rows<T>(a, to, stream); });
}

}  // namespace tfc::cuda
