// What is kept of a batch and what is reported of a step: formulas shared by all devices.
//
// With u_i = x_i / |x_i| over the M valid rows, S_c the sum of u_i over class c and S = sum_c S_c,
//   sum over ordered pairs of cos   all: |S|^2 - M    within: sum_c |S_c|^2 - M
// and both, with their pair counts, add up over the micro-batches of a step.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

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
  double nanoseconds = 0;   // time in the kernel
  CosineSums feature;
  CosineSums gradient;
  GateSums gates;
};

// Sites lie in a float64 tensor, one row each, so the struct is doubles only.
constexpr int64_t kSiteDoubles = sizeof(BatchSums) / sizeof(double);

// Row 0 of that tensor.
struct StepHeader {
  double enabled;     // 0: kernels leave sites alone in this step
  double step;        // number of the step being recorded
  double batch;       // micro-batches begun so far
  double batch_rows;  // labels given for the current micro-batch; -1: none yet
  double window;      // steps of dead_window_frac
  double units_used;  // units placed in the window buffer
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

inline double ratio(double sum, double count) { return count > 0 ? sum / count : kNotMeasured; }

// Clamped after the division, never before: rounding may leave 1 + 1e-16.
inline double cosine_ratio(double sum, double pairs) {
  const double mean = ratio(sum, pairs);
  return mean > 1 ? 1 : mean < -1 ? -1 : mean;
}

struct CosineMeans {
  double all, within, between;
};

inline CosineMeans cosine_means(const CosineSums& s, bool labelled) {
  return {cosine_ratio(s.all, s.all_pairs), labelled ? cosine_ratio(s.within, s.within_pairs) : kNotMeasured,
          labelled ? cosine_ratio(s.all - s.within, s.all_pairs - s.within_pairs) : kNotMeasured};
}

inline CosineMeans agreement_means(const GateSums& g, bool labelled) {
  return {ratio(g.agree_all, g.all_pairs), labelled ? ratio(g.agree_within, g.within_pairs) : kNotMeasured,
          labelled ? ratio(g.agree_all - g.agree_within, g.all_pairs - g.within_pairs) : kNotMeasured};
}

}  // namespace tfc
