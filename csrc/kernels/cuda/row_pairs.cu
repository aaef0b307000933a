// Cosines of pairs of rows, in one read of both.
//
//   row_pairs      a warp for each pair, or a block where rows are long
//   pair_summary   one block: the mean, and how many pairs it rests on
//
// Squares and products are formed and added in double, where the product of two floats is exact, so that
// rows of any size have their cosine, with an error below 1e-12. Pairs of float64 whose squares leave the
// range in which their product is a normal number are read again, each row scaled by a power of two.
//
// Traffic: reads both rows once; writes 9 bytes per pair, which the summary reads. Two launches.
#include "row_pairs.h"

#include "block.cuh"
#include "elements.cuh"
#include "norms.cuh"

namespace tfc::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kSummaryThreads = 1024;
constexpr int64_t kLongRow = 2048;  // elements; beyond that a block walks it

enum State : uint8_t { kMeasured, kZero, kNonfinite };

struct PairArguments {
  const void* left;
  const void* right;
  int64_t left_stride, right_stride;
  int64_t rows;
  int32_t width;
  bool aligned;
  uint8_t* states;
  double* cosines;
};

struct PairSums {
  double left, right;  // squared lengths
  double product;
};

// Of the columns of this thread. Each run of kPiece terms is added up by itself.
template <typename T>
__device__ __forceinline__ PairSums sum_columns(const T* left, const T* right, const PairArguments& a,
                                                int first, int threads, double left_pre, double right_pre) {
  PairSums sums{0, 0, 0};
  for (int32_t j = first * kPiece<T>; j < a.width; j += threads * kPiece<T>) {
    const uint4 x = load_piece<T>(left, j, a.width, a.aligned);
    const uint4 y = load_piece<T>(right, j, a.width, a.aligned);
    PairSums run{0, 0, 0};
#pragma unroll
    for (int i = 0; i < kPiece<T>; ++i) {
      const double p = static_cast<double>(Element<T>::value(x, i)) * left_pre;
      const double q = static_cast<double>(Element<T>::value(y, i)) * right_pre;
      run.left += p * p;
      run.right += q * q;
      run.product += p * q;
    }
    sums.left += run.left;
    sums.right += run.right;
    sums.product += run.product;
  }
  return sums;
}

// Over the whole row, in every thread that walks it. `slots`: shared; null: a warp walks the row.
template <typename T>
__device__ __forceinline__ PairSums sum_rows(const T* left, const T* right, const PairArguments& a,
                                             double* slots, double left_pre, double right_pre) {
  const int lane = static_cast<int>(threadIdx.x);
  if (slots == nullptr) {
    const PairSums mine = sum_columns(left, right, a, lane % 32, 32, left_pre, right_pre);
    return {warp_sum(mine.left), warp_sum(mine.right), warp_sum(mine.product)};
  }
  const PairSums mine = sum_columns(left, right, a, lane, kThreads, left_pre, right_pre);
  return {block_sum(mine.left, slots), block_sum(mine.right, slots), block_sum(mine.product, slots)};
}

__device__ __forceinline__ bool is_in_pair_range(double squares) {
  return squares >= 0x1p-450 && squares <= 0x1p+450;
}

// One root of the product, not the product of two roots: a row with itself gives exactly 1.
__device__ __forceinline__ double cosine_of(const PairSums& sums) {
  const double cosine = sums.product / sqrt(sums.left * sums.right);
  return cosine > 1 ? 1 : cosine < -1 ? -1 : cosine;
}

// Of sums that are normal numbers, but whose products may not be: an even power of two is taken out of either
// square, and of the product its root.
__device__ __forceinline__ double cosine_of_any(const PairSums& sums) {
  const int left = ilogb(sums.left) / 2, right = ilogb(sums.right) / 2;
  const double product = scalbn(sums.product, -left);
  return cosine_of({scalbn(sums.left, -2 * left), scalbn(sums.right, -2 * right), scalbn(product, -right)});
}

template <typename T>
__global__ void __launch_bounds__(kThreads) row_pairs(const PairArguments a, bool by_block) {
  TFC_DYNAMIC_SHARED(double, shared);
  double* slots = by_block ? shared : nullptr;
  const int64_t row = by_block ? blockIdx.x : blockIdx.x * int64_t{kThreads / 32} + threadIdx.x / 32;
  if (row >= a.rows) return;  // whole warps, and none of a block that walks a row
  const T* left = static_cast<const T*>(a.left) + row * a.left_stride;
  const T* right = static_cast<const T*>(a.right) + row * a.right_stride;
  PairSums sums = sum_rows(left, right, a, slots, 1, 1);
  bool any_range = false;
  if constexpr (sizeof(T) == 8) {
    any_range = !is_in_pair_range(sums.left) || !is_in_pair_range(sums.right);
    if (any_range) {
      const auto kind = [](double squares) {
        return is_in_pair_range(squares) ? kUsual : squares < 1 ? kTiny : kHuge;
      };
      sums = sum_rows(left, right, a, slots, power_of<double>(kind(sums.left)),
                      power_of<double>(kind(sums.right)));
    }
  }
  if ((by_block ? threadIdx.x : threadIdx.x % 32) != 0) return;
  // Squares of a finite row are finite here, and zero only if it is.
  const bool finite = sums.left <= kLargestDouble && sums.right <= kLargestDouble;
  const State state = !finite ? kNonfinite : sums.left == 0 || sums.right == 0 ? kZero : kMeasured;
  store(a.states + row, static_cast<uint8_t>(state));
  double cosine = nan("");
  if (state == kMeasured) cosine = any_range ? cosine_of_any(sums) : cosine_of(sums);
  store(a.cosines + row, cosine);
}

__global__ void __launch_bounds__(kSummaryThreads)
    pair_summary(const uint8_t* states, const double* cosines, int64_t rows, double* summary) {
  TFC_DYNAMIC_SHARED(double, slots);
  double sum = 0;
  int64_t of_state[3] = {0, 0, 0};
  for (int64_t row = threadIdx.x; row < rows; row += blockDim.x) {
    const int state = load(states + row);
    if (state == kMeasured) sum += load(cosines + row);
#pragma unroll
    for (int s = 0; s < 3; ++s) of_state[s] += state == s;
  }
  sum = block_sum(sum, slots);
#pragma unroll
  for (int s = 0; s < 3; ++s) of_state[s] = block_sum(of_state[s], reinterpret_cast<int64_t*>(slots));
  if (threadIdx.x != 0) return;
  store(summary, cosine_ratio(sum, static_cast<double>(of_state[kMeasured])));
  for (int s = 0; s < 3; ++s) store(summary + 1 + s, static_cast<double>(of_state[s]));
}

template <typename T>
cudaError_t launch(const PairArguments& a, cudaStream_t stream) {
  const bool by_block = a.width > kLongRow;
  constexpr int kWarps = kThreads / 32;
  const int64_t blocks = by_block ? a.rows : (a.rows + kWarps - 1) / kWarps;
  const dim3 grid{static_cast<unsigned>(blocks), 1, 1};
  const dim3 block{kThreads, 1, 1};
  return TFC_LAUNCH(row_pairs<T>, grid, block, kWarps * sizeof(double), stream, a, by_block);
}

constexpr int64_t kMost = (int64_t{1} << 31) - (1 << 16);  // columns are 32 bits, blocks 31

}  // namespace

cudaError_t pair_cosines(const RowPairs& pairs, uint8_t* states, double* cosines, double* summary,
                         cudaStream_t stream) {
  if (pairs.rows > kMost || pairs.width > kMost) return cudaErrorInvalidValue;
  const int64_t bytes = bytes_of(pairs.scalar);
  const PairArguments a{
      pairs.left,
      pairs.right,
      pairs.left_stride,
      pairs.right_stride,
      pairs.rows,
      static_cast<int32_t>(pairs.width),
      is_aligned(pairs.left, pairs.left_stride, bytes) && is_aligned(pairs.right, pairs.right_stride, bytes),
      states,
      cosines};
  cudaError_t error = cudaSuccess;
  if (pairs.rows > 0) {
    error = with_element(pairs.scalar, [&]<typename T>() { return launch<T>(a, stream); });
  }
  if (error != cudaSuccess) return error;
  const int64_t threads = (pairs.rows + 31) / 32 * 32;
  const dim3 block{static_cast<unsigned>(std::clamp<int64_t>(threads, 32, kSummaryThreads)), 1, 1};
  return TFC_LAUNCH(pair_summary, (dim3{1, 1, 1}), block, kSummaryThreads / 32 * sizeof(double), stream,
                    states, cosines, pairs.rows, summary);
}

}  // namespace tfc::cuda
