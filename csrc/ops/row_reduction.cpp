#include "row_reduction.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros.h>

#include <numeric>
#include <utility>
#include <vector>

namespace tfc::ops {
namespace {

// The reduction that `x` really undergoes: [n] and [n, d] are rows already.
RowReduction effective(const at::Tensor& x, RowReduction reduction) {
  return x.dim() <= 2 ? RowReduction::kFlatten : reduction;
}

// Half precision is summed up, and its mean kept, in float32: the mean of small gradients may be smaller than
// what the dtype can hold.
at::Tensor mean_over_positions(const at::Tensor& x) {
  std::vector<int64_t> positions(static_cast<size_t>(x.dim() - 2));
  std::iota(positions.begin(), positions.end(), 2);
  const bool half = x.scalar_type() == at::kHalf || x.scalar_type() == at::kBFloat16;
  return x.mean(positions, /*keepdim=*/false, half ? at::kFloat : x.scalar_type());
}

}  // namespace

RowReduction row_reduction(int64_t number, const char* op) {
  TORCH_CHECK_VALUE(number >= 0 && number < static_cast<int64_t>(kRowReductionNames.size()), op,
                    ": reduction must be 0 ... ", kRowReductionNames.size() - 1, ", got ", number);
  return static_cast<RowReduction>(number);
}

at::Tensor rows_of(const at::Tensor& x, RowReduction reduction) {
  switch (effective(x, reduction)) {
    case RowReduction::kPool:
      return as_rows(mean_over_positions(x));
    case RowReduction::kTokens:
      return as_rows(x.reshape({x.size(0) * rows_per_sample(x, reduction), x.size(-1)}));
    default:
      return as_rows(x);
  }
}

int64_t width_of_rows(const at::Tensor& x, RowReduction reduction) {
  switch (effective(x, reduction)) {
    case RowReduction::kPool:
      return x.size(1);
    case RowReduction::kTokens:
      return x.size(-1);
    default:
      return x.dim() == 0 ? 0 : c10::multiply_integers(x.sizes().slice(1));
  }
}

int64_t rows_per_sample(const at::Tensor& x, RowReduction reduction) {
  if (effective(x, reduction) != RowReduction::kTokens) return 1;
  return c10::multiply_integers(x.sizes().slice(1, static_cast<size_t>(x.dim() - 2)));
}

bool rows_are_elements(const at::Tensor& x, RowReduction reduction) {
  return effective(x, reduction) != RowReduction::kPool;
}

Grouping grouping_of_rows(Grouping samples, const at::Tensor& x, RowReduction reduction) {
  if (!samples.labelled()) return samples;
  const int64_t each = rows_per_sample(x, reduction);
  if (each == 1) return samples;
  // Sample s has the rows each * s ... each * s + each - 1.
  const at::Tensor order = samples.order.narrow(0, 0, x.size(0)).unsqueeze(1);
  const at::Tensor within_sample = at::arange(each, order.options());
  return {within_sample.add(order, each).flatten(), samples.class_ptr * each};
}

bool is_masked(const at::Tensor& x, RowReduction reduction, const std::optional<at::Tensor>& mask) {
  return mask.has_value() && mask->dim() > 1 && effective(x, reduction) == RowReduction::kTokens;
}

at::Tensor kept_rows(const at::Tensor& x, const at::Tensor& mask) {
  const at::IntArrayRef positions = x.sizes().slice(0, static_cast<size_t>(x.dim() - 1));
  const bool flat =
      mask.dim() == 2 && mask.size(0) == x.size(0) && mask.numel() == c10::multiply_integers(positions);
  TORCH_CHECK_VALUE(flat || mask.sizes() == positions, "mask: of shape ", mask.sizes(),
                    ", but a watched feature has positions ", positions, " (shape ", x.sizes(),
                    "); give one entry for each position of each sample");
  return mask.flatten().nonzero().squeeze(1);
}

Grouping grouping_of_kept(const Grouping& rows, const at::Tensor& mask) {
  if (!rows.labelled()) return rows;
  const at::Tensor kept = mask.flatten();
  const at::Tensor order = rows.order.narrow(0, 0, kept.numel());
  const at::Tensor kept_in_order = kept.index_select(0, order);
  const at::Tensor kept_before = at::zeros({kept.numel() + 1}, order.options());
  kept_before.narrow(0, 1, kept.numel()).copy_(kept_in_order.cumsum(0));
  const at::Tensor number = kept.cumsum(0) - 1;
  return {number.index_select(0, order).masked_select(kept_in_order),
          kept_before.index_select(0, rows.class_ptr)};
}

}  // namespace tfc::ops
