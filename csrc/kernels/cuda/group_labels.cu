// Rows sorted by class: a stable counting sort in one launch.
//
//   few classes    one block. Each warp counts the classes of its own range of rows, in shared memory; then
//                  it is known where each warp's rows of each class go, and they go there. Lanes of one class
//                  find each other, so that no counter is written by two.
//   many classes   one warp per class, which counts the labels below its class and then gives its rows the
//                  next positions.
//
// No atomics, and the order is that of the rows.
//
// Traffic: labels are read twice, 8 bytes each, with many classes by every warp (from cache after the first);
// writes 8 or 12 bytes per row and 8 per class.
#include "launchers.h"

#include "admission.cuh"
#include "block.cuh"

namespace tfc::cuda {
namespace {

constexpr int kThreads = 128;   // many classes
constexpr int kMostWarps = 32;  // few classes
constexpr int64_t kMostSharedBytes = 48 * 1024;

// A wrong label counts as the nearest class: every row has a place in the order, whatever the labels.
__device__ __forceinline__ int64_t nearest_class(int64_t label, int64_t classes) {
  return label < 0 ? 0 : label >= classes ? classes - 1 : label;
}

struct GroupArguments {
  const int64_t* labels;
  int64_t n, classes;
  int64_t* order;
  int64_t* class_ptr;
  int32_t* label_at;
  int32_t* wrong_label;
  StepHeader* header;
};

// The smallest of the warp.
__device__ __forceinline__ int64_t warp_least(int64_t value) {
#pragma unroll
  for (int flip = 16; flip > 0; flip /= 2) {
    const int64_t other = __shfl_xor_sync(kFullWarp, value, flip);
    value = other < value ? other : value;
  }
  return value;
}

// A new micro-batch of a probe begins. `wrong`: the first row whose label is out of range, n: there is none.
__device__ __forceinline__ void begin_batch(const GroupArguments& a, int64_t wrong) {
  store(&a.header->batch, load(&a.header->batch) + 1);
  store(&a.header->batch_rows, wrong < a.n ? kWrongLabels : static_cast<double>(a.n));
  if (wrong == a.n || load(&a.header->enabled) == 0) return;
  report(a.header, BatchFault::kWrongLabel, 0, wrong, load(a.labels + wrong));
}

__device__ __forceinline__ void end_grouping(const GroupArguments& a, int64_t wrong) {
  store(a.class_ptr + a.classes, a.n);
  if (wrong < a.n && a.wrong_label != nullptr) store(a.wrong_label, 1);
  if (a.header != nullptr) begin_batch(a, wrong);
}

// Shared memory: where each class begins; rows of each class in the range of each warp; the first wrong label
// of each warp.
inline int64_t shared_bytes(int64_t classes, int64_t warps) {
  return warps * static_cast<int64_t>(sizeof(int64_t)) +
         (warps + 1) * classes * static_cast<int64_t>(sizeof(int32_t));
}

// Warps that have room for their counts and enough to do; 0: too many classes, or too many rows for counts of
// 32 bits.
inline int64_t warps_with_room(int64_t n, int64_t classes) {
  if (n >> 31 != 0) return 0;
  constexpr int64_t kFewestRows = 128;  // of a warp
  int64_t warps = kMostWarps;
  while (warps > 1 && (warps - 1) * kFewestRows >= n) --warps;
  while (warps > 0 && shared_bytes(classes, warps) > kMostSharedBytes) warps /= 2;
  return warps;
}

__global__ void __launch_bounds__(32 * kMostWarps, 1) group_few_classes(const GroupArguments a) {
  TFC_DYNAMIC_SHARED(int64_t, memory);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int classes = static_cast<int>(a.classes);
  int64_t* const wrong_of = memory;
  int32_t* const begin_of = reinterpret_cast<int32_t*>(memory + warps);
  int32_t* const counts = begin_of + classes;
  int32_t* const mine = counts + warp * classes;
  for (int c = lane; c < classes; c += 32) mine[c] = 0;
  __syncwarp();

  // 32 rows at a time: `use(row, its class, lanes of that class)`; a lane past the end has class -1.
  const int64_t range = ((a.n + warps - 1) / warps + 31) / 32 * 32;
  const int64_t begin = warp * range;
  const int64_t end = begin + range < a.n ? begin + range : a.n;
  const auto walk = [&](const auto& use) {
    constexpr int kAtOnce = 4;
    for (int64_t first = begin; first < end; first += 32 * kAtOnce) {
      int64_t labels[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int64_t row = first + 32 * k + lane;
        labels[k] = row < end ? load(a.labels + row) : 0;
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int64_t row = first + 32 * k + lane;
        const int own = row < end ? static_cast<int>(nearest_class(labels[k], a.classes)) : -1;
        use(row, labels[k], own, __match_any_sync(kFullWarp, own));
        __syncwarp();
      }
    }
  };
  int64_t wrong = a.n;
  walk([&](int64_t row, int64_t label, int own, unsigned same) {
    if (own < 0) return;
    if (wrong == a.n && label != own) wrong = row;
    if (lane == __ffs(static_cast<int>(same)) - 1) mine[own] += __popc(same);
  });
  wrong = warp_least(wrong);
  if (lane == 0) wrong_of[warp] = wrong;
  __syncthreads();

  for (int c = static_cast<int>(threadIdx.x); c < classes; c += static_cast<int>(blockDim.x)) {
    int32_t rows = 0;  // of the warps before
    for (int w = 0; w < warps; ++w) {
      const int32_t of_warp = counts[w * classes + c];
      counts[w * classes + c] = rows;
      rows += of_warp;
    }
    begin_of[c] = rows;
  }
  __syncthreads();
  if (warp == 0) {
    int32_t before = 0;
    for (int first = 0; first < classes; first += 32) {
      const int c = first + lane;
      const int32_t rows = c < classes ? begin_of[c] : 0;
      int32_t upto = rows;  // rows of the classes first ... c
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int32_t other = __shfl_sync(kFullWarp, upto, lane - step);
        upto += lane >= step ? other : 0;
      }
      if (c < classes) {
        begin_of[c] = before + upto - rows;
        store(a.class_ptr + c, before + upto - rows);
      }
      before += __shfl_sync(kFullWarp, upto, 31);
    }
  }
  __syncthreads();

  walk([&](int64_t row, int64_t, int own, unsigned same) {
    if (own >= 0) {
      const int64_t at = begin_of[own] + mine[own] + __popc(same & ((1u << lane) - 1));
      store(a.order + at, row);
      if (a.label_at != nullptr) store(a.label_at + at, own);
    }
    __syncwarp();  // all have read the count that one is about to change
    if (own >= 0 && lane == __ffs(static_cast<int>(same)) - 1) mine[own] += __popc(same);
  });
  if (threadIdx.x != 0) return;
  wrong = a.n;
  for (int w = 0; w < warps; ++w) wrong = wrong_of[w] < wrong ? wrong_of[w] : wrong;
  end_grouping(a, wrong);
}

__global__ void __launch_bounds__(kThreads) group_many_classes(const GroupArguments a) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t mine = blockIdx.x * int64_t{kThreads / 32} + threadIdx.x / 32;
  if (mine >= a.classes) return;  // whole warps
  int64_t below = 0;
  int64_t wrong = a.n;
  for (int64_t i = lane; i < a.n; i += 32) {
    const int64_t label = load(a.labels + i);
    if (wrong == a.n && (label < 0 || label >= a.classes)) wrong = i;
    below += nearest_class(label, a.classes) < mine;
  }
  const int64_t begin = warp_sum(below);
  int64_t position = begin;
  for (int64_t first = 0; first < a.n; first += 32) {
    const int64_t i = first + lane;
    const bool is_mine = i < a.n && nearest_class(load(a.labels + i), a.classes) == mine;
    const unsigned ballot = __ballot_sync(kFullWarp, is_mine);
    if (is_mine) {
      const int64_t at = position + __popc(ballot & ((1u << lane) - 1));
      store(a.order + at, i);
      if (a.label_at != nullptr) store(a.label_at + at, static_cast<int32_t>(mine));
    }
    position += __popc(ballot);
  }
  wrong = warp_least(wrong);
  if (lane != 0) return;
  store(a.class_ptr + mine, begin);
  if (mine != 0) return;
  end_grouping(a, wrong);
}

__global__ void __launch_bounds__(kThreads)
    expand_classes_kernel(const int64_t* class_ptr, int64_t n, int64_t classes, int32_t* label_at) {
  const int64_t position = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (position >= n) return;
  // The last class that begins at or before the position; empty classes begin there, too, and come earlier.
  int64_t low = 0, high = classes;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (load(class_ptr + middle) <= position) {
      low = middle;
    } else {
      high = middle;
    }
  }
  store(label_at + position, static_cast<int32_t>(low));
}

}  // namespace

cudaError_t group_labels(const int64_t* labels, int64_t n, int64_t classes, int64_t* order,
                         int64_t* class_ptr, int32_t* label_at, int32_t* wrong_label, StepHeader* header,
                         cudaStream_t stream) {
  const GroupArguments a{labels, n, classes, order, class_ptr, label_at, wrong_label, header};
  const int64_t warps = warps_with_room(n, classes);
  if (warps > 0) {
    const dim3 block{static_cast<unsigned>(32 * warps), 1, 1};
    return TFC_LAUNCH(group_few_classes, (dim3{1, 1, 1}), block, shared_bytes(classes, warps), stream, a);
  }
  constexpr int64_t kWarps = kThreads / 32;
  const dim3 grid{static_cast<unsigned>((classes + kWarps - 1) / kWarps), 1, 1};
  const dim3 block{kThreads, 1, 1};
  return TFC_LAUNCH(group_many_classes, grid, block, 0, stream, a);
}

cudaError_t expand_classes(const int64_t* class_ptr, int64_t n, int64_t classes, int32_t* label_at,
                           cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  const dim3 grid{static_cast<unsigned>((n + kThreads - 1) / kThreads), 1, 1};
  const dim3 block{kThreads, 1, 1};
  return TFC_LAUNCH(expand_classes_kernel, grid, block, 0, stream, class_ptr, n, classes, label_at);
}

}  // namespace tfc::cuda
