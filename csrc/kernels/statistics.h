// What is kept of a batch and what is reported of a step: formulas shared by all devices.
//
// With u_i = x_i / |x_i| over the M valid rows, S_c the sum of u_i over class c and S = sum_c S_c,
//   sum over ordered pairs of cos   all: |S|^2 - M    within: sum_c |S_c|^2 - M
// and both, with their pair counts, add up over the micro-batches of a step.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

// nvcc compiles the same formulas for the device.
#ifdef __CUDACC__
#define TFC_HOST_DEVICE __host__ __device__
#else
#define TFC_HOST_DEVICE
#endif

namespace tfc {

struct CosineSums {
  double all = 0, all_pairs = 0;        // ordered pairs
  double within = 0, within_pairs = 0;  // ordered pairs of one class
  double norm = 0;                      // sum of row norms
  double valid = 0, zero = 0;           // rows
};

struct GateSums {
  double open = 0, gates = 0;           // open gates, of how many
  double agree_all = 0, all_pairs = 0;  // units in the same state, of how many, over pairs of rows
  double agree_within = 0, within_pairs = 0;
};

// One or more micro-batches of one site.
struct BatchSums {
  double batches = 0;
  double rows = 0;
  double width = 0;
  double nonfinite = 0;
  double labelled = 0;      // 0: no labels, so within and between are not measured
  double last_batch = 0;    // number of the micro-batch seen last
  double units_begin = -1;  // where the site's units start in the window buffer; -1: not placed
  double nanoseconds = 0;   // time in the kernel; in a step that is not recorded, in ReLU's own
  CosineSums feature;
  CosineSums gradient;
  GateSums gates;
};

// Sites lie in a float64 tensor, one row each, so the struct is doubles only.
constexpr int64_t kSiteDoubles = sizeof(BatchSums) / sizeof(double);

// What is wrong with a batch. The host throws at once; a device, which cannot, leaves the batch out and keeps
// the first fault until the host reads it.
enum class BatchFault : int {
  kNone,
  kLabelsMissing,  // first: rows of the feature
  kLabelCount,     // first: labels given, second: samples of the feature
  kWrongLabel,     // first: row, second: its label
  kWidthChanged,   // first: units before, second: units now
  kUnitsBeyond     // first: where the site's units end, second: how many the window buffer holds
};
struct FaultRecord {
  double kind = 0;  // a BatchFault
  double step = 0, site = 0;
  double first = 0, second = 0;
};

// StepHeader::batch_rows where there is no number of labels.
constexpr double kNoLabels = -1;     // none yet for the current micro-batch
constexpr double kWrongLabels = -2;  // one was out of range, which is a fault already: leave the batch out

// Row 0 of that tensor.
struct StepHeader {
  double enabled;          // 0: kernels leave sites alone in this step, but for their time
  double step;             // number of the step being recorded
  double batch;            // micro-batches begun so far
  double batch_rows;       // labels given for the current micro-batch, or kNoLabels, kWrongLabels
  double window;           // steps of dead_window_frac
  double units_used;       // units placed in the window buffer
  FaultRecord fault = {};  // the first that a device has found
};
static_assert(sizeof(StepHeader) <= sizeof(BatchSums));

// The columns that finalize writes, in the order of the records.
enum Column : int {
  kFeatureCosAll,
  kFeatureCosWithin,
  kFeatureCosBetween,
  kGradCosAll,
  kGradCosWithin,
  kGradCosBetween,
  kFeatureNormMean,
  kGradNormMean,
  kActiveRate,
  kGateAgreementAll,
  kGateAgreementWithin,
  kGateAgreementBetween,
  kDeadFrac,
  kAlwaysOnFrac,
  kDeadWindowFrac,
  kNumRows,
  kNumZeroFeatures,
  kNumZeroGrads,
  kNumNonfinite,
  kColumns
};

constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

TFC_HOST_DEVICE inline double ratio(double sum, double count) {
  return count > 0 ? sum / count : kNotMeasured;
}

// Clamped after the division, never before: rounding may leave 1 + 1e-16.
TFC_HOST_DEVICE inline double cosine_ratio(double sum, double pairs) {
  const double mean = ratio(sum, pairs);
  return mean > 1 ? 1 : mean < -1 ? -1 : mean;
}

struct CosineMeans {
  double all, within, between;
};

TFC_HOST_DEVICE inline CosineMeans cosine_means(const CosineSums& s, bool labelled) {
  return {cosine_ratio(s.all, s.all_pairs), labelled ? cosine_ratio(s.within, s.within_pairs) : kNotMeasured,
          labelled ? cosine_ratio(s.all - s.within, s.all_pairs - s.within_pairs) : kNotMeasured};
}

TFC_HOST_DEVICE inline CosineMeans agreement_means(const GateSums& g, bool labelled) {
  return {ratio(g.agree_all, g.all_pairs), labelled ? ratio(g.agree_within, g.within_pairs) : kNotMeasured,
          labelled ? ratio(g.agree_all - g.agree_within, g.all_pairs - g.within_pairs) : kNotMeasured};
}

// Whole numbers counted over the gates of one batch of rows.
struct GateCounts {
  int64_t rows, width;
  int64_t open;
  // Sum over units of k (k - n), with k of n rows open: agreeing pairs are that plus n (n - 1) / 2.
  int64_t disagree_all, disagree_within;
  int64_t within_pairs;  // pairs of rows of one class
};

TFC_HOST_DEVICE inline GateSums gate_sums(const GateCounts& counts) {
  const int64_t width = counts.width;
  const int64_t all_pairs = counts.rows * (counts.rows - 1) / 2;
  GateSums sums;
  sums.open = static_cast<double>(counts.open);
  sums.gates = static_cast<double>(counts.rows * width);
  sums.agree_all = static_cast<double>(all_pairs * width + counts.disagree_all);
  sums.all_pairs = static_cast<double>(all_pairs * width);
  sums.agree_within = static_cast<double>(counts.within_pairs * width + counts.disagree_within);
  sums.within_pairs = static_cast<double>(counts.within_pairs * width);
  return sums;
}

TFC_HOST_DEVICE inline void accumulate(const CosineSums& batch, CosineSums& site) {
  site.all += batch.all;
  site.all_pairs += batch.all_pairs;
  site.within += batch.within;
  site.within_pairs += batch.within_pairs;
  site.norm += batch.norm;
  site.valid += batch.valid;
  site.zero += batch.zero;
}

TFC_HOST_DEVICE inline void accumulate(const GateSums& batch, GateSums& site) {
  site.open += batch.open;
  site.gates += batch.gates;
  site.agree_all += batch.agree_all;
  site.all_pairs += batch.all_pairs;
  site.agree_within += batch.agree_within;
  site.within_pairs += batch.within_pairs;
}

// Adds one micro-batch to what a site holds of the step.
TFC_HOST_DEVICE inline void accumulate(const BatchSums& batch, BatchSums& site) {
  site.batches += batch.batches;
  site.rows += batch.rows;
  site.nonfinite += batch.nonfinite;
  site.nanoseconds += batch.nanoseconds;
  site.width = batch.width;
  site.labelled = batch.labelled;
  site.last_batch = batch.last_batch;
  accumulate(batch.feature, site.feature);
  accumulate(batch.gradient, site.gradient);
  accumulate(batch.gates, site.gates);
}

// What a site has recorded of a step over all processes.
//   local: what this process has, own: its cosines and gates, made of the sums of all processes
//   summed: `local` of all processes added up, number by number
// The gradient is that of the mean of the losses of all processes, of which each has its own.
TFC_HOST_DEVICE inline BatchSums over_processes(const BatchSums& local, const BatchSums& own,
                                                const BatchSums& summed, double processes) {
  BatchSums site = own;
  // Where its units have no place the site has no sums, in all processes alike.
  site.batches = local.units_begin < 0 ? 0 : summed.batches;
  site.rows = summed.rows;
  site.nonfinite = summed.nonfinite;
  site.labelled = summed.labelled;
  site.width = local.width;
  site.last_batch = local.last_batch;
  site.units_begin = local.units_begin;
  site.nanoseconds = local.nanoseconds;
  site.feature.norm = summed.feature.norm;
  site.feature.zero = summed.feature.zero;
  site.gradient.norm = summed.gradient.norm / processes;
  site.gradient.zero = summed.gradient.zero;
  return site;
}

// Of the units of a site: those open in no row of this step, in every row of it, in no row of the window.
struct WindowCounts {
  int64_t dead = 0, always_on = 0, dead_in_window = 0;
};

// Adds one unit, by the step at which it was last open and the one at which it was last shut.
TFC_HOST_DEVICE inline void count_unit(const StepHeader& header, int32_t last_open, int32_t last_shut,
                                       WindowCounts& counts) {
  const int32_t step = static_cast<int32_t>(header.step);
  counts.dead += last_open != step;
  counts.always_on += last_shut != step;
  counts.dead_in_window += last_open <= step - static_cast<int32_t>(header.window);
}

// One record. `units` is left out for a site that has no place in the window buffer; out: [kColumns].
TFC_HOST_DEVICE inline void write_record(const BatchSums& site, const WindowCounts& units, bool has_units,
                                         double* out) {
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
  // With no row every unit would count as dead and as always on: nothing was measured.
  const double width = has_units && site.rows > 0 ? site.width : 0;
  out[kDeadFrac] = ratio(static_cast<double>(units.dead), width);
  out[kAlwaysOnFrac] = ratio(static_cast<double>(units.always_on), width);
  out[kDeadWindowFrac] = ratio(static_cast<double>(units.dead_in_window), width);
}

}  // namespace tfc
