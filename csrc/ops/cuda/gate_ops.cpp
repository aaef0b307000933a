// Gates as bits, how alike they are, and gates over a run, on CUDA. Nothing here waits for the device.
#include "../gate_ops.h"

#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "../../kernels/cuda/gate_launchers.h"
#include "../gate_tiles.h"
#include "../output.h"
#include "measure.h"

namespace tfc::ops::on_cuda {
namespace {

at::Tensor pack_gates_cuda(const at::Tensor& features) {
  at::Tensor out = empty_packed_gates(features);
  if (out.numel() == 0) return out;
  const DeviceGuard guard(features.device());
  const at::Tensor rows = as_rows(features);
  check(cuda::pack_gates(rows.const_data_ptr(), scalar_of(rows.scalar_type()), rows.stride(0), rows.size(0),
                         rows.size(1), out.mutable_data_ptr<int64_t>(), current_stream()),
        "pack_gates");
  return out;
}

void update_units_cuda(const at::Tensor& features, const at::Tensor& open_rows, const at::Tensor& last_active,
                       const at::Tensor& revived, int64_t update, int64_t window) {
  check_units(features, open_rows, last_active, revived);
  if (features.numel() == 0) return;
  const DeviceGuard guard(features.device());
  const at::Tensor rows = as_rows(features);
  const cuda::UnitRecord units{open_rows.mutable_data_ptr<int64_t>(), last_active.mutable_data_ptr<int64_t>(),
                               revived.mutable_data_ptr<int64_t>()};
  check(cuda::update_units(rows.const_data_ptr(), scalar_of(rows.scalar_type()), rows.stride(0), rows.size(0),
                           rows.size(1), units, update, window, current_device(), current_stream()),
        "update_units");
}

void compute_agreement(const at::Tensor& x, const std::optional<at::Tensor>& y, int64_t num_units,
                       bool jaccard, const at::Tensor& out) {
  if (out.numel() == 0) return;
  const DeviceGuard guard(x.device());
  const at::Tensor left = as_rows(x);
  const at::Tensor right = y ? as_rows(*y) : left;
  const cuda::PackedPairs pairs{left.const_data_ptr<int64_t>(),
                                right.const_data_ptr<int64_t>(),
                                left.stride(0),
                                right.stride(0),
                                left.size(0),
                                right.size(0),
                                num_units};
  check(cuda::agreement_matrix(pairs, jaccard, out.mutable_data_ptr<float>(), out.stride(0), out.stride(1),
                               current_stream()),
        "agreement_matrix");
}

at::Tensor agreement_matrix_cuda(const at::Tensor& x, const std::optional<at::Tensor>& y, int64_t num_units,
                                 bool jaccard) {
  at::Tensor out = empty_agreement(x, y, num_units);
  compute_agreement(x, y, num_units, jaccard, out);
  return out;
}

void agreement_matrix_out_cuda(const at::Tensor& x, const std::optional<at::Tensor>& y, int64_t num_units,
                               bool jaccard, const at::Tensor& out) {
  check_agreement_output(x, y, num_units, out);
  check_agreement_memory(x, y, out);
  compute_agreement(x, y, num_units, jaccard, out);
  mark_written(out);
}

at::Tensor agreement_histogram_cuda(const at::Tensor& x, const std::optional<at::Tensor>& order,
                                    const std::optional<at::Tensor>& class_ptr, int64_t num_units) {
  check_packed(x, num_units, "agreement_histogram", "x");
  const DeviceGuard guard(x.device());
  const Grouping groups = optional_grouping(order, class_ptr, x, "agreement_histogram");
  const at::Tensor rows = as_rows(x);
  const DeviceGroups on_device(groups, rows.size(0));
  at::Tensor counts = at::zeros({2, num_units + 1}, x.options());
  check(cuda::agreement_histogram({rows.const_data_ptr<int64_t>(), rows.stride(0), rows.size(0), num_units,
                                   on_device.groups().order, on_device.groups().label_at},
                                  current_device(), counts.mutable_data_ptr<int64_t>(), current_stream()),
        "agreement_histogram");
  return counts;
}

}  // namespace
}  // namespace tfc::ops::on_cuda

TORCH_LIBRARY_IMPL(tfc_fast, TFC_CUDA_KEY, m) {
  m.impl("pack_gates", tfc::ops::on_cuda::pack_gates_cuda);
  m.impl("update_units", tfc::ops::on_cuda::update_units_cuda);
  m.impl("agreement_matrix", tfc::ops::on_cuda::agreement_matrix_cuda);
  m.impl("agreement_matrix_out", tfc::ops::on_cuda::agreement_matrix_out_cuda);
  m.impl("agreement_histogram", tfc::ops::on_cuda::agreement_histogram_cuda);
}
