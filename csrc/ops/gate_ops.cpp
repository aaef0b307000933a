// Gates of single units: as bits, and over the updates of a run.
#include "gate_ops.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "../kernels/cpu/dispatch.h"
#include "measure.h"

namespace tfc::ops {

at::Tensor empty_packed_gates(const at::Tensor& features) {
  check_input(features, "pack_gates");
  const c10::SymInt words = (row_width(features) + cpu::kWordUnits - 1) / cpu::kWordUnits;
  return at::empty_symint({features.sym_size(0), words}, features.options().dtype(at::kLong));
}

namespace {

// -> [n, words] int64.
at::Tensor pack_gates_cpu(const at::Tensor& features) {
  at::Tensor out = empty_packed_gates(features);
  if (out.numel() == 0) return out;
  const at::Tensor rows = as_rows(features);
  const int64_t width = rows.size(1);
  const int64_t words = out.size(1);
  const cpu::PackGatesFunction pack =
      cpu::kernels().gates.pack[static_cast<int>(scalar_of(rows.scalar_type()))];
  // int64 and uint64 may stand for each other.
  auto* to = reinterpret_cast<uint64_t*>(out.mutable_data_ptr<int64_t>());
  at::parallel_for(0, rows.size(0), std::max<int64_t>(1, kElementsPerThread / width),
                   [&](int64_t first, int64_t last) {
                     pack(rows.const_data_ptr(), rows.stride(0), width, first, last, to + first * words);
                   });
  return out;
}

void check_unit_tensor(const at::Tensor& features, const at::Tensor& units, const char* name) {
  TORCH_CHECK_VALUE(units.scalar_type() == at::kLong && units.is_contiguous() && units.dim() == 1 &&
                        units.sym_size(0) == row_width(features),
                    "update_units: ", name, " must be a contiguous int64 tensor [", row_width(features),
                    "], got ", units.scalar_type(), " ", units.sym_sizes());
  TORCH_CHECK_VALUE(units.device() == features.device(), "update_units: ", name,
                    " must be on the device of features, ", features.device(), ", got ", units.device());
}

}  // namespace

void check_units(const at::Tensor& features, const at::Tensor& open_rows, const at::Tensor& last_active,
                 const at::Tensor& revived) {
  check_input(features, "update_units");
  check_unit_tensor(features, open_rows, "open_rows");
  check_unit_tensor(features, last_active, "last_active");
  check_unit_tensor(features, revived, "revived");
}

namespace {

void update_units_meta(const at::Tensor& features, const at::Tensor& open_rows, const at::Tensor& last_active,
                       const at::Tensor& revived, int64_t, int64_t) {
  check_units(features, open_rows, last_active, revived);
}

// Adds the rows of update number `update` (1 and up) to what is known of each unit: rows in which it was
// open, the last update in which it was (0: none), and how often it was so after `window` updates or more
// in which it was not.
void update_units_cpu(const at::Tensor& features, const at::Tensor& open_rows, const at::Tensor& last_active,
                      const at::Tensor& revived, int64_t update, int64_t window) {
  check_units(features, open_rows, last_active, revived);
  if (features.numel() == 0) return;
  std::vector<int32_t> open(static_cast<size_t>(open_rows.numel()));
  UnitHistory units;
  units.open_rows = open.data();
  measure(cpu::Job::kGates, as_rows(features), {}, {}, {}, units);
  int64_t* total = open_rows.mutable_data_ptr<int64_t>();
  int64_t* last = last_active.mutable_data_ptr<int64_t>();
  int64_t* times = revived.mutable_data_ptr<int64_t>();
  for (size_t j = 0; j < open.size(); ++j) {
    total[j] += open[j];
    if (open[j] == 0) continue;
    times[j] += update - last[j] > window;
    last[j] = update;
  }
}

}  // namespace
}  // namespace tfc::ops

TORCH_LIBRARY_FRAGMENT(tfc_fast, m) {
  m.def("pack_gates(Tensor features) -> Tensor");
  m.def(
      "update_units(Tensor features, Tensor(a!) open_rows, Tensor(b!) last_active, Tensor(c!) revived, int "
      "update, int window) -> ()");
}

TORCH_LIBRARY_IMPL(tfc_fast, CPU, m) {
  m.impl("pack_gates", tfc::ops::pack_gates_cpu);
  m.impl("update_units", tfc::ops::update_units_cpu);
}

TORCH_LIBRARY_IMPL(tfc_fast, Meta, m) {
  m.impl("pack_gates", tfc::ops::empty_packed_gates);
  m.impl("update_units", tfc::ops::update_units_meta);
}
