// What the tests call through ctypes: the launchers of csrc/kernels/cuda with flat arguments, and kernels
// that do on purpose what the emulation must find.
#include "centred_rows.h"
#include "cosine_tile.h"
#include "device.cuh"
#include "elements.cuh"
#include "launchers.h"
#include "unit_row_gradient.h"
#include "unit_rows.h"

using namespace tfc;
using namespace tfc::cuda;

namespace {

// What the planning comes to: the tests need the size of the workspace, and say which path was taken.
struct PlanSummary {
  int64_t workspace_bytes, chunks, chunk_rows, tiles, threads, shared_bytes, fused, rows_at_once;
};

Plan plan_of(const int64_t* shape, int64_t multiprocessors, int64_t shared_bytes) {
  return make_plan(static_cast<Job>(shape[0]), static_cast<Scalar>(shape[1]), shape[2], shape[3],
                   shape[4] != 0, {static_cast<int>(multiprocessors), shared_bytes});
}

enum class Fault : int {
  kNone,
  kOutOfBounds,
  kMisaligned,
  kReadOnly,
  kDivergentBarrier,
  kEndedThread,
  kWarp
};

__global__ void faulty(Fault fault, float* values, int count) {
  const int i = static_cast<int>(threadIdx.x);
  switch (fault) {
    case Fault::kOutOfBounds:
      load(values + (i == 7 ? count : 0));
      break;
    case Fault::kMisaligned:
      load(reinterpret_cast<const uint4*>(values + 1));
      break;
    case Fault::kReadOnly:
      store(values, 1.0f);
      break;
    case Fault::kDivergentBarrier:
      if (i < 32) {
        __syncthreads();
      } else {
        __syncthreads();
      }
      break;
    case Fault::kEndedThread:
      if (i == 3) return;
      __syncthreads();
      break;
    case Fault::kWarp:
      if (i % 2 == 0) __shfl_xor_sync(kFullWarp, i, 1);
      break;
    default:
      break;
  }
}

// Reverses the values of a block through static shared memory.
__global__ void reverse(float* values, int count) {
  __shared__ float shared[1024];
  const int i = static_cast<int>(threadIdx.x);
  shared[i] = load(values + i);
  __syncthreads();
  store(values + i, shared[count - 1 - i]);
}

__global__ void warp_operations(const int* values, unsigned* results) {
  const int i = static_cast<int>(threadIdx.x);
  const int value = load(values + i);
  const unsigned ballot = __ballot_sync(kFullWarp, value & 1);
  unsigned* row = results + i * 6;
  store(row, ballot);
  store(row + 1, static_cast<unsigned>(__shfl_xor_sync(kFullWarp, value, 5)));
  store(row + 2, static_cast<unsigned>(__shfl_down_sync(kFullWarp, value, 3)));
  store(row + 3, static_cast<unsigned>(__shfl_sync(kFullWarp, value, 9)));
  store(row + 4, __reduce_add_sync(kFullWarp, static_cast<unsigned>(value)));
  __syncwarp();
  store(row + 5, static_cast<unsigned>(__popc(ballot)));
}

}  // namespace

extern "C" {

// shape: job, scalar, rows, width, labelled.
void kernels_plan(const int64_t* shape, int64_t multiprocessors, int64_t shared_bytes, PlanSummary* out) {
  const Plan plan = plan_of(shape, multiprocessors, shared_bytes);
  *out = {plan.workspace_bytes, plan.chunks,       plan.chunk_rows, plan.tiles,
          plan.threads,         plan.shared_bytes, plan.fused,      plan.rows_at_once};
}

int kernels_measure(const int64_t* shape, int64_t multiprocessors, int64_t shared_bytes, const Batch* batch,
                    void* workspace, const Results* results) {
  const OpenBatch open{plan_of(shape, multiprocessors, shared_bytes), workspace, *results};
  const cudaError_t error = walk_rows(*batch, open, nullptr);
  return error == cudaSuccess ? sum_up(&open, 1, nullptr) : error;
}

int kernels_group_labels(const int64_t* labels, int64_t n, int64_t classes, int64_t* order,
                         int64_t* class_ptr, int32_t* label_at, int32_t* wrong_label, StepHeader* header) {
  return group_labels(labels, n, classes, order, class_ptr, label_at, wrong_label, header, nullptr);
}

int kernels_expand_classes(const int64_t* class_ptr, int64_t n, int64_t classes, int32_t* label_at) {
  return expand_classes(class_ptr, n, classes, label_at, nullptr);
}

int kernels_end_step(double* sites, int64_t num_sites, const int32_t* units, int64_t units_capacity,
                     const Loss* loss, const Ring* ring) {
  return end_step(sites, num_sites, units, units_capacity, *loss, *ring, nullptr);
}

int kernels_unit_row_gradient(const UnitRowGradient* gradient) {
  return unit_row_gradient(*gradient, nullptr);
}

int kernels_unit_rows(const UnitRows* rows) { return unit_rows(*rows, nullptr); }

int kernels_place_cosines(const CosineTile* tile, void* out, int64_t row_stride, int64_t column_stride) {
  return place_cosines(*tile, out, row_stride, column_stride, nullptr);
}
int kernels_count_cosines(const CosineTile* tile, const int32_t* label_at, int64_t bins, int64_t* counts) {
  return count_cosines(*tile, label_at, bins, counts, nullptr);
}
int kernels_count_rows(const double* factors, int64_t n, int64_t* rows) {
  return count_rows(factors, n, rows, nullptr);
}

int kernels_class_means(const ClassedRows* rows, double* means) { return class_means(*rows, means, nullptr); }
int kernels_centred_rows(const ClassedRows* rows, const CentredRows* centred) {
  return centred_rows(*rows, *centred, nullptr);
}
int64_t kernels_sum_squares_blocks(const CosineTile* tile) { return sum_squares_blocks(*tile); }
int kernels_sum_squares(const CosineTile* tile, const int32_t* label, const double* shifts,
                        double* partials) {
  return sum_squares(*tile, label, shifts, partials, nullptr);
}

int64_t kernels_site_doubles() { return kSiteDoubles; }

float kernels_half_to_float(uint16_t bits) { return half_bits_to_float(bits); }
uint16_t kernels_float_to_half(float value) { return float_to_half_bits(value); }
uint16_t kernels_to_bfloat16(double value) { return Element<BFloat16>::rounded(value); }

int emulation_run_faulty(int fault, float* values, int count) {
  return TFC_LAUNCH(faulty, (dim3{1, 1, 1}), (dim3{64, 1, 1}), 0, nullptr, static_cast<Fault>(fault), values,
                    count);
}
int emulation_run_reverse(float* values, int count) {
  return TFC_LAUNCH(reverse, (dim3{1, 1, 1}), (dim3{static_cast<unsigned>(count), 1, 1}), 0, nullptr, values,
                    count);
}
int emulation_run_warp_operations(const int* values, unsigned* results) {
  return TFC_LAUNCH(warp_operations, (dim3{1, 1, 1}), (dim3{64, 1, 1}), 0, nullptr, values, results);
}
}
