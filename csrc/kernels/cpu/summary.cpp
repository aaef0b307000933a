#include "summary.h"

#include <algorithm>

namespace tfc::cpu {

int64_t count_segments(const int64_t* class_ptr, int64_t num_classes) {
  int64_t count = 0;
  for (int64_t c = 0; c < num_classes; ++c) {
    count += (class_ptr[c + 1] - class_ptr[c] + kSegmentRows - 1) / kSegmentRows;
  }
  return count;
}

void cut_segments(const int64_t* class_ptr, int64_t num_classes, Segment* out) {
  for (int64_t c = 0; c < num_classes; ++c) {
    for (int64_t begin = class_ptr[c]; begin < class_ptr[c + 1]; begin += kSegmentRows) {
      const int64_t rows = std::min(kSegmentRows, class_ptr[c + 1] - begin);
      *out++ = {begin, static_cast<int32_t>(rows), static_cast<int32_t>(c)};
    }
  }
}

namespace {

bool class_ends(const Batch& batch, int64_t segment) {
  return segment + 1 == batch.num_segments ||
         batch.segments[segment + 1].label != batch.segments[segment].label;
}

}  // namespace

CosineSums cosine_sums(const Batch& batch, int tensor) {
  CosineSums sums;
  double class_rows = 0;
  for (int64_t s = 0; s < batch.num_segments; ++s) {
    const SegmentTotals& totals = batch.rows_of[s];
    sums.norm += totals.norm[tensor];
    sums.valid += totals.valid[tensor];
    sums.zero += totals.zero[tensor];
    class_rows += totals.valid[tensor];
    if (!class_ends(batch, s)) continue;
    sums.within_pairs += class_rows * (class_rows - 1);
    class_rows = 0;
  }
  sums.all_pairs = sums.valid * (sums.valid - 1);
  for (int64_t s = 0; s < batch.num_strips; ++s) {
    sums.all += batch.units_of[s].all[tensor];
    sums.within += batch.units_of[s].within[tensor];
  }
  sums.all -= sums.valid;
  sums.within -= sums.valid;
  return sums;
}

GateSums gate_sums(const Batch& batch) {
  GateCounts counts{batch.rows, batch.width, 0, 0, 0, 0};
  int64_t class_rows = 0;
  for (int64_t s = 0; s < batch.num_strips; ++s) {
    counts.open += batch.units_of[s].open;
    counts.disagree_all += batch.units_of[s].disagree_all;
    counts.disagree_within += batch.units_of[s].disagree_within;
  }
  for (int64_t s = 0; s < batch.num_segments; ++s) {
    class_rows += batch.segments[s].rows;
    if (!class_ends(batch, s)) continue;
    counts.within_pairs += class_rows * (class_rows - 1) / 2;
    class_rows = 0;
  }
  return tfc::gate_sums(counts);
}

int64_t nonfinite_rows(const Batch& batch) {
  int64_t rows = 0;
  for (int64_t s = 0; s < batch.num_segments; ++s) rows += batch.rows_of[s].nonfinite;
  return rows;
}

void finalize(const BatchSums& site, const StepHeader& header, const int32_t* last_open,
              const int32_t* last_shut, double* out) {
  WindowCounts units;
  if (last_open != nullptr) {
    const int64_t width = static_cast<int64_t>(site.width);
    for (int64_t j = 0; j < width; ++j) count_unit(header, last_open[j], last_shut[j], units);
  }
  write_record(site, units, last_open != nullptr, out);
}

}  // namespace tfc::cpu
