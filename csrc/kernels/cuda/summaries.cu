// The sums of one batch as the numbers that mean_cosine and gate_stats give. One thread each: reads a
// BatchSums (320 bytes), writes six or seven numbers.
#include "device.cuh"
#include "launchers.h"

namespace tfc::cuda {
namespace {

__device__ __forceinline__ void write_means(const CosineMeans& means, double* out) {
  store(out, means.all);
  store(out + 1, means.within);
  store(out + 2, means.between);
}

__global__ void mean_cosine_kernel(const BatchSums* site, bool labelled, double* out) {
  const BatchSums sums = load(site);
  write_means(cosine_means(sums.feature, labelled), out);
  store(out + 3, sums.feature.valid);
  store(out + 4, sums.feature.zero);
  store(out + 5, sums.nonfinite);
}

__global__ void gate_stats_kernel(const BatchSums* site, const int64_t* unit_counts, bool labelled,
                                  double* out) {
  const BatchSums sums = load(site);
  // With no row every unit would count as dead and as always on: nothing was measured.
  const double width = sums.rows > 0 ? sums.width : 0;
  store(out, ratio(sums.gates.open, sums.gates.gates));
  store(out + 1, ratio(static_cast<double>(load(unit_counts)), width));
  store(out + 2, ratio(static_cast<double>(load(unit_counts + 1)), width));
  write_means(agreement_means(sums.gates, labelled), out + 3);
  store(out + 6, sums.rows);
}

}  // namespace

cudaError_t write_mean_cosine(const BatchSums* site, bool labelled, double* out, cudaStream_t stream) {
  return TFC_LAUNCH(mean_cosine_kernel, (dim3{1, 1, 1}), (dim3{1, 1, 1}), 0, stream, site, labelled, out);
}

cudaError_t write_gate_stats(const BatchSums* site, const int64_t* unit_counts, bool labelled, double* out,
                             cudaStream_t stream) {
  return TFC_LAUNCH(gate_stats_kernel, (dim3{1, 1, 1}), (dim3{1, 1, 1}), 0, stream, site, unit_counts,
                    labelled, out);
}

}  // namespace tfc::cuda
