// The two passes over a batch of rows, as plain data: what goes in, what comes out.
//
// Rows are visited class by class (`order`), cut into segments of at most kSegmentRows rows of one
// class. The cut depends on the labels alone, never on threads, and every sum has a fixed order, so
// the result is the same for any number of threads.
//
//   row pass     per segment: row norms, sums of unit rows, open gates per unit; each row is read
//                from memory once and read again from cache.
//   column pass  per strip of units: segments -> classes -> all rows, in double and int64.
//
// Memory traffic: the row pass reads feature (and gradient) once and writes grad_in once; what the
// two passes hand over is 4 bytes per unit and statistic for every segment of up to 32 rows.
#pragma once

#include <cstdint>

#include "../jobs.h"
#include "cosine_tile.h"
#include "gates.h"
#include "row_pairs.h"
#include "unit_row_gradient.h"
#include "unit_rows.h"

namespace tfc::cpu {

using tfc::Job;
using tfc::Scalar;

constexpr int64_t kSegmentRows = 32;  // float32 sums never run longer than this: NUMERICS
constexpr int64_t kStripUnits = 128;  // units per task of the column pass

struct Segment {
  int64_t begin;  // first position in `order`
  int32_t rows;   // 1 ... kSegmentRows
  int32_t label;
};

// Index 0: feature, 1: gradient.
struct SegmentTotals {
  int32_t valid[2];   // rows that are finite and not all zero
  int32_t zero[2];    // rows that are all zero
  int32_t nonfinite;  // rows with a NaN or Inf in feature or gradient
  double norm[2];     // sum of the norms of valid rows
};

struct RowPass {
  const void* feature;   // [n, width], rows `feature_stride` elements apart
  const void* gradient;  // [n, width]
  void* grad_in;         // [n, width]
  int64_t feature_stride, gradient_stride, grad_in_stride;
  int64_t rows, width;
  const int64_t* order;     // [n] row at each position; null: rows as they lie
  const Segment* segments;  // [segments]
  void* sums[2];            // out: [segments, width] sums of unit rows; double for double input, else float
  int32_t* gates;           // out: [segments, width] rows in which the unit is open
  SegmentTotals* totals;    // out: [segments]
};
// Segments first ... last - 1.
using RowPassFunction = void (*)(const RowPass&, int64_t first, int64_t last);

struct ColumnTotals {
  double all[2];     // sum over units of (sum over all rows)^2
  double within[2];  // sum over units and classes of (sum over the class)^2
  int64_t open;      // open gates
  // Sum over units of k (k - n), with k of n rows open: agreeing pairs are that plus n (n - 1) / 2.
  int64_t disagree_all, disagree_within;
  int64_t dead, always_on;  // units open in no row / in every row
};

struct ColumnPass {
  int64_t width;
  int64_t rows;
  int64_t num_segments;
  const Segment* segments;
  const void* sums[2];   // null: that tensor has no cosines
  const int32_t* gates;  // null: no gates
  bool sums_are_double;
  ColumnTotals* totals;  // out: [strips]
  // What the rows of each class add up to is added to row `label` of these, which are class_pitch doubles
  // apart; null: not wanted.
  double* class_sums[2];  // in/out: [classes, width] unit rows
  double* class_lost;     // in/out: [classes, width] what an addition to class_sums[0] rounds away
  double* class_open;     // in/out: [classes, width] open gates
  int64_t class_pitch;
  int32_t* last_open;  // in/out: [width] step at which the unit was last open in a row; may be null
  int32_t* last_shut;  // in/out: [width] step at which the unit was last shut in a row
  int32_t step;
  int32_t* open_rows;  // out: [width] rows in which the unit is open; may be null
};
// Strips first ... last - 1 of kStripUnits units.
using ColumnPassFunction = void (*)(const ColumnPass&, int64_t first, int64_t last);

// The loops of one instruction set.
struct Kernels {
  const char* name;
  RowPassFunction row_pass[kJobs][kScalars];
  ColumnPassFunction column_pass;
  UnitScalesFunction unit_scales[kScalars];
  PackFunction<float> unit_rows_float[kScalars];
  PackFunction<double> unit_rows_double[kScalars];
  PackFunction<float> unit_columns_float[kScalars];
  PackFunction<double> unit_columns_double[kScalars];
  PackPairsFunction pair_rows, pair_columns;
  ScaleAndSumFunction scale_and_sum[kScalars];
  CentredRowsFunction<float> centred_squares[kScalars];  // with no `out`
  CentredRowsFunction<float> centred_rows_float[kScalars];
  CentredRowsFunction<double> centred_rows_double[kScalars];
  PlaceCosinesFunction<float> place_cosines_float;
  PlaceCosinesFunction<double> place_cosines_double;
  ScaleCosinesFunction scale_cosines;
  CountCosinesFunction<float> count_cosines_float;
  CountCosinesFunction<double> count_cosines_double;
  SumSquaresFunction<float> sum_squares_float;
  SumSquaresFunction<double> sum_squares_double;
  PairCosinesFunction pair_cosines[kScalars];
  UnitRowGradientFunction unit_row_gradient_float[kScalars];
  UnitRowGradientFunction unit_row_gradient_double[kScalars];
  GateKernels gates;
};

}  // namespace tfc::cpu
