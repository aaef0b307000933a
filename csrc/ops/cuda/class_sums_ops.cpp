// unit_row_sums, add_unit_row_sums and mean_cosine_of_sums on CUDA. None waits for the device.
#include "../class_sums.h"

#include <ATen/MemoryOverlap.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include "class_sums.h"

namespace tfc::ops::on_cuda {
namespace {

std::tuple<at::Tensor, at::Tensor> unit_row_sums_cuda(const at::Tensor& x,
                                                      const std::optional<at::Tensor>& order,
                                                      const std::optional<at::Tensor>& class_ptr) {
  check_input(x, "unit_row_sums");
  const DeviceGuard guard(x.device());
  const Grouping groups = optional_grouping(order, class_ptr, x, "unit_row_sums");
  return class_sums(as_rows(x), DeviceGroups(groups, x.size(0)));
}

void add_unit_row_sums_cuda(const at::Tensor& x, const std::optional<at::Tensor>& order,
                            const std::optional<at::Tensor>& class_ptr, at::Tensor& sums, at::Tensor& lost,
                            at::Tensor& counts) {
  check_input(x, "add_unit_row_sums");
  const DeviceGuard guard(x.device());
  const Grouping groups = optional_grouping(order, class_ptr, x, "add_unit_row_sums");
  const int64_t width = row_width(x).expect_int();
  const int64_t classes = groups.labelled() ? groups.class_ptr.numel() - 1 : 1;
  check_class_state(sums, at::kDouble, classes, width, x.device(), "add_unit_row_sums: sums");
  check_class_state(lost, at::kDouble, classes, width, x.device(), "add_unit_row_sums: lost");
  check_class_state(counts, at::kLong, classes, 3, x.device(), "add_unit_row_sums: counts");
  at::assert_no_overlap(sums, lost);
  add_class_sums(as_rows(x), DeviceGroups(groups, x.size(0)), sums, lost, counts);
}

at::Tensor mean_cosine_of_sums_cuda(const at::Tensor& sums, const at::Tensor& lost, const at::Tensor& counts,
                                    bool labelled) {
  TORCH_CHECK_VALUE(sums.dim() == 2, "mean_cosine_of_sums: sums must be [num_classes, d], got ",
                    sums.sizes());
  const DeviceGuard guard(sums.device());
  const int64_t classes = sums.size(0);
  const int64_t width = sums.size(1);
  check_class_state(sums, at::kDouble, classes, width, sums.device(), "mean_cosine_of_sums: sums");
  check_class_state(lost, at::kDouble, classes, width, sums.device(), "mean_cosine_of_sums: lost");
  check_class_state(counts, at::kLong, classes, 3, sums.device(), "mean_cosine_of_sums: counts");
  const at::Tensor workspace = at::empty({cuda::class_products_doubles(width)}, sums.options());
  at::Tensor out = at::empty({6}, sums.options());
  check(cuda::write_mean_cosine_of_sums(class_side(sums, lost, counts), width, labelled,
                                        workspace.mutable_data_ptr<double>(), out.mutable_data_ptr<double>(),
                                        current_stream()),
        "mean_cosine_of_sums");
  return out;
}

}  // namespace
}  // namespace tfc::ops::on_cuda

TORCH_LIBRARY_IMPL(tfc_fast, TFC_CUDA_KEY, m) {
  m.impl("unit_row_sums", tfc::ops::on_cuda::unit_row_sums_cuda);
  m.impl("add_unit_row_sums", tfc::ops::on_cuda::add_unit_row_sums_cuda);
  m.impl("mean_cosine_of_sums", tfc::ops::on_cuda::mean_cosine_of_sums_cuda);
}
