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
  GateSums sums;
  const int64_t width = batch.width;
  int64_t open = 0, disagree_all = 0, disagree_within = 0, within_pairs = 0, class_rows = 0;
  for (int64_t s = 0; s < batch.num_strips; ++s) {
    open += batch.units_of[s].open;
    disagree_all += batch.units_of[s].disagree_all;
    disagree_within += batch.units_of[s].disagree_within;
  }
  for (int64_t s = 0; s < batch.num_segments; ++s) {
    class_rows += batch.segments[s].rows;
    if (!class_ends(batch, s)) continue;
    within_pairs += class_rows * (class_rows - 1) / 2;
    class_rows = 0;
  }
  const int64_t all_pairs = batch.rows * (batch.rows - 1) / 2;
  sums.open = static_cast<double>(open);
  sums.gates = static_cast<double>(batch.rows * width);
  sums.agree_all = static_cast<double>(all_pairs * width + disagree_all);
  sums.all_pairs = static_cast<double>(all_pairs * width);
  sums.agree_within = static_cast<double>(within_pairs * width + disagree_within);
  sums.within_pairs = static_cast<double>(within_pairs * width);
  return sums;
}

int64_t nonfinite_rows(const Batch& batch) {
  int64_t rows = 0;
  for (int64_t s = 0; s < batch.num_segments; ++s) rows += batch.rows_of[s].nonfinite;
  return rows;
}

namespace {

void add(const CosineSums& from, CosineSums& to) {
  to.all += from.all;
  to.all_pairs += from.all_pairs;
  to.within += from.within;
  to.within_pairs += from.within_pairs;
  to.norm += from.norm;
  to.valid += from.valid;
  to.zero += from.zero;
}

}  // namespace

void accumulate(const BatchSums& batch, BatchSums& site) {
  site.batches += batch.batches;
  site.rows += batch.rows;
  site.nonfinite += batch.nonfinite;
  site.nanoseconds += batch.nanoseconds;
  site.width = batch.width;
  site.labelled = batch.labelled;
  site.last_batch = batch.last_batch;
  add(batch.feature, site.feature);
  add(batch.gradient, site.gradient);
  site.gates.open += batch.gates.open;
  site.gates.gates += batch.gates.gates;
  site.gates.agree_all += batch.gates.agree_all;
  site.gates.all_pairs += batch.gates.all_pairs;
  site.gates.agree_within += batch.gates.agree_within;
  site.gates.within_pairs += batch.gates.within_pairs;
}

void finalize(const BatchSums& site, const StepHeader& header, const int32_t* last_open,
              const int32_t* last_shut, double* out) {
  const bool labelled = site.labelled > 0;
  const CosineMeans feature = cosine_means(site.feature, labelled);
  const CosineMeans gradient = cosine_means(site.gradient, labelled);
  const CosineMeans agreement = agreement_means(site.gates, labelled);
  out[kFeatureCosAll] = feature.all;
  out[kFeatureCosWithin] = feature.within;
  out[kFeatureCosBetween] = feature.between;
  out[kGradCosAll] = gradient.all;
  out[kGradCosWithin] = gradient.within;
  out[kGradCosBetween] = gradient.between;
  out[kFeatureNormMean] = ratio(site.feature.norm, site.feature.valid);
  out[kGradNormMean] = ratio(site.gradient.norm, site.gradient.valid);
  out[kActiveRate] = ratio(site.gates.open, site.gates.gates);
  out[kGateAgreementAll] = agreement.all;
  out[kGateAgreementWithin] = agreement.within;
  out[kGateAgreementBetween] = agreement.between;
  out[kNumRows] = site.rows;
  out[kNumZeroFeatures] = site.feature.zero;
  out[kNumZeroGrads] = site.gradient.zero;
  out[kNumNonfinite] = site.nonfinite;

  out[kDeadFrac] = out[kAlwaysOnFrac] = out[kDeadWindowFrac] = kNotMeasured;
  const int64_t width = static_cast<int64_t>(site.width);
  if (last_open == nullptr || width == 0 || site.rows == 0) return;
  const int32_t step = static_cast<int32_t>(header.step);
  const int32_t window_begin = step - static_cast<int32_t>(header.window);
  int64_t dead = 0, always_on = 0, dead_in_window = 0;
  for (int64_t j = 0; j < width; ++j) {
    dead += last_open[j] != step;
    always_on += last_shut[j] != step;
    dead_in_window += last_open[j] <= window_begin;
  }
  const double units = static_cast<double>(width);
  out[kDeadFrac] = static_cast<double>(dead) / units;
  out[kAlwaysOnFrac] = static_cast<double>(always_on) / units;
  out[kDeadWindowFrac] = static_cast<double>(dead_in_window) / units;
}

}  // namespace tfc::cpu
