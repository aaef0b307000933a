// The kernels of gates as bits and of gates over a run, as the border to torch calls them. As in launchers.h,
// nothing waits for the device or allocates.
#pragma once

#ifdef TFC_CUDA_EMULATION
#include "cuda_emulation.h"
#else
#include <cuda_runtime_api.h>
#endif

#include <cstdint>

#include "../jobs.h"
#include "plan.h"

namespace tfc::cuda {

// The gates of rows [n, width], `stride` elements apart -> out [n, words], words = ceil(width / 64): bit j %
// 64 of word j / 64 is set where unit j is open, bits beyond the last unit are 0.
cudaError_t pack_gates(const void* rows, Scalar scalar, int64_t stride, int64_t n, int64_t width,
                       int64_t* out, cudaStream_t stream);

// Two sides of packed gates, to be compared row by row; bits beyond `units` are ignored.
struct PackedPairs {
  const int64_t* left;   // [left_rows, ceil(units / 64)], rows `left_stride` words apart
  const int64_t* right;  // the same as left: only pairs of a row with itself and later ones
  int64_t left_stride, right_stride;
  int64_t left_rows, right_rows;
  int64_t units;  // at most 2^28
  bool same() const { return left == right && left_stride == right_stride && left_rows == right_rows; }
};

// -> out [left_rows, right_rows] of any strides, in elements. Hamming: units in the same state / units;
// Jaccard: units open in both / units open in either. Both exact, rounded once; 0 / 0 is NaN.
cudaError_t agreement_matrix(const PackedPairs& pairs, bool jaccard, float* out, int64_t row_stride,
                             int64_t column_stride, cudaStream_t stream);

// Rows of packed gates, sorted by class.
struct PackedGroups {
  const int64_t* rows;  // [n, ceil(units / 64)], `stride` words apart
  int64_t stride, n, units;
  const int64_t* order;     // [n] row at each position
  const int32_t* label_at;  // [n] class of the row at each position; both null: no labels
};

// Adds to counts [2, units + 1] the pairs of different rows that agree in so many units: of the same class
// (without labels: all), of different classes.
cudaError_t agreement_histogram(const PackedGroups& groups, const Device& device, int64_t* counts,
                                cudaStream_t stream);

// What is known of each unit over the updates of a run; each [width].
struct UnitRecord {
  int64_t* open_rows;    // rows in which it was open
  int64_t* last_active;  // the last update in which it was open in a row; 0: none
  int64_t* revived;      // how often it was so after `window` updates or more in which it was not
};

// Adds rows [n, width], `stride` elements apart, as update number `update`, from 1 on.
cudaError_t update_units(const void* rows, Scalar scalar, int64_t stride, int64_t n, int64_t width,
                         const UnitRecord& units, int64_t update, int64_t window, const Device& device,
                         cudaStream_t stream);

}  // namespace tfc::cuda
