// Sums over the rows of each class, for processes that share their steps.
//
// add_to_planes: a thread has one unit of one class. It adds the sums of unit rows that are there already,
// and counts the open gates of its unit in the rows of the class. Traffic: reads the feature once more, and
// 16 bytes per unit and class; 48 bytes per unit and class in and out.
//
// combine_processes: a block has one site. Traffic: reads 24 bytes per unit, class and micro-batch, writes 8
// per unit of the window buffer. One launch.
//
// Neither has an order that depends on the device: the sums of a thread go up by class, then by unit, those
// of a block by lane and warp.
#include "block.cuh"
#include "gates.cuh"
#include "shared_sums.h"

namespace tfc::cuda {
namespace {

constexpr int kThreads = 128;

__device__ __forceinline__ bool is_in_site(const SharedBatch& batch, double units_begin) {
  const StepHeader* header = batch.header;
  const BatchSums* site = batch.site;
  return load(&header->enabled) != 0 && load(&site->batches) > 0 &&
         load(&site->last_batch) == load(&header->batch) &&
         load(&site->width) == static_cast<double>(batch.width) && units_begin >= 0 &&
         units_begin + static_cast<double>(batch.width) <= static_cast<double>(batch.units_capacity);
}

__device__ __forceinline__ void add(double* place, double number) { store(place, load(place) + number); }

template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_to_planes_kernel(const SharedBatch batch, const ClassPlanes planes) {
  using Bits = typename Element<T>::Bits;
  const double units_begin = load(&batch.site->units_begin);
  if (!is_in_site(batch, units_begin)) return;
  const int64_t unit = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  const int64_t of_class = blockIdx.y;
  if (unit >= batch.width) return;
  const bool labelled = batch.groups.class_ptr != nullptr;
  const int64_t begin = labelled ? load(batch.groups.class_ptr + of_class) : 0;
  const int64_t end = labelled ? load(batch.groups.class_ptr + of_class + 1) : batch.rows;
  const Bits* column = static_cast<const Bits*>(batch.feature) + unit;
  int64_t open = 0;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t row = labelled ? load(batch.groups.order + i) : i;
    open += is_open<T>(load(column + row * batch.stride)) ? 1 : 0;
  }
  const int64_t plane = planes.classes * planes.pitch;
  double* row = planes.numbers + of_class * planes.pitch;
  double* place = row + planes.sites + static_cast<int64_t>(units_begin) + unit;
  const int64_t at = of_class * batch.width + unit;
  add(place, load(batch.feature_sums + at));
  add(place + plane, load(batch.gradient_sums + at));
  add(place + 2 * plane, static_cast<double>(open));
  if (unit != 0) return;
  double* rows = row + batch.site_index;
  add(rows, static_cast<double>(load(batch.feature_counts + 3 * of_class)));
  add(rows + plane, static_cast<double>(load(batch.gradient_counts + 3 * of_class)));
  add(rows + 2 * plane, static_cast<double>(end - begin));
}

template <typename T>
cudaError_t launch(const SharedBatch& batch, const ClassPlanes& planes, cudaStream_t stream) {
  const dim3 grid{static_cast<unsigned>((batch.width + kThreads - 1) / kThreads),
                  static_cast<unsigned>(planes.classes), 1};
  const dim3 block{kThreads, 1, 1};
  return TFC_LAUNCH(add_to_planes_kernel<T>, grid, block, 0, stream, batch, planes);
}

// ---- over all processes ----

// One plane of one site in one micro-batch.
struct SitePlane {
  const double* rows;   // [classes], `pitch` apart
  const double* units;  // [classes, width], rows `pitch` apart
  int64_t classes, pitch, width;
};

// Thread 0 gets the sums over the block. `slots`: shared, [kThreads / 32][kValues]. Ends with a barrier.
template <int kValues, typename T>
__device__ __forceinline__ void add_up(T (&values)[kValues], T* slots) {
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int k = 0; k < kValues; ++k) {
    values[k] = warp_sum(values[k]);
    if (thread % 32 == 0) slots[thread / 32 * kValues + k] = values[k];
  }
  __syncthreads();
  if (thread == 0) {
    for (int i = kValues; i < kThreads / 32 * kValues; ++i) values[i % kValues] += slots[i];
  }
  __syncthreads();
}

__device__ __forceinline__ void add_cosines(const SitePlane& plane, double* slots, CosineSums& out) {
  double sums[2] = {};  // all, within
  for (int64_t j = threadIdx.x; j < plane.width; j += kThreads) {
    double all = 0;
    for (int64_t c = 0; c < plane.classes; ++c) {
      const double sum = load(plane.units + c * plane.pitch + j);
      all += sum;
      sums[1] += sum * sum;
    }
    sums[0] += all * all;
  }
  add_up(sums, slots);
  if (threadIdx.x != 0) return;
  CosineSums batch;
  for (int64_t c = 0; c < plane.classes; ++c) {
    const double rows = load(plane.rows + c * plane.pitch);
    batch.valid += rows;
    batch.within_pairs += rows * (rows - 1);
  }
  batch.all_pairs = batch.valid * (batch.valid - 1);
  batch.all = sums[0] - batch.valid;
  batch.within = sums[1] - batch.valid;
  accumulate(batch, out);
}

__device__ __forceinline__ void add_gates(const SitePlane& plane, int32_t step, int32_t* last_open,
                                          int32_t* last_shut, int64_t* slots, GateSums& out) {
  int64_t all_rows = 0, pairs = 0;
  for (int64_t c = 0; c < plane.classes; ++c) {
    const auto rows = static_cast<int64_t>(load(plane.rows + c * plane.pitch));
    all_rows += rows;
    pairs += rows * (rows - 1) / 2;
  }
  int64_t sums[3] = {};  // open, disagree over all pairs, within classes
  for (int64_t j = threadIdx.x; j < plane.width; j += kThreads) {
    int64_t open = 0;
    for (int64_t c = 0; c < plane.classes; ++c) {
      const auto rows = static_cast<int64_t>(load(plane.rows + c * plane.pitch));
      const auto in_class = static_cast<int64_t>(load(plane.units + c * plane.pitch + j));
      open += in_class;
      sums[2] += in_class * (in_class - rows);
    }
    sums[0] += open;
    sums[1] += open * (open - all_rows);
    if (open > 0) store(last_open + j, step);
    if (open < all_rows) store(last_shut + j, step);
  }
  add_up(sums, slots);
  if (threadIdx.x == 0) {
    accumulate(tfc::gate_sums({all_rows, plane.width, sums[0], sums[1], sums[2], pairs}), out);
  }
}

// Of one block. What only thread 0 adds up lies here, not in registers that all would spill.
struct CombineShared {
  double of_cosines[kThreads / 32 * 2];
  int64_t of_gates[kThreads / 32 * 3];
  BatchSums own;
};

__global__ void __launch_bounds__(kThreads) combine_kernel(const SharedStep a) {
  TFC_DYNAMIC_SHARED(CombineShared, shared);
  const int64_t index = blockIdx.x;
  auto* place = reinterpret_cast<BatchSums*>(a.sites + (1 + index) * kSiteDoubles);
  const auto width = static_cast<int64_t>(load(&place->width));
  const auto begin = static_cast<int64_t>(load(&place->units_begin));
  if (threadIdx.x == 0) shared->own = {};
  if (begin >= 0 && begin + width <= a.units_capacity && a.planes.sites + begin + width <= a.planes.pitch) {
    const auto step = static_cast<int32_t>(load(&reinterpret_cast<const StepHeader*>(a.sites)->step));
    const int64_t plane = a.planes.classes * a.planes.pitch;
    for (int64_t m = 0; m < a.batches; ++m) {
      const double* numbers = a.sums + 3 * m * plane;
      SitePlane of_site{numbers + index, numbers + a.planes.sites + begin, a.planes.classes, a.planes.pitch,
                        width};
      add_cosines(of_site, shared->of_cosines, shared->own.feature);
      of_site.rows += plane;
      of_site.units += plane;
      add_cosines(of_site, shared->of_cosines, shared->own.gradient);
      of_site.rows += plane;
      of_site.units += plane;
      int32_t* last_open = a.units + begin;
      add_gates(of_site, step, last_open, last_open + a.units_capacity, shared->of_gates, shared->own.gates);
    }
  }
  // Width and place, which all threads have read, stay what they are.
  if (threadIdx.x != 0) return;
  const BatchSums summed = load(reinterpret_cast<const BatchSums*>(a.summed + index * kSiteDoubles));
  store(place, over_processes(load(place), shared->own, summed, a.processes));
}

}  // namespace

cudaError_t add_to_planes(const SharedBatch& batch, const ClassPlanes& planes, cudaStream_t stream) {
  if (batch.width == 0) return cudaSuccess;
  return with_element(batch.scalar, [&]<typename T>() { return launch<T>(batch, planes, stream); });
}

cudaError_t combine_processes(const SharedStep& step, cudaStream_t stream) {
  if (step.num_sites == 0) return cudaSuccess;
  const dim3 grid{static_cast<unsigned>(step.num_sites), 1, 1};
  const dim3 block{kThreads, 1, 1};
  return TFC_LAUNCH(combine_kernel, grid, block, sizeof(CombineShared), stream, step);
}

}  // namespace tfc::cuda
