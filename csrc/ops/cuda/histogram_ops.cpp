// cosine_histogram on CUDA. Nothing waits for the device.
#include "../histogram.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "cosine_tiles.h"
#include "measure.h"

namespace tfc::ops::on_cuda {
namespace {

constexpr const char* kOp = "cosine_histogram";

std::tuple<at::Tensor, at::Tensor> cosine_histogram_cuda(const at::Tensor& x,
                                                         const std::optional<at::Tensor>& order,
                                                         const std::optional<at::Tensor>& class_ptr,
                                                         int64_t bins) {
  check_input(x, kOp);
  check_bins(bins);
  const DeviceGuard guard(x.device());
  const Grouping grouping = optional_grouping(order, class_ptr, x, kOp);
  const at::Tensor rows = as_rows(x);
  const DeviceGroups groups(grouping, rows.size(0));
  const int32_t* label_at = groups.groups().label_at;
  const ProductRows units = unit_product_rows(rows, groups.groups().order);
  const auto options = x.options().dtype(at::kLong);
  at::Tensor counts = at::zeros({2, bins}, options);
  at::Tensor found = at::empty({3}, options);
  for_each_tile(units, units, /*triangle=*/true, [&](const cuda::CosineTile& tile) {
    check(cuda::count_cosines(tile, label_at, bins, counts.mutable_data_ptr<int64_t>(), current_stream()),
          kOp);
  });
  check(cuda::count_rows(units.factors.const_data_ptr<double>(), units.count,
                         found.mutable_data_ptr<int64_t>(), current_stream()),
        kOp);
  return {counts, found};
}

}  // namespace
}  // namespace tfc::ops::on_cuda

TORCH_LIBRARY_IMPL(tfc_fast, TFC_CUDA_KEY, m) {
  m.impl("cosine_histogram", tfc::ops::on_cuda::cosine_histogram_cuda);
}
