// The end of a step: the sums of every site become a row of the ring, one block per site.
//
// The number of the step, the place in the ring and whether the next step is recorded live on the device and
// are moved on here, by the block that ends last, so a captured graph that is replayed records every step.
//
// Traffic: reads 8 bytes per unit of the window buffer and the sums of a site (224 bytes), writes its row
// (152 bytes) and its sums, emptied; 8 bytes for each site that is not in use. One launch for all sites.
#include "block.cuh"
#include "launchers.h"

namespace tfc::cuda {
namespace {

constexpr int kThreads = 256;

struct EndStepArguments {
  double* sites;
  const int32_t* units;
  int64_t units_capacity;
  Loss loss;
  Ring ring;
};

__device__ __forceinline__ WindowCounts count_site(const EndStepArguments& a, const StepHeader& header,
                                                   const BatchSums& site, int64_t* slots) {
  WindowCounts counts;
  const int32_t* last_open = a.units + static_cast<int64_t>(site.units_begin);
  const int32_t* last_shut = last_open + a.units_capacity;
  const int64_t width = static_cast<int64_t>(site.width);
  for (int64_t j = threadIdx.x; j < width; j += kThreads) {
    count_unit(header, load(last_open + j), load(last_shut + j), counts);
  }
  counts.dead = block_sum(counts.dead, slots);
  counts.always_on = block_sum(counts.always_on, slots);
  counts.dead_in_window = block_sum(counts.dead_in_window, slots);
  return counts;
}

__device__ __forceinline__ double number(const Loss& loss) {
  if (loss.single_at != nullptr) return static_cast<double>(load(loss.single_at));
  return loss.double_at != nullptr ? load(loss.double_at) : loss.number;
}

// Thread 0 of the last block.
__device__ __forceinline__ void next_step(const EndStepArguments& a, StepHeader header) {
  const Ring& ring = a.ring;
  if (header.enabled != 0) {
    const int64_t recorded = load(ring.recorded);
    const int64_t place = recorded % ring.capacity;
    store(ring.steps + place, static_cast<int64_t>(header.step));
    store(ring.losses + place, number(a.loss));
    store(ring.recorded, recorded + 1);
  }
  header.enabled = static_cast<int64_t>(header.step) % ring.every == 0 ? 1 : 0;  // step numbers start at 1
  header.step += 1;
  header.batch_rows = kNoLabels;
  store(reinterpret_cast<StepHeader*>(a.sites), header);
  store(ring.blocks_ended, 0u);
}

__global__ void __launch_bounds__(kThreads) end_step_kernel(const EndStepArguments a) {
  TFC_DYNAMIC_SHARED(int64_t, slots);
  const StepHeader header = load(reinterpret_cast<const StepHeader*>(a.sites));
  auto* place = reinterpret_cast<BatchSums*>(a.sites + (blockIdx.x + int64_t{1}) * kSiteDoubles);
  const BatchSums site = load(place);
  const Ring& ring = a.ring;
  const int64_t row_of_step = load(ring.recorded) % ring.capacity;
  __syncthreads();  // thread 0 is about to change what all have read
  if (header.enabled != 0) {
    // A captured graph may hold a window buffer that has been outgrown since.
    const bool has_units = site.units_begin >= 0 && site.units_begin + site.width <= a.units_capacity;
    double* rows = ring.values + row_of_step * ring.sites * int64_t{kColumns};
    WindowCounts counts;
    if (has_units && site.batches > 0) counts = count_site(a, header, site, slots);
    if (threadIdx.x == 0) {
      double record[kColumns];
      if (site.batches > 0) {
        write_record(site, counts, has_units, record);
      } else {
        for (double& value : record) value = kNotMeasured;
      }
      double* row = rows + blockIdx.x * int64_t{kColumns};
      for (int i = 0; i < kColumns; ++i) store(row + i, record[i]);
      BatchSums fresh;
      fresh.units_begin = site.units_begin;
      fresh.width = site.width;
      store(place, fresh);
    }
    // Where the ring's row lies there may be a record of a site that is not in use here.
    if (blockIdx.x == 0) {
      for (int64_t i = gridDim.x + threadIdx.x; i < ring.sites; i += kThreads) {
        store(rows + i * int64_t{kColumns} + kNumRows, kNotMeasured);
      }
    }
  }
  if (threadIdx.x != 0) return;
  __threadfence();  // the header is read before the block counts as ended
  if (atomicAdd(ring.blocks_ended, 1u) != gridDim.x - 1) return;
  __threadfence();
  next_step(a, header);
}

}  // namespace

cudaError_t end_step(double* sites, int64_t num_sites, const int32_t* units, int64_t units_capacity,
                     const Loss& loss, const Ring& ring, cudaStream_t stream) {
  const EndStepArguments a{sites, units, units_capacity, loss, ring};
  const dim3 grid{static_cast<unsigned>(num_sites < 1 ? 1 : num_sites), 1, 1};
  const dim3 block{kThreads, 1, 1};
  return TFC_LAUNCH(end_step_kernel, grid, block, kThreads / 32 * sizeof(int64_t), stream, a);
}

}  // namespace tfc::cuda
