// Steps of several processes: what the rows of each class of a batch add up to, where it can be added up over
// the processes, and the statistics of a site from what they have together. See ClassPlane in
// ops/probe_ops.h. Nothing here waits for the device or allocates.
#pragma once

#include "launchers.h"

namespace tfc::cuda {

// Three planes of `classes` rows (one without labels): sums of unit rows of the feature, of the gradient, and
// numbers of open gates. Column i of the first `sites` ones has the number of rows of site i, then come the
// units.
struct ClassPlanes {
  double* numbers;  // [3 * classes, pitch]
  int64_t classes, pitch, sites;
};

// A batch whose statistics have just been added to its site.
struct SharedBatch {
  Scalar scalar;
  const void* feature;  // [rows, width], rows `stride` elements apart
  int64_t stride, rows, width;
  Groups groups;
  const double* feature_sums;     // [classes, width] sums of the unit rows of each class
  const double* gradient_sums;    // the same
  const int64_t* feature_counts;  // [classes, 3] rows that take part, zero rows, non-finite rows
  const int64_t* gradient_counts;
  const StepHeader* header;
  const BatchSums* site;
  int64_t site_index;
  int64_t units_capacity;
};

// Adds the batch to the planes, unless it was left out of the site or the site has no place for its units.
cudaError_t add_to_planes(const SharedBatch& batch, const ClassPlanes& planes, cudaStream_t stream);

// Makes of what this process has recorded what all have.
struct SharedStep {
  double* sites;       // [1 + planes.sites, kSiteDoubles], row 0 the header; in/out
  int64_t num_sites;   // those in use
  const double* sums;  // [batches, 3 * planes.classes, planes.pitch] over all processes
  int64_t batches;
  ClassPlanes planes;    // of one batch; `numbers` is not looked at
  const double* summed;  // [num_sites, kSiteDoubles] `sites` of all processes added up
  double processes;
  int32_t* units;  // [2, units_capacity]; in/out
  int64_t units_capacity;
};
cudaError_t combine_processes(const SharedStep& step, cudaStream_t stream);

}  // namespace tfc::cuda
