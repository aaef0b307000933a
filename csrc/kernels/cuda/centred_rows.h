// Unit rows less the mean of their class, w_i = u_i - m_c, formed in double: what a spread of cosines is made
// of.
#pragma once

#include "cosine_tile.h"
#include "unit_rows.h"

namespace tfc::cuda {

// Rows that take part, class after class; no class is empty.
struct ClassedRows {
  Scalar scalar;     // of the rows
  const void* rows;  // rows of `width` elements, `stride` elements apart
  int64_t stride, width;
  const int64_t* order;      // [n] row at each position
  const UnitScale* scales;   // by row
  const int32_t* label;      // [n] class of each position
  const int64_t* class_ptr;  // [classes + 1] position at which each class begins
  int64_t n, classes;
};

// means [classes, width]
cudaError_t class_means(const ClassedRows& rows, double* means, cudaStream_t stream);

struct CentredRows {
  int64_t first, last;  // positions
  const double* means;  // [classes, width]
  bool is_double;       // else float; double rows: must be
  // out: [padded_rows, pitch] float or double, 16-byte aligned, zeros where there is no row or column; the
  // first of them is position `first`. pitch: a multiple of 8.
  void* out;
  int64_t padded_rows, pitch;
  double* squares;  // out: [last - first] |w_i|^2; may be null
};
cudaError_t centred_rows(const ClassedRows& rows, const CentredRows& centred, cudaStream_t stream);

// Of a triangle's tile of products w_i.w_j: partials [blocks, 2], the sums over the pairs of one class of
// (w_i.w_j + shifts[class])^2 and over those of different classes of (w_i.w_j)^2. The factors are not used.
int64_t sum_squares_blocks(const CosineTile& tile);
cudaError_t sum_squares(const CosineTile& tile, const int32_t* label, const double* shifts, double* partials,
                        cudaStream_t stream);

}  // namespace tfc::cuda
