// Functional statistics of one tensor: group_labels, mean_cosine, gate_stats.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <utility>

#include "measure.h"

namespace tfc::ops {
namespace {

// -> order [n]: rows sorted by class, stable; class_ptr [num_classes + 1].
std::tuple<at::Tensor, at::Tensor> group_labels_cpu(const at::Tensor& labels, int64_t num_classes,
                                                    std::string_view name) {
  check_labels(labels, num_classes, name);
  const at::Tensor wide = labels.to(at::kLong).contiguous();
  at::Tensor order = at::empty({wide.numel()}, at::kLong);
  at::Tensor class_ptr = at::empty({num_classes + 1}, at::kLong);
  group_labels_into(wide, num_classes, order, class_ptr, name);
  return {order, class_ptr};
}

std::tuple<at::Tensor, at::Tensor> group_labels_meta(const at::Tensor& labels, int64_t num_classes,
                                                     std::string_view) {
  const auto options = labels.options().dtype(at::kLong);
  return {at::empty_symint(labels.sym_sizes(), options), at::empty({num_classes + 1}, options)};
}

// -> [6] float64: cosine all, within, between; valid rows, zero rows, non-finite rows.
at::Tensor mean_cosine_cpu(const at::Tensor& x, const std::optional<at::Tensor>& order,
                           const std::optional<at::Tensor>& class_ptr) {
  check_input(x, "mean_cosine");
  const Grouping groups = optional_grouping(order, class_ptr, x, "mean_cosine");
  const BatchSums sums = measure(cpu::Job::kCosine, as_rows(x), groups, nullptr);
  const CosineMeans means = cosine_means(sums.feature, groups.labelled());
  at::Tensor out = at::empty({6}, at::kDouble);
  double* values = out.mutable_data_ptr<double>();
  values[0] = means.all;
  values[1] = means.within;
  values[2] = means.between;
  values[3] = sums.feature.valid;
  values[4] = sums.feature.zero;
  values[5] = sums.nonfinite;
  return out;
}

// -> [7] float64: active rate, dead units, always-on units, agreement all, within, between; rows.
at::Tensor gate_stats_cpu(const at::Tensor& features, const std::optional<at::Tensor>& order,
                          const std::optional<at::Tensor>& class_ptr) {
  check_input(features, "gate_stats");
  const Grouping groups = optional_grouping(order, class_ptr, features, "gate_stats");
  UnitCounts units;
  const BatchSums sums = measure(cpu::Job::kGates, as_rows(features), groups, &units);
  const CosineMeans agreement = agreement_means(sums.gates, groups.labelled());
  // With no row every unit would count as dead and as always on: nothing was measured.
  const double width = sums.rows > 0 ? sums.width : 0;
  at::Tensor out = at::empty({7}, at::kDouble);
  double* values = out.mutable_data_ptr<double>();
  values[0] = ratio(sums.gates.open, sums.gates.gates);
  values[1] = ratio(static_cast<double>(units.dead), width);
  values[2] = ratio(static_cast<double>(units.always_on), width);
  values[3] = agreement.all;
  values[4] = agreement.within;
  values[5] = agreement.between;
  values[6] = sums.rows;
  return out;
}

template <int kValues>
at::Tensor values_meta(const at::Tensor& x, const std::optional<at::Tensor>&,
                       const std::optional<at::Tensor>&) {
  return at::empty({kValues}, x.options().dtype(at::kDouble));
}

}  // namespace

void check_labels(const at::Tensor& labels, int64_t num_classes, std::string_view name) {
  TORCH_CHECK_VALUE(labels.dim() == 1, name, ": wanted one label per row, shape [n], got shape ",
                    labels.sizes());
  TORCH_CHECK_TYPE(at::isIntegralType(labels.scalar_type(), /*includeBool=*/false), name,
                   ": wanted an integer dtype, got ", labels.scalar_type());
  TORCH_CHECK_VALUE(num_classes >= 1, "num_classes: wanted at least 1, got ", num_classes);
}

void check_label_range(const at::Tensor& labels, int64_t num_classes, std::string_view name) {
  const int64_t* label = labels.const_data_ptr<int64_t>();
  const int64_t rows = labels.numel();
  for (int64_t i = 0; i < rows; ++i) {
    TORCH_CHECK_VALUE(label[i] >= 0 && label[i] < num_classes,
                      wrong_label_text(i, label[i], num_classes, name));
  }
}

std::string wrong_label_text(int64_t row, int64_t label, int64_t num_classes, std::string_view name) {
  return c10::str(name, ": row ", row, " has label ", label, ", wanted 0 ... ", num_classes - 1,
                  " (num_classes=", num_classes, ")");
}

void group_labels_into(const at::Tensor& labels, int64_t num_classes, const at::Tensor& order,
                       const at::Tensor& class_ptr, std::string_view name) {
  const int64_t rows = labels.numel();
  const int64_t* label = labels.const_data_ptr<int64_t>();
  check_label_range(labels, num_classes, name);
  int64_t* start = class_ptr.mutable_data_ptr<int64_t>();
  int64_t* position = order.mutable_data_ptr<int64_t>();
  std::fill(start, start + num_classes + 1, 0);
  for (int64_t i = 0; i < rows; ++i) ++start[label[i]];
  int64_t sum = 0;
  for (int64_t c = 0; c <= num_classes; ++c) sum += std::exchange(start[c], sum);
  for (int64_t i = 0; i < rows; ++i) position[start[label[i]]++] = i;
  // Each start has moved to the end of its class, that is, to the start of the next.
  std::copy_backward(start, start + num_classes, start + num_classes + 1);
  start[0] = 0;
}

}  // namespace tfc::ops

TORCH_LIBRARY_FRAGMENT(tfc_fast, m) {
  m.def(
      "group_labels(Tensor labels, int num_classes, str name=\"labels\") -> (Tensor order, Tensor "
      "class_ptr)");
  m.def("mean_cosine(Tensor x, Tensor? order, Tensor? class_ptr) -> Tensor");
  m.def("gate_stats(Tensor features, Tensor? order, Tensor? class_ptr) -> Tensor");
}

TORCH_LIBRARY_IMPL(tfc_fast, CPU, m) {
  m.impl("group_labels", tfc::ops::group_labels_cpu);
  m.impl("mean_cosine", tfc::ops::mean_cosine_cpu);
  m.impl("gate_stats", tfc::ops::gate_stats_cpu);
}

TORCH_LIBRARY_IMPL(tfc_fast, Meta, m) {
  m.impl("group_labels", tfc::ops::group_labels_meta);
  m.impl("mean_cosine", tfc::ops::values_meta<6>);
  m.impl("gate_stats", tfc::ops::values_meta<7>);
}
