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

namespace {

constexpr int64_t kTile = 64;

// |sum over all rows|^2 and sum over classes of |sum over the class|^2 over a tile of units.
void add_squares(const double* sums, int64_t classes, int64_t pitch, int64_t count, CosineSums& to) {
  double total[kTile] = {}, within[kTile] = {};
  for (int64_t c = 0; c < classes; ++c, sums += pitch) {
    for (int64_t j = 0; j < count; ++j) {
      total[j] += sums[j];
      within[j] += sums[j] * sums[j];
    }
  }
  for (int64_t j = 0; j < count; ++j) {
    to.all += total[j] * total[j];
    to.within += within[j];
  }
}

CosineSums cosines_over_classes(const ClassTotals& totals, const double* plane) {
  CosineSums sums;
  const double* rows = plane + totals.rows_at;
  for (int64_t c = 0; c < totals.classes; ++c) {
    const double of_class = rows[c * totals.pitch];
    sums.valid += of_class;
    sums.within_pairs += of_class * (of_class - 1);
  }
  sums.all_pairs = sums.valid * (sums.valid - 1);
  const double* units = plane + totals.units_at;
  for (int64_t begin = 0; begin < totals.width; begin += kTile) {
    add_squares(units + begin, totals.classes, totals.pitch, std::min(kTile, totals.width - begin), sums);
  }
  sums.all -= sums.valid;
  sums.within -= sums.valid;
  return sums;
}

GateSums gates_over_classes(const ClassTotals& totals, const double* plane, int32_t step, int32_t* last_open,
                            int32_t* last_shut) {
  GateCounts counts{0, totals.width, 0, 0, 0, 0};
  const double* rows_of = plane + totals.rows_at;
  for (int64_t c = 0; c < totals.classes; ++c) {
    const auto rows = static_cast<int64_t>(rows_of[c * totals.pitch]);
    counts.rows += rows;
    counts.within_pairs += rows * (rows - 1) / 2;
  }
  const double* units = plane + totals.units_at;
  for (int64_t begin = 0; begin < totals.width; begin += kTile) {
    const int64_t count = std::min(kTile, totals.width - begin);
    int64_t open[kTile] = {};
    for (int64_t c = 0; c < totals.classes; ++c) {
      const auto rows = static_cast<int64_t>(rows_of[c * totals.pitch]);
      const double* of_class = units + c * totals.pitch + begin;
      for (int64_t j = 0; j < count; ++j) {
        const auto in_class = static_cast<int64_t>(of_class[j]);
        open[j] += in_class;
        counts.disagree_within += in_class * (in_class - rows);
      }
    }
    for (int64_t j = 0; j < count; ++j) {
      counts.open += open[j];
      counts.disagree_all += open[j] * (open[j] - counts.rows);
      if (open[j] > 0) last_open[begin + j] = step;
      if (open[j] < counts.rows) last_shut[begin + j] = step;
    }
  }
  return tfc::gate_sums(counts);
}

}  // namespace

BatchSums sums_over_classes(const ClassTotals& totals, int32_t step, int32_t* last_open, int32_t* last_shut) {
  BatchSums sums;
  sums.width = static_cast<double>(totals.width);
  const int64_t plane = totals.classes * totals.pitch;
  for (int64_t m = 0; m < totals.batches; ++m) {
    const double* of_batch = totals.sums + 3 * m * plane;
    BatchSums batch;
    batch.feature = cosines_over_classes(totals, of_batch);
    batch.gradient = cosines_over_classes(totals, of_batch + plane);
    batch.gates = gates_over_classes(totals, of_batch + 2 * plane, step, last_open, last_shut);
    accumulate(batch.feature, sums.feature);
    accumulate(batch.gradient, sums.gradient);
    accumulate(batch.gates, sums.gates);
  }
  return sums;
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
