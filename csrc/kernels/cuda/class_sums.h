// Sums of the unit rows of each class, and what follows from them, on the device.
//
// With S_c the sum of the unit rows of class c and n_c their number, mean cosines over pairs of rows are made
// of S.S, of the S_c.S_c and of the n_c (statistics.h). Nothing here waits for the device or allocates.
#pragma once

#include "launchers.h"

namespace tfc::cuda {

// Where the sums of a batch are added to. Without labels there is one class.
struct ClassSums {
  double* sums;     // in/out: [classes, width]
  double* lost;     // in/out: [classes, width] what the additions round away; may be null
  int64_t* counts;  // in/out: [classes, 3] rows that take part, zero rows, non-finite rows
};

// How a batch is cut up, from its shape alone. A chunk is a run of rows in class order; the columns of a
// chunk are shared among tiles.
struct ClassSumsPlan {
  Scalar scalar;
  int64_t rows, width;
  int threads;
  int64_t tiles, chunks, chunk_rows;
  int64_t pitch;             // columns of a partial row in memory
  int64_t scales, partials;  // offsets in the workspace
  int64_t workspace_bytes;
};

ClassSumsPlan plan_class_sums(Scalar scalar, int64_t rows, int64_t width, const Device& device);

// rows: [n, width], `stride` elements apart; `workspace`: plan.workspace_bytes, 16-byte aligned, its content
// does not matter.
cudaError_t add_class_sums(const void* rows, int64_t stride, const Groups& groups, const ClassSumsPlan& plan,
                           void* workspace, const ClassSums& to, cudaStream_t stream);

// What is known of the rows of each class of a batch, or of many.
struct ClassSide {
  const double* sums;     // [classes, width]
  const double* lost;     // [classes, width]; may be null
  const int64_t* counts;  // [classes, 3]
  int64_t classes;
};

// Doubles of workspace for the two functions below.
int64_t class_products_doubles(int64_t width);

// -> out [6]: cosine all, within, between; valid rows, zero rows, non-finite rows.
cudaError_t write_mean_cosine_of_sums(const ClassSide& side, int64_t width, bool labelled, double* workspace,
                                      double* out, cudaStream_t stream);
// -> out [9]: cosine all, within, between of a row of x with one of y; of x: valid rows, zero rows,
// non-finite rows; of y the same.
cudaError_t write_cross_cosine(const ClassSide& x, const ClassSide& y, int64_t width, bool labelled,
                               double* workspace, double* out, cudaStream_t stream);

// The gradient of the means with respect to the unit rows: w_c of each class c, which replaces S_c.
//   sums: in: S_c, out: w_c, [classes, width]; counts: [classes, 3]
//   grad: [3] with respect to the cosine all, within, between; factors: [2] workspace
cudaError_t sums_to_weights(double* sums, const int64_t* counts, int64_t classes, int64_t width,
                            bool labelled, const double* grad, double* factors, cudaStream_t stream);

}  // namespace tfc::cuda
