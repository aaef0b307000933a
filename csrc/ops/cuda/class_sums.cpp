#include "class_sums.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "../class_labels.h"

namespace tfc::ops::on_cuda {

void add_class_sums(const at::Tensor& rows, const DeviceGroups& groups, at::Tensor& sums,
                    const at::Tensor& lost, at::Tensor& counts) {
  const cuda::ClassSumsPlan plan =
      cuda::plan_class_sums(scalar_of(rows.scalar_type()), rows.size(0), rows.size(1), current_device());
  const at::Tensor workspace = at::empty({plan.workspace_bytes}, rows.options().dtype(at::kByte));
  const cuda::ClassSums to{sums.mutable_data_ptr<double>(),
                           lost.defined() ? lost.mutable_data_ptr<double>() : nullptr,
                           counts.mutable_data_ptr<int64_t>()};
  check(cuda::add_class_sums(rows.const_data_ptr(), rows.stride(0), groups.groups(), plan,
                             workspace.mutable_data_ptr(), to, current_stream()),
        "add_class_sums");
}

std::tuple<at::Tensor, at::Tensor> class_sums(const at::Tensor& rows, const DeviceGroups& groups) {
  const int64_t classes = groups.groups().class_ptr == nullptr ? 1 : groups.classes();
  at::Tensor sums = at::zeros({classes, rows.size(1)}, rows.options().dtype(at::kDouble));
  at::Tensor counts = at::zeros({classes, 3}, rows.options().dtype(at::kLong));
  add_class_sums(rows, groups, sums, {}, counts);
  return {sums, counts};
}

cuda::ClassSide class_side(const at::Tensor& sums, const at::Tensor& lost, const at::Tensor& counts) {
  return {sums.const_data_ptr<double>(), lost.defined() ? lost.const_data_ptr<double>() : nullptr,
          counts.const_data_ptr<int64_t>(), sums.size(0)};
}

Grouping limit_classes(const Grouping& groups, int64_t rows) {
  if (!groups.labelled() || groups.class_ptr.numel() - 1 <= std::max<int64_t>(rows, 1)) return groups;
  return {groups.order, compact_class_ptrs({{groups.class_ptr, rows}})[0]};
}

}  // namespace tfc::ops::on_cuda
