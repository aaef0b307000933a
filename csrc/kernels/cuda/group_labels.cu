// Rows sorted by class: a stable counting sort in one launch, one warp per class.
//
// The warp of class c counts the labels below c, which is where c begins, and then walks the labels again
// and gives each c the next position: lanes before it in the ballot come first. No atomics, no passes that
// wait for each other, and the order is that of the rows.
//
// Traffic: every warp reads the labels twice (8 bytes each, from cache after the first), so classes x n / 16
// warp loads; writes 8 or 12 bytes per row and 8 per class. Meant for up to some thousand classes.
#include "launchers.h"

#include "admission.cuh"
#include "block.cuh"

namespace tfc::cuda {
namespace {

constexpr int kThreads = 128;

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

__global__ void __launch_bounds__(kThreads) group_labels_kernel(const GroupArguments a) {
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
  store(a.class_ptr + a.classes, a.n);
  if (wrong < a.n && a.wrong_label != nullptr) store(a.wrong_label, 1);
  if (a.header != nullptr) begin_batch(a, wrong);
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
  constexpr int64_t kWarps = kThreads / 32;
  const dim3 grid{static_cast<unsigned>((classes + kWarps - 1) / kWarps), 1, 1};
  const dim3 block{kThreads, 1, 1};
  return TFC_LAUNCH(group_labels_kernel, grid, block, 0, stream, a);
}

cudaError_t expand_classes(const int64_t* class_ptr, int64_t n, int64_t classes, int32_t* label_at,
                           cudaStream_t stream) {
  if (n == 0) return cudaSuccess;
  const dim3 grid{static_cast<unsigned>((n + kThreads - 1) / kThreads), 1, 1};
  const dim3 block{kThreads, 1, 1};
  return TFC_LAUNCH(expand_classes_kernel, grid, block, 0, stream, class_ptr, n, classes, label_at);
}

}  // namespace tfc::cuda
