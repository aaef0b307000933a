// Scales of rows that are too long, or too wide (float64), for the fused row pass: one block per row.
//
// Reads each tensor once, writes 16 bytes per row (float64: 32). With it a batch costs five streams of
// n x width elements, not three: feature and gradient twice, grad_in once. One launch.
#include "block.cuh"
#include "elements.cuh"
#include "norms.cuh"
#include "passes.cuh"

namespace tfc::cuda {
namespace {

constexpr int kThreads = 512;

struct RowScalesArguments {
  const void* rows[2];
  int64_t stride[2];
  void* scales[2];
  int32_t width;
  bool aligned;
};

// Sum over the block of (x * factor)^2: short sums in Wide, the rest in double.
template <typename T, typename Wide>
__device__ __forceinline__ double sum_squares(const T* row, int32_t width, bool aligned, Wide factor,
                                              double* slots) {
  double sum = 0;
  const int32_t step = static_cast<int32_t>(blockDim.x) * kPiece<T>;
  for (int32_t j = static_cast<int32_t>(threadIdx.x) * kPiece<T>; j < width; j += step) {
    const uint4 piece = load_piece<T>(row, j, width, aligned);
    Wide squares = 0;
#pragma unroll
    for (int i = 0; i < kPiece<T>; ++i) {
      const Wide value = static_cast<Wide>(Element<T>::value(piece, i)) * factor;
      squares += value * value;
    }
    sum += static_cast<double>(squares);
  }
  return block_sum(sum, slots);
}

template <typename T>
__device__ __forceinline__ RowScale<float> find_scale(const T* row, int32_t width, bool aligned,
                                                      double* slots) {
  const float squares = static_cast<float>(sum_squares<T, float>(row, width, aligned, 1, slots));
  if (is_in_range(squares)) return scale_in_range(squares);
  return scale_from_double(sum_squares<T, double>(row, width, aligned, 1, slots));
}

__device__ __forceinline__ RowScale<double> find_scale(const double* row, int32_t width, bool aligned,
                                                       double* slots) {
  const double squares = sum_squares<double, double>(row, width, aligned, 1, slots);
  if (squares >= 0x1p-900 && squares <= 0x1p+900) return scale_from_squares(squares, kUsual);
  const ScaleKind kind = squares < 1 ? kTiny : kHuge;
  return scale_from_squares(sum_squares<double, double>(row, width, aligned, power_of<double>(kind), slots),
                            kind);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) row_scales(RowScalesArguments a) {
  using Sum = typename Element<T>::Sum;
  TFC_DYNAMIC_SHARED(double, slots);
  const int t = static_cast<int>(blockIdx.y);
  const int64_t row = blockIdx.x;
  const T* x =
      static_cast<const T*>(t == 0 ? a.rows[0] : a.rows[1]) + row * (t == 0 ? a.stride[0] : a.stride[1]);
  const RowScale<Sum> scale = find_scale(x, a.width, a.aligned, slots);
  if (threadIdx.x == 0) store(static_cast<RowScale<Sum>*>(t == 0 ? a.scales[0] : a.scales[1]) + row, scale);
}

template <typename T>
cudaError_t launch(const RowScalesArguments& a, const Plan& plan, cudaStream_t stream) {
  const dim3 grid{static_cast<unsigned>(plan.rows), static_cast<unsigned>(plan.tensors()), 1};
  // A short row would leave most of a full block with nothing to do.
  const int64_t warps = (plan.width + 32 * kPiece<T> - 1) / (32 * kPiece<T>);
  const dim3 block{static_cast<unsigned>(32 * std::clamp<int64_t>(warps, 1, kThreads / 32)), 1, 1};
  return TFC_LAUNCH(row_scales<T>, grid, block, block.x / 32 * sizeof(double), stream, a);
}

}  // namespace

cudaError_t launch_row_scales(const Batch& batch, const OpenBatch& open, bool aligned, cudaStream_t stream) {
  const Plan& plan = open.plan;
  if (plan.rows == 0) return cudaSuccess;
  const RowScalesArguments a{{batch.feature, batch.gradient},
                             {batch.feature_stride, batch.gradient_stride},
                             {part_at<void>(open, plan.scales[0]), part_at<void>(open, plan.scales[1])},
                             static_cast<int32_t>(plan.width),
                             aligned};
  return with_element(plan.scalar, [&]<typename T>() { return launch<T>(a, plan, stream); });
}

}  // namespace tfc::cuda
