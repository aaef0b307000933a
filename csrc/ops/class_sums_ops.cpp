// Sums of the unit rows of each class, of one batch or over many: all that mean cosines need.
//
//   sums    float64 [num_classes, d]
//   lost    float64 [num_classes, d]: what rounding took away from sums
//   counts  int64   [num_classes, 3]: rows that took part, zero rows, non-finite rows
// Without labels there is one class.
#include <ATen/MemoryOverlap.h>
#include <ATen/Parallel.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "class_sums.h"
#include "measure.h"

namespace tfc::ops {
namespace {

int64_t num_classes(const std::optional<at::Tensor>& class_ptr) {
  return class_ptr ? class_ptr->numel() - 1 : 1;
}

std::tuple<at::Tensor, at::Tensor> unit_row_sums_cpu(const at::Tensor& x,
                                                     const std::optional<at::Tensor>& order,
                                                     const std::optional<at::Tensor>& class_ptr) {
  check_input(x, "unit_row_sums");
  return unit_row_sums(x, optional_grouping(order, class_ptr, x, "unit_row_sums"));
}

std::tuple<at::Tensor, at::Tensor> unit_row_sums_meta(const at::Tensor& x, const std::optional<at::Tensor>&,
                                                      const std::optional<at::Tensor>& class_ptr) {
  check_input(x, "unit_row_sums");
  const c10::SymInt classes = class_ptr ? class_ptr->sym_size(0) - 1 : c10::SymInt(1);
  return {at::empty_symint({classes, row_width(x)}, x.options().dtype(at::kDouble)),
          at::empty_symint({classes, 3}, x.options().dtype(at::kLong))};
}

void add_unit_row_sums_cpu(const at::Tensor& x, const std::optional<at::Tensor>& order,
                           const std::optional<at::Tensor>& class_ptr, at::Tensor& sums, at::Tensor& lost,
                           at::Tensor& counts) {
  check_input(x, "add_unit_row_sums");
  const Grouping groups = optional_grouping(order, class_ptr, x, "add_unit_row_sums");
  const int64_t width = row_width(x).expect_int();
  check_class_state(sums, at::kDouble, num_classes(class_ptr), width, at::kCPU, "add_unit_row_sums: sums");
  check_class_state(lost, at::kDouble, num_classes(class_ptr), width, at::kCPU, "add_unit_row_sums: lost");
  check_class_state(counts, at::kLong, num_classes(class_ptr), 3, at::kCPU, "add_unit_row_sums: counts");
  at::assert_no_overlap(sums, lost);
  add_class_sums(
      as_rows(x), groups,
      {sums.mutable_data_ptr<double>(), lost.mutable_data_ptr<double>(), counts.mutable_data_ptr<int64_t>()});
}

void add_unit_row_sums_meta(const at::Tensor& x, const std::optional<at::Tensor>&,
                            const std::optional<at::Tensor>&, at::Tensor& sums, at::Tensor&, at::Tensor&) {
  check_input(x, "add_unit_row_sums");
  TORCH_CHECK_VALUE(sums.dim() == 2 && sums.sym_size(1) == row_width(x),
                    "add_unit_row_sums: sums must have rows of ", row_width(x), " entries, got shape ",
                    sums.sym_sizes());
}

// -> [6] float64, as mean_cosine gives it.
at::Tensor mean_cosine_of_sums_cpu(const at::Tensor& sums, const at::Tensor& lost, const at::Tensor& counts,
                                   bool labelled) {
  TORCH_CHECK_VALUE(sums.dim() == 2, "mean_cosine_of_sums: sums must be [num_classes, d], got ",
                    sums.sizes());
  const int64_t classes = sums.size(0);
  const int64_t width = sums.size(1);
  check_class_state(sums, at::kDouble, classes, width, at::kCPU, "mean_cosine_of_sums: sums");
  check_class_state(lost, at::kDouble, classes, width, at::kCPU, "mean_cosine_of_sums: lost");
  check_class_state(counts, at::kLong, classes, 3, at::kCPU, "mean_cosine_of_sums: counts");
  const at::Tensor total = at::add(sums, lost);
  const double* data = total.const_data_ptr<double>();
  const SumProducts products = products_of_sums(data, classes, data, classes, width);
  CosineSums found;
  double nonfinite = 0;
  const int64_t* of_class = counts.const_data_ptr<int64_t>();
  for (int64_t c = 0; c < classes; ++c, of_class += 3) {
    const auto rows = static_cast<double>(of_class[0]);
    found.valid += rows;
    found.zero += static_cast<double>(of_class[1]);
    nonfinite += static_cast<double>(of_class[2]);
    found.within_pairs += rows * (rows - 1);
  }
  found.all_pairs = found.valid * (found.valid - 1);
  found.all = products.all - found.valid;
  found.within = products.within - found.valid;
  const CosineMeans means = cosine_means(found, labelled);
  at::Tensor out = at::empty({6}, at::kDouble);
  double* values = out.mutable_data_ptr<double>();
  values[0] = means.all;
  values[1] = means.within;
  values[2] = means.between;
  values[3] = found.valid;
  values[4] = found.zero;
  values[5] = nonfinite;
  return out;
}

at::Tensor mean_cosine_of_sums_meta(const at::Tensor& sums, const at::Tensor&, const at::Tensor&, bool) {
  return at::empty({6}, sums.options());
}

}  // namespace

void check_class_state(const at::Tensor& t, at::ScalarType dtype, int64_t classes, int64_t width,
                       at::Device device, const char* name) {
  TORCH_CHECK_VALUE(t.scalar_type() == dtype && t.dim() == 2 && t.size(0) == classes && t.size(1) == width &&
                        t.is_contiguous() && t.device() == device,
                    name, " must be a contiguous ", dtype, " tensor [", classes, ", ", width, "] on ", device,
                    ", got ", t.scalar_type(), " ", t.sizes(), " on ", t.device());
}

std::tuple<at::Tensor, at::Tensor> unit_row_sums(const at::Tensor& x, const Grouping& groups) {
  const int64_t classes = groups.labelled() ? groups.class_ptr.numel() - 1 : 1;
  at::Tensor sums = at::zeros({classes, row_width(x).expect_int()}, at::kDouble);
  at::Tensor counts = at::zeros({classes, 3}, at::kLong);
  add_class_sums(as_rows(x), groups,
                 {sums.mutable_data_ptr<double>(), nullptr, counts.mutable_data_ptr<int64_t>()});
  return {sums, counts};
}

SumProducts products_of_sums(const double* x, int64_t x_classes, const double* y, int64_t y_classes,
                             int64_t width) {
  // A strip of units is one task, so that every sum has a fixed order.
  constexpr int64_t kStrip = 128;
  const int64_t strips = (width + kStrip - 1) / kStrip;
  std::vector<SumProducts> of_strip(static_cast<size_t>(strips));
  const int64_t grain =
      std::max<int64_t>(1, kElementsPerThread / (kStrip * std::max<int64_t>(1, x_classes + y_classes)));
  at::parallel_for(0, strips, grain, [&](int64_t first, int64_t last) {
    for (int64_t strip = first; strip < last; ++strip) {
      const int64_t begin = strip * kStrip;
      const int64_t count = std::min(kStrip, width - begin);
      double x_total[kStrip] = {}, y_total[kStrip] = {}, within[kStrip] = {};
      for (int64_t c = 0; c < std::max(x_classes, y_classes); ++c) {
        const double* a = c < x_classes ? x + c * width + begin : nullptr;
        const double* b = c < y_classes ? y + c * width + begin : nullptr;
        for (int64_t j = 0; a != nullptr && j < count; ++j) x_total[j] += a[j];
        for (int64_t j = 0; b != nullptr && j < count; ++j) y_total[j] += b[j];
        for (int64_t j = 0; a != nullptr && b != nullptr && j < count; ++j) within[j] += a[j] * b[j];
      }
      SumProducts sums{0, 0};
      for (int64_t j = 0; j < count; ++j) {
        sums.all += x_total[j] * y_total[j];
        sums.within += within[j];
      }
      of_strip[static_cast<size_t>(strip)] = sums;
    }
  });
  SumProducts out{0, 0};
  for (const SumProducts& sums : of_strip) {
    out.all += sums.all;
    out.within += sums.within;
  }
  return out;
}

}  // namespace tfc::ops

TORCH_LIBRARY_FRAGMENT(tfc_fast, m) {
  m.def("unit_row_sums(Tensor x, Tensor? order, Tensor? class_ptr) -> (Tensor sums, Tensor counts)");
  m.def(
      "add_unit_row_sums(Tensor x, Tensor? order, Tensor? class_ptr, Tensor(a!) sums, Tensor(b!) lost, "
      "Tensor(c!) counts) -> ()");
  m.def("mean_cosine_of_sums(Tensor sums, Tensor lost, Tensor counts, bool labelled) -> Tensor");
}

TORCH_LIBRARY_IMPL(tfc_fast, CPU, m) {
  m.impl("unit_row_sums", tfc::ops::unit_row_sums_cpu);
  m.impl("add_unit_row_sums", tfc::ops::add_unit_row_sums_cpu);
  m.impl("mean_cosine_of_sums", tfc::ops::mean_cosine_of_sums_cpu);
}

TORCH_LIBRARY_IMPL(tfc_fast, Meta, m) {
  m.impl("unit_row_sums", tfc::ops::unit_row_sums_meta);
  m.impl("add_unit_row_sums", tfc::ops::add_unit_row_sums_meta);
  m.impl("mean_cosine_of_sums", tfc::ops::mean_cosine_of_sums_meta);
}
