// What one row is: the features and gradients of a batch as the rows that are measured, in torch's own
// operations, on any device and without waiting for it.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "measure.h"
#include "probe_ops.h"

namespace tfc::ops {

// The reduction of that number; throws, naming the op, where there is none.
RowReduction row_reduction(int64_t number, const char* op);

// [n, ...] -> [rows, d] with contiguous rows; the same number of rows for each sample, those of one sample
// together. Views where the strides allow it, but for means.
at::Tensor rows_of(const at::Tensor& x, RowReduction reduction);
// Units of those rows, d, without looking at them.
int64_t width_of_rows(const at::Tensor& x, RowReduction reduction);
int64_t rows_per_sample(const at::Tensor& x, RowReduction reduction);

// Whether the rows are the elements of `x`, each once, so that to write the rows is to write `x`.
bool rows_are_elements(const at::Tensor& x, RowReduction reduction);

// Samples by class -> rows_of(x, reduction) by class; no labels stay none. The order has x.size(0) entries or
// more.
Grouping grouping_of_rows(Grouping samples, const at::Tensor& x, RowReduction reduction);

// Whether a mask, bool [n, ...] with one entry for each position, decides which rows of `x` are measured; a
// mask without entries is none, and only positions are masked.
bool is_masked(const at::Tensor& x, RowReduction reduction, const std::optional<at::Tensor>& mask);
// Which rows of rows_of(x, reduction) are measured, int64 [kept]; throws where the mask is not one of `x`.
at::Tensor kept_rows(const at::Tensor& x, const at::Tensor& mask);
// rows_of(x, reduction) by class -> the kept ones alone, renumbered, by class.
Grouping grouping_of_kept(const Grouping& rows, const at::Tensor& mask);

}  // namespace tfc::ops
