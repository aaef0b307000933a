// From gradients with respect to unit rows to those with respect to the rows: one block per row.
//
// Reads rows and weights once from memory (the second time from cache, as long as the rows that are at work
// fit there) and 12 bytes of order and label per row; writes each row once. One launch.
#include "unit_row_gradient.h"

#include "row_norm.cuh"

namespace tfc::cuda {
namespace {

struct Aligned {
  bool rows, weights, out;
};

// Elements column ... of a row of weights, of which `left` are left; zeros past them.
template <typename T, typename Weight>
struct Weights {
  double value[kPiece<T>];

  __device__ __forceinline__ Weights(const Weight* row, int64_t left, bool aligned) {
    constexpr bool kWhole = kPiece<T> % kPiece<Weight> == 0;
    const int32_t width = pieces_left<T>(left);
#pragma unroll
    for (int from = 0; from < kPiece<T>; from += kPiece<Weight>) {
      const uint4 piece = load_piece<Weight>(row, from, width, kWhole && aligned);
#pragma unroll
      for (int i = 0; i < kPiece<Weight> && from + i < kPiece<T>; ++i) {
        value[from + i] = static_cast<double>(Element<Weight>::value(piece, i));
      }
    }
  }
};

template <typename T, typename Weight>
__global__ void __launch_bounds__(512) unit_row_gradient_kernel(UnitRowGradient a, Aligned aligned) {
  TFC_DYNAMIC_SHARED(double, slots);
  const int64_t position = blockIdx.x;
  const int64_t row = a.order != nullptr ? load(a.order + position) : position;
  const T* x = static_cast<const T*>(a.rows) + row * a.stride;
  const Weight* w = static_cast<const Weight*>(a.weights) +
                    (a.label != nullptr ? load(a.label + position) : position) * a.weights_stride;
  T* out = static_cast<T*>(a.out) + row * a.width;
  const RowNorm norm = row_norm(x, a.width, aligned.rows, slots);
  const double power = norm.power();
  double along = 0;  // u.w
  if (norm.takes_part()) {
    for_each_piece<T>(x, a.width, aligned.rows, [&](int64_t j, const uint4& piece) {
      const Weights<T, Weight> weight(w + j, a.width - j, aligned.weights);
      double products = 0;
#pragma unroll
      for (int i = 0; i < kPiece<T>; ++i) {
        products += static_cast<double>(Element<T>::value(piece, i)) * power * weight.value[i];
      }
      along += products;
    });
    along = block_sum(along, slots) * norm.scale;
  }
  for_each_piece<T>(x, a.width, aligned.rows, [&](int64_t j, const uint4& piece) {
    uint4 gradient = {0, 0, 0, 0};
    if (norm.takes_part()) {
      const Weights<T, Weight> weight(w + j, a.width - j, aligned.weights);
#pragma unroll
      for (int i = 0; i < kPiece<T>; ++i) {
        const double unit = static_cast<double>(Element<T>::value(piece, i)) * power * norm.scale;
        Element<T>::put(gradient, i,
                        Element<T>::rounded((weight.value[i] - unit * along) * norm.scale * power));
      }
    }
    store_piece<T>(out + j, 0, pieces_left<T>(a.width - j), aligned.out, gradient);
  });
}

template <typename T, typename Weight>
cudaError_t launch(const UnitRowGradient& a, cudaStream_t stream) {
  const Aligned aligned{is_aligned(a.rows, a.stride, sizeof(T)),
                        is_aligned(a.weights, a.weights_stride, sizeof(Weight)),
                        is_aligned(a.out, a.width, sizeof(T))};
  const dim3 grid{static_cast<unsigned>(a.n), 1, 1};
  const dim3 block{threads_for<T>(a.width), 1, 1};
  return TFC_LAUNCH((unit_row_gradient_kernel<T, Weight>), grid, block, block.x / 32 * sizeof(double), stream,
                    a, aligned);
}

template <typename T>
cudaError_t launch(const UnitRowGradient& a, cudaStream_t stream) {
  return a.weights_are_double ? launch<T, double>(a, stream) : launch<T, float>(a, stream);
}

}  // namespace

cudaError_t unit_row_gradient(const UnitRowGradient& a, cudaStream_t stream) {
  if (a.n == 0 || a.width == 0) return cudaSuccess;
  return with_element(a.scalar, [&]<typename T>() { return launch<T>(a, stream); });
}

}  // namespace tfc::cuda
