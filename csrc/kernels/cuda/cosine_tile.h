// What becomes of a tile of the matrix of cosines that a library has multiplied: written out, counted, or
// summed.
//
// The product of a tile comes in pieces, each over a run of the entries of the rows, which are summed up here
// without loss: so no sum of the library is longer than such a run.
#pragma once

#include "launchers.h"

namespace tfc::cuda {

constexpr int64_t kTileStep = 64;  // rows and columns that a block takes at a time

struct CosineTile {
  bool is_double;
  const void* pieces;  // [count, rows, stride] float or double, 16-byte aligned
  int64_t count;
  int64_t rows, columns, stride;  // stride: a multiple of 8, at least `columns`
  int64_t row, column;            // positions of the first of them; multiples of kTileStep
  bool triangle;                  // rows and columns are the same: of pairs, those with column > row only
  const double* row_factors;      // see UnitRows::factors; by position
  const double* column_factors;
};

// out[i * row_stride + j * column_stride] = cosine of positions i and j, in [-1, 1]; of a row that is not
// finite NaN. With `triangle` the mirror image too, and on the diagonal 1, or 0 or NaN.
cudaError_t place_cosines(const CosineTile& tile, void* out, int64_t row_stride, int64_t column_stride,
                          cudaStream_t stream);

// Adds the pairs of a triangle's tile to counts [2, bins]: those of one class (without labels all), those of
// different classes. Cell floor((c + 1) bins / 2), the last one closed above. Rows that are zero or not
// finite are left out. label_at: [positions] class; null: no labels.
cudaError_t count_cosines(const CosineTile& tile, const int32_t* label_at, int64_t bins, int64_t* counts,
                          cudaStream_t stream);

// rows [3]: how many of the factors [n] are those of rows that take part, are zero, are not finite.
cudaError_t count_rows(const double* factors, int64_t n, int64_t* rows, cudaStream_t stream);

}  // namespace tfc::cuda
