// cross_cosine and paired_cosine on CUDA. Neither waits for the device.
#include "../cross_cosine.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "../../kernels/cuda/row_pairs.h"
#include "../class_labels.h"
#include "class_sums.h"

namespace tfc::ops::on_cuda {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// So that memory depends on the rows alone.
void limit_classes(Grouping& x, int64_t x_rows, Grouping& y, int64_t y_rows) {
  if (!x.labelled() || !y.labelled()) return;
  const int64_t classes = std::max(x.class_ptr.numel(), y.class_ptr.numel()) - 1;
  if (classes <= std::max<int64_t>(x_rows + y_rows, 1)) return;
  const std::vector<at::Tensor> fewer = compact_class_ptrs({{x.class_ptr, x_rows}, {y.class_ptr, y_rows}});
  x.class_ptr = fewer[0];
  y.class_ptr = fewer[1];
}

at::Tensor cross_cosine_cuda(const at::Tensor& x, const OptionalTensor& x_order,
                             const OptionalTensor& x_class_ptr, const at::Tensor& y,
                             const OptionalTensor& y_order, const OptionalTensor& y_class_ptr) {
  check_crossed(x, y);
  const DeviceGuard guard(x.device());
  Grouping x_groups = optional_grouping(x_order, x_class_ptr, x, "cross_cosine");
  Grouping y_groups = optional_grouping(y_order, y_class_ptr, y, "cross_cosine");
  limit_classes(x_groups, x.size(0), y_groups, y.size(0));
  const at::Tensor left = as_rows(x);
  const at::Tensor right = as_rows(y);
  const auto [x_sums, x_counts] = class_sums(left, DeviceGroups(x_groups, left.size(0)));
  const auto [y_sums, y_counts] = class_sums(right, DeviceGroups(y_groups, right.size(0)));
  const int64_t width = left.size(1);
  const at::Tensor workspace = at::empty({cuda::class_products_doubles(width)}, x_sums.options());
  at::Tensor out = at::empty({9}, x_sums.options());
  check(cuda::write_cross_cosine(class_side(x_sums, {}, x_counts), class_side(y_sums, {}, y_counts), width,
                                 x_groups.labelled() && y_groups.labelled(),
                                 workspace.mutable_data_ptr<double>(), out.mutable_data_ptr<double>(),
                                 current_stream()),
        "cross_cosine");
  return out;
}

std::tuple<at::Tensor, at::Tensor> paired_cosine_cuda(const at::Tensor& x, const at::Tensor& y) {
  check_paired(x, y);
  const DeviceGuard guard(x.device());
  const at::Tensor left = as_rows(x);
  const at::Tensor right = as_rows(y);
  const int64_t rows = left.size(0);
  const at::Tensor states = at::empty({rows}, x.options().dtype(at::kByte));
  at::Tensor cosines = at::empty({rows}, x.options().dtype(at::kDouble));
  at::Tensor summary = at::empty({4}, cosines.options());
  const cuda::RowPairs pairs{scalar_of(x.scalar_type()),
                             left.const_data_ptr(),
                             right.const_data_ptr(),
                             left.stride(0),
                             right.stride(0),
                             rows,
                             left.size(1)};
  check(cuda::pair_cosines(pairs, states.mutable_data_ptr<uint8_t>(), cosines.mutable_data_ptr<double>(),
                           summary.mutable_data_ptr<double>(), current_stream()),
        "paired_cosine");
  return {cosines, summary};
}

}  // namespace
}  // namespace tfc::ops::on_cuda

TORCH_LIBRARY_IMPL(tfc_fast, TFC_CUDA_KEY, m) {
  m.impl("cross_cosine", tfc::ops::on_cuda::cross_cosine_cuda);
  m.impl("paired_cosine", tfc::ops::on_cuda::paired_cosine_cuda);
}
