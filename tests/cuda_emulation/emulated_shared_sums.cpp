// What the tests call through ctypes: sums of classes for steps of several processes.
#include "shared_sums.h"

using namespace tfc;
using namespace tfc::cuda;

extern "C" {

// shape: scalar, stride, rows, width, site, sites, units_capacity, classes, pitch.
int kernels_add_to_planes(const int64_t* shape, const void* feature, const Groups* groups,
                          const double* feature_sums, const double* gradient_sums,
                          const int64_t* feature_counts, const int64_t* gradient_counts, const double* sites,
                          double* planes) {
  const int64_t site = shape[4];
  const SharedBatch batch{static_cast<Scalar>(shape[0]),
                          feature,
                          shape[1],
                          shape[2],
                          shape[3],
                          *groups,
                          feature_sums,
                          gradient_sums,
                          feature_counts,
                          gradient_counts,
                          reinterpret_cast<const StepHeader*>(sites),
                          reinterpret_cast<const BatchSums*>(sites + (1 + site) * kSiteDoubles),
                          site,
                          shape[6]};
  return add_to_planes(batch, {planes, shape[7], shape[8], shape[5]}, nullptr);
}

// shape: sites in use, batches, classes, pitch, sites, processes, units_capacity.
int kernels_combine_processes(const int64_t* shape, double* sites, const double* sums, const double* summed,
                              int32_t* units) {
  const SharedStep step{sites,
                        shape[0],
                        sums,
                        shape[1],
                        {nullptr, shape[2], shape[3], shape[4]},
                        summed,
                        static_cast<double>(shape[5]),
                        units,
                        shape[6]};
  return combine_processes(step, nullptr);
}
}
