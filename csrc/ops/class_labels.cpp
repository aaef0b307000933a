#include "class_labels.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>

#include <algorithm>

namespace tfc::ops {

at::Tensor classes_in_order(const at::Tensor& class_ptr, int64_t rows) {
  // As many classes end at or before a position as come before its own, empty ones among them.
  const at::Tensor ends = class_ptr.slice(0, 1).contiguous();
  return at::searchsorted(ends, at::arange(rows, class_ptr.options()), /*out_int32=*/false, /*right=*/true);
}

std::vector<at::Tensor> compact_class_ptrs(const std::vector<std::pair<at::Tensor, int64_t>>& batches) {
  std::vector<at::Tensor> labels, out;
  int64_t rows = 0, classes = 0;
  for (const auto& [class_ptr, count] : batches) {
    labels.push_back(classes_in_order(class_ptr, count));
    rows += count;
    classes = std::max(classes, class_ptr.numel() - 1);
  }
  const at::TensorOptions options = batches.front().first.options();
  if (rows == 0) {
    out.assign(batches.size(), at::zeros({2}, options));
    return out;
  }
  const at::Tensor sorted = std::get<0>(at::sort(at::cat(labels)));
  const at::Tensor begins = sorted.slice(0, 1) != sorted.slice(0, 0, rows - 1);
  const at::Tensor number = at::cat({at::zeros({1}, options), begins.cumsum(0)});
  // The first row of each new number, and past the last of them the class behind the last.
  const at::Tensor first = at::searchsorted(number, at::arange(rows + 1, options));
  const at::Tensor old = at::cat({sorted, at::full({1}, classes, options)}).index_select(0, first);
  for (const auto& [class_ptr, count] : batches) {
    out.push_back(class_ptr.index_select(0, old.clamp_max(class_ptr.numel() - 1)));
  }
  return out;
}

}  // namespace tfc::ops
