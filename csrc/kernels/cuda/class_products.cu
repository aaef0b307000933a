// What follows from the sums of the unit rows of each class: mean cosines over pairs, and their gradient with
// respect to the unit rows. All in double.
//
//   class_products   one block for 32 columns; its warps share the classes. S.T and the sum of the S_c.T_c
//                    over these columns.
//   class_means      one block: adds the products up, counts rows and pairs, and writes the means.
//   weight_factors   one block: counts pairs.
//   weights          one block for 32 columns: the sum over all classes, and then w_c class by class.
//
// Every sum has a fixed order: that of the classes within a warp, of the warps within a block, of the blocks.
//
// Traffic: class_products reads the sums and what they lost once, class_means 24 bytes per class and 16 per
// 32 columns; weights reads the sums twice and writes them once. Two launches for the means, two for the
// gradient.
#include "class_sums.h"

#include "block.cuh"

namespace tfc::cuda {
namespace {

constexpr int kWarps = 16;
constexpr int kThreads = kWarps * 32;

struct Products {
  double all, within;
};

// S_c of one column.
__device__ __forceinline__ double sum_of_class(const ClassSide& side, int64_t c, int64_t width,
                                               int64_t column) {
  const int64_t at = c * width + column;
  const double sum = load(side.sums + at);
  return side.lost == nullptr ? sum : sum + load(side.lost + at);
}

struct Range {
  int64_t first, last;
};

// The classes of this thread's warp.
__device__ __forceinline__ Range classes_of_warp(int64_t classes) {
  const int64_t per_warp = (classes + kWarps - 1) / kWarps;
  const int64_t first = threadIdx.x / 32 * per_warp;
  return {first, classes < first + per_warp ? classes : first + per_warp};
}

// The values of all warps for this thread's lane, added up in order. `values`: shared, [kWarps][32].
__device__ __forceinline__ double sum_over_warps(const double* values) {
  double sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += values[w * 32 + threadIdx.x % 32];
  return sum;
}

__global__ void __launch_bounds__(kThreads)
    class_products(const ClassSide x, const ClassSide y, int64_t width, Products* products) {
  TFC_DYNAMIC_SHARED(double, shared);  // [3][kWarps][32]
  const int64_t column = blockIdx.x * int64_t{32} + threadIdx.x % 32;
  double x_sum = 0, y_sum = 0, within = 0;
  if (column < width) {
    const Range range = classes_of_warp(x.classes > y.classes ? x.classes : y.classes);
    for (int64_t c = range.first; c < range.last; ++c) {
      const double a = c < x.classes ? sum_of_class(x, c, width, column) : 0;
      const double b = c < y.classes ? sum_of_class(y, c, width, column) : 0;
      x_sum += a;
      y_sum += b;
      within += a * b;
    }
  }
  shared[threadIdx.x] = x_sum;
  shared[kThreads + threadIdx.x] = y_sum;
  shared[2 * kThreads + threadIdx.x] = within;
  __syncthreads();
  if (threadIdx.x >= 32) return;
  const Products sums{warp_sum(sum_over_warps(shared) * sum_over_warps(shared + kThreads)),
                      warp_sum(sum_over_warps(shared + 2 * kThreads))};
  if (threadIdx.x == 0) store(products + blockIdx.x, sums);
}

// Rows of a class that take part.
__device__ __forceinline__ double rows_of_class(const int64_t* counts, int64_t c) {
  return static_cast<double>(load(counts + 3 * c));
}

// Rows of one kind of all classes; every thread gets the number.
__device__ __forceinline__ double total_rows(const ClassSide& side, int kind, int64_t* slots) {
  int64_t rows = 0;
  for (int64_t c = threadIdx.x; c < side.classes; c += kThreads) rows += load(side.counts + 3 * c + kind);
  return static_cast<double>(block_sum(rows, slots));
}

struct MeansArguments {
  ClassSide x, y;
  bool crossed;  // pairs of a row of x and one of y; else y is x, and pairs are of different rows
  bool labelled;
  const Products* products;
  int64_t num_products;
  double* out;
};

__global__ void __launch_bounds__(kThreads) class_means(const MeansArguments a) {
  TFC_DYNAMIC_SHARED(double, slots);
  int64_t* whole = reinterpret_cast<int64_t*>(slots);
  CosineSums sums;
  for (int64_t i = threadIdx.x; i < a.num_products; i += kThreads) {
    const Products part = load(a.products + i);
    sums.all += part.all;
    sums.within += part.within;
  }
  const int64_t classes = a.x.classes < a.y.classes ? a.x.classes : a.y.classes;
  for (int64_t c = threadIdx.x; c < classes; c += kThreads) {
    const double rows = rows_of_class(a.x.counts, c);
    sums.within_pairs += rows * (a.crossed ? rows_of_class(a.y.counts, c) : rows - 1);
  }
  sums.all = block_sum(sums.all, slots);
  sums.within = block_sum(sums.within, slots);
  sums.within_pairs = block_sum(sums.within_pairs, slots);
  // From the last kind to the first, which the means need: zero and non-finite rows go out at once.
  double x_rows = 0, y_rows = 0;
  for (int kind = 2; kind >= 0; --kind) {
    x_rows = total_rows(a.x, kind, whole);
    if (a.crossed) y_rows = total_rows(a.y, kind, whole);
    if (threadIdx.x != 0) continue;
    store(a.out + 3 + kind, x_rows);
    if (a.crossed) store(a.out + 6 + kind, y_rows);
  }
  if (threadIdx.x != 0) return;
  if (a.crossed) {
    sums.all_pairs = x_rows * y_rows;
  } else {
    sums.all_pairs = x_rows * (x_rows - 1);
    sums.all -= x_rows;
    sums.within -= x_rows;
  }
  const CosineMeans means = cosine_means(sums, a.labelled);
  store(a.out, means.all);
  store(a.out + 1, means.within);
  store(a.out + 2, means.between);
}

// w_c = factors[0] S + factors[1] S_c. A mean over no pairs is a constant.
__global__ void __launch_bounds__(kThreads)
    weight_factors(const int64_t* counts, int64_t classes, bool labelled, const double* grad,
                   double* factors) {
  TFC_DYNAMIC_SHARED(double, slots);
  double rows = 0, within_pairs = 0;
  for (int64_t c = threadIdx.x; c < classes; c += kThreads) {
    const double of_class = rows_of_class(counts, c);
    rows += of_class;
    within_pairs += of_class * (of_class - 1);
  }
  rows = block_sum(rows, slots);
  within_pairs = block_sum(within_pairs, slots);
  if (threadIdx.x != 0) return;
  const auto per_pair = [](double of_mean, double pairs) { return pairs > 0 ? 2 * of_mean / pairs : 0; };
  const double all_pairs = rows * (rows - 1);
  const double all = per_pair(load(grad), all_pairs);
  const double within = labelled ? per_pair(load(grad + 1), within_pairs) : 0;
  const double between = labelled ? per_pair(load(grad + 2), all_pairs - within_pairs) : 0;
  store(factors, all + between);
  store(factors + 1, within - between);
}

__global__ void __launch_bounds__(kThreads)
    weights(double* sums, int64_t classes, int64_t width, const double* factors) {
  TFC_DYNAMIC_SHARED(double, shared);  // [kWarps][32]
  const int64_t column = blockIdx.x * int64_t{32} + threadIdx.x % 32;
  const Range range = classes_of_warp(classes);
  double sum = 0;
  for (int64_t c = range.first; column < width && c < range.last; ++c) sum += load(sums + c * width + column);
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (column >= width) return;
  const double total = load(factors) * sum_over_warps(shared);
  const double own = load(factors + 1);
  for (int64_t c = range.first; c < range.last; ++c) {
    double* at = sums + c * width + column;
    store(at, total + own * load(at));
  }
}

int64_t column_blocks(int64_t width) { return (width + 31) / 32; }

cudaError_t write_means(MeansArguments a, int64_t width, double* workspace, cudaStream_t stream) {
  const dim3 block{kThreads, 1, 1};
  a.num_products = column_blocks(width);
  if (a.num_products > 0) {
    Products* products = reinterpret_cast<Products*>(workspace);
    a.products = products;
    const dim3 grid{static_cast<unsigned>(a.num_products), 1, 1};
    const cudaError_t error = TFC_LAUNCH(class_products, grid, block, 3 * kThreads * sizeof(double), stream,
                                         a.x, a.y, width, products);
    if (error != cudaSuccess) return error;
  }
  return TFC_LAUNCH(class_means, (dim3{1, 1, 1}), block, kWarps * sizeof(double), stream, a);
}

}  // namespace

int64_t class_products_doubles(int64_t width) { return 2 * column_blocks(width); }

cudaError_t write_mean_cosine_of_sums(const ClassSide& side, int64_t width, bool labelled, double* workspace,
                                      double* out, cudaStream_t stream) {
  return write_means({side, side, false, labelled, nullptr, 0, out}, width, workspace, stream);
}

cudaError_t write_cross_cosine(const ClassSide& x, const ClassSide& y, int64_t width, bool labelled,
                               double* workspace, double* out, cudaStream_t stream) {
  return write_means({x, y, true, labelled, nullptr, 0, out}, width, workspace, stream);
}

cudaError_t sums_to_weights(double* sums, const int64_t* counts, int64_t classes, int64_t width,
                            bool labelled, const double* grad, double* factors, cudaStream_t stream) {
  const dim3 block{kThreads, 1, 1};
  const cudaError_t error = TFC_LAUNCH(weight_factors, (dim3{1, 1, 1}), block, kWarps * sizeof(double),
                                       stream, counts, classes, labelled, grad, factors);
  if (error != cudaSuccess || width == 0) return error;
  const dim3 grid{static_cast<unsigned>(column_blocks(width)), 1, 1};
  return TFC_LAUNCH(weights, grid, block, kThreads * sizeof(double), stream, sums, classes, width, factors);
}

}  // namespace tfc::cuda
