// From what the two passes left to the sums of one batch, and from sums to the columns of a record.
#pragma once

#include "../statistics.h"
#include "passes.h"

namespace tfc::cpu {

struct Batch {
  int64_t rows;
  int64_t width;
  bool labelled;
  int64_t num_segments;
  const Segment* segments;       // [num_segments]
  const SegmentTotals* rows_of;  // [num_segments] what the row pass counted
  int64_t num_strips;
  const ColumnTotals* units_of;  // [num_strips] what the column pass counted
};

// Segments of a batch whose class c lies at positions class_ptr[c] ... class_ptr[c + 1] - 1.
int64_t count_segments(const int64_t* class_ptr, int64_t num_classes);
void cut_segments(const int64_t* class_ptr, int64_t num_classes, Segment* out);

inline int64_t count_strips(int64_t width) { return (width + kStripUnits - 1) / kStripUnits; }

// Sums of the cosines of tensor 0 (feature) or 1 (gradient).
CosineSums cosine_sums(const Batch& batch, int tensor);
GateSums gate_sums(const Batch& batch);
int64_t nonfinite_rows(const Batch& batch);

// What the rows of each class add up to over all processes, for each micro-batch of a step.
struct ClassTotals {
  // [batches, 3, classes, pitch]: unit rows of the feature, of the gradient, open gates
  const double* sums;
  int64_t batches, classes, pitch;
  int64_t rows_at;          // column with the number of rows of each class
  int64_t units_at, width;  // columns of the units
};
// The statistics of one site over all those rows: cosines and gates, and the rows in each, but no norms.
// last_open, last_shut: [width] in/out, as of ColumnPass.
BatchSums sums_over_classes(const ClassTotals& totals, int32_t step, int32_t* last_open, int32_t* last_shut);

// One record. last_open / last_shut: the site's units [width], null when it has no place for them;
// out: [kColumns].
void finalize(const BatchSums& site, const StepHeader& header, const int32_t* last_open,
              const int32_t* last_shut, double* out);

}  // namespace tfc::cpu
