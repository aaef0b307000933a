// The CUDA kernels as the border to torch calls them: plain pointers to device memory, sizes, a stream.
// Nothing here waits for the device or allocates.
//
// The rows of a batch take one launch (two if they are long, see plan.h), the sums of up to kBatchesAtOnce
// batches one, the end of a step one, grouping labels one.
#pragma once

#ifdef TFC_CUDA_EMULATION
#include "cuda_emulation.h"
#else
#include <cuda_runtime_api.h>
#endif

#include <cstdint>

#include "../jobs.h"
#include "../statistics.h"
#include "plan.h"

namespace tfc::cuda {

// Rows sorted by class, as group_labels leaves them; all null: no labels.
struct Groups {
  const int64_t* order = nullptr;      // [n] row at each position
  const int64_t* class_ptr = nullptr;  // [classes + 1] position at which each class begins
  const int32_t* label_at = nullptr;   // [n] class of the row at each position; the row pass does without
  int64_t classes = 0;                 // of class_ptr
  int64_t entries = 0;                 // of order, whose first ones may be read before it is known to fit
};

struct Batch {
  const void* feature;   // [n, width], rows `feature_stride` elements apart
  const void* gradient;  // [n, width]; for kPair and kReluBackward
  void* grad_in;         // [n, width]; for kReluBackward; may be the gradient's own memory
  int64_t feature_stride, gradient_stride, grad_in_stride;
  Groups groups;
};

// Where the statistics of a batch go.
struct Results {
  BatchSums* site = nullptr;  // the batch is added to it
  // Null: the batch is added, whatever it is. Else it is left out if the step is not recorded, or if it does
  // not fit (see BatchFault), which is noted there; rows are then not walked by labels that are not theirs.
  StepHeader* header = nullptr;
  int64_t site_index = 0;       // to name the site of a fault
  int64_t rows_per_sample = 1;  // labels are given one for each sample, groups are of rows
  int32_t* units = nullptr;     // [2, units_capacity] step at which a unit was last open, last shut; with a
                                // header only: a new site takes the next free units, if there are enough
  int64_t units_capacity = 0;
  int64_t* unit_counts = nullptr;  // [2] units open in no row, in every row; may be null
};

// A batch whose rows have been walked. What they have left lies in the workspace (plan.workspace_bytes,
// 16-byte aligned, its content does not matter before), until sum_up has put it together.
struct OpenBatch {
  Plan plan;
  void* workspace;
  Results results;
};

// The first half of measuring a batch: all that reads its rows.
cudaError_t walk_rows(const Batch& batch, const OpenBatch& open, cudaStream_t stream);
// The second half, of several batches; no two of one site.
cudaError_t sum_up(const OpenBatch* batches, int64_t count, cudaStream_t stream);

// -> out [6]: cosine all, within, between; valid rows, zero rows, non-finite rows.
cudaError_t write_mean_cosine(const BatchSums* site, bool labelled, double* out, cudaStream_t stream);
// -> out [7]: active rate, dead units, always-on units (fractions), agreement all, within, between; rows.
// unit_counts: [2], as `measure` leaves them.
cudaError_t write_gate_stats(const BatchSums* site, const int64_t* unit_counts, bool labelled, double* out,
                             cudaStream_t stream);

// Stable sort of labels [n] by class into order [n], class_ptr [classes + 1] and label_at [n], which may be
// null. A label outside of 0 ... classes - 1 sets *wrong_label to 1, or is a fault where there is a header,
// and counts as the nearest class. `header` may be null; else a new micro-batch of n rows begins there.
cudaError_t group_labels(const int64_t* labels, int64_t n, int64_t classes, int64_t* order,
                         int64_t* class_ptr, int32_t* label_at, int32_t* wrong_label, StepHeader* header,
                         cudaStream_t stream);

// label_at for rows that were sorted elsewhere.
cudaError_t expand_classes(const int64_t* class_ptr, int64_t n, int64_t classes, int32_t* label_at,
                           cudaStream_t stream);

// The ring of finished steps, all of it on the device.
struct Ring {
  double* values;          // [capacity, sites, kColumns]
  int64_t* steps;          // [capacity] numbers of the steps
  double* losses;          // [capacity]
  int64_t* recorded;       // [1] steps recorded so far; step k lies in row k % capacity
  unsigned* blocks_ended;  // [1] zero between launches
  int64_t capacity;
  int64_t sites;
  int64_t every;  // every how manyth step is recorded
};

// The loss of a step: one number on the device, or, where both are null, `number`.
struct Loss {
  const float* single_at = nullptr;
  const double* double_at = nullptr;
  double number = kNotMeasured;
};

// Closes a step: each of the first num_sites that was seen becomes one row of the ring (NaN in the row count:
// not seen) and is emptied; then the step counter in the header goes on. sites: [1 + ring.sites,
// kSiteDoubles], row 0 the header; units: [2, units_capacity].
cudaError_t end_step(double* sites, int64_t num_sites, const int32_t* units, int64_t units_capacity,
                     const Loss& loss, const Ring& ring, cudaStream_t stream);

}  // namespace tfc::cuda
