#include "unit_rows.h"

#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <cmath>

#include "../kernels/cpu/dispatch.h"

namespace tfc::ops {

std::vector<cpu::UnitScale> unit_scales(const at::Tensor& rows) {
  std::vector<cpu::UnitScale> scales(static_cast<size_t>(rows.size(0)));
  const UnitRows unscaled = unit_rows(rows, scales);
  const auto kernel = cpu::kernels().unit_scales[static_cast<int>(unscaled.scalar)];
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, rows.size(1)));
  at::parallel_for(0, rows.size(0), grain,
                   [&](int64_t first, int64_t last) { kernel(unscaled.kernel, first, last, scales.data()); });
  return scales;
}

UnitRows unit_rows(const at::Tensor& rows, const std::vector<cpu::UnitScale>& scales) {
  cpu::UnitRows kernel{};
  kernel.data = rows.const_data_ptr();
  kernel.stride = rows.stride(0);
  kernel.width = rows.size(1);
  kernel.scales = scales.data();
  return {kernel, scalar_of(rows.scalar_type()), rows.size(0), /*padded=*/false};
}

cpu::UnitRows columns_of(const UnitRows& rows, int64_t first, int64_t last) {
  const int64_t size = rows.scalar == cpu::Scalar::kFloat64   ? 8
                       : rows.scalar == cpu::Scalar::kFloat32 ? 4
                                                              : 2;
  cpu::UnitRows columns = rows.kernel;
  columns.data = static_cast<const char*>(columns.data) + first * size;
  columns.width = last - first;
  if (columns.means != nullptr) columns.means += first;
  return columns;
}

ValidRows valid_rows(const std::vector<cpu::UnitScale>& scales, const Grouping& groups) {
  ValidRows valid;
  const auto rows = static_cast<int64_t>(scales.size());
  const int64_t* order = groups.labelled() ? groups.order.const_data_ptr<int64_t>() : nullptr;
  const int64_t one_class[2] = {0, rows};
  const int64_t* begin = groups.labelled() ? groups.class_ptr.const_data_ptr<int64_t>() : one_class;
  const int64_t classes = groups.labelled() ? groups.class_ptr.numel() - 1 : 1;
  valid.order.reserve(scales.size());
  valid.label.reserve(scales.size());
  valid.class_ptr.assign(1, 0);
  for (int64_t c = 0; c < classes; ++c) {
    for (int64_t i = begin[c]; i < begin[c + 1]; ++i) {
      const int64_t row = order != nullptr ? order[i] : i;
      const double scale = scales[static_cast<size_t>(row)].scale;
      valid.zero += scale == 0;
      valid.nonfinite += std::isnan(scale);
      if (scale > 0) valid.order.push_back(row);
    }
    if (valid.count() == valid.class_ptr.back()) continue;
    valid.label.resize(valid.order.size(), valid.classes());
    valid.class_ptr.push_back(valid.count());
    valid.given.push_back(c);
  }
  return valid;
}

namespace {

// Not a power of two: what is read a stride apart must not fall into one set of the cache.
int64_t made_stride(int64_t width) { return rounded_up(width, cpu::kPanelStep) + cpu::kPanelStep; }

template <typename Real>
int64_t made_bytes(const UnitRows& unit) {
  return rounded_up(unit.count, cpu::kPanelStep) * made_stride(unit.kernel.width) *
         static_cast<int64_t>(sizeof(Real));
}

}  // namespace

template <typename Real>
MadeRows<Real>::MadeRows(const UnitRows& unit, const std::optional<cpu::RowMeasures>& measures)
    : memory(c10::GetCPUAllocator()->allocate(static_cast<size_t>(made_bytes<Real>(unit)))), rows{} {
  const int64_t stride = made_stride(unit.kernel.width);
  auto* made = static_cast<Real*>(memory.get());
  std::fill(made + unit.count * stride, made + rounded_up(unit.count, cpu::kPanelStep) * stride, Real{0});
  rows.kernel.data = made;
  rows.kernel.stride = stride;
  rows.kernel.width = unit.kernel.width;
  rows.scalar = std::is_same_v<Real, double> ? cpu::Scalar::kFloat64 : cpu::Scalar::kFloat32;
  rows.count = unit.count;
  rows.padded = true;
  const auto pack = pack_rows<Real>(unit);
  const auto pack_and_measure = pack_centred<Real>(unit);
  at::parallel_for(0, unit.count, std::max<int64_t>(1, kElementsPerThread / stride),
                   [&](int64_t first, int64_t last) {
                     Real* out = made + first * stride;
                     if (measures) return pack_and_measure(unit.kernel, *measures, first, last, out, stride);
                     pack(unit.kernel, first, last, out, stride);
                   });
}

template <typename Real>
std::optional<MadeRows<Real>> made_if_small(const UnitRows& rows,
                                            const std::optional<cpu::RowMeasures>& measures) {
  constexpr int64_t kMostBytes = int64_t{64} << 20;
  if (made_bytes<Real>(rows) > kMostBytes) return std::nullopt;
  return std::optional<MadeRows<Real>>(std::in_place, rows, measures);
}

template <>
cpu::PackFunction<float> pack_rows<float>(const UnitRows& rows) {
  return cpu::kernels().unit_rows_float[static_cast<int>(rows.scalar)];
}
template <>
cpu::PackFunction<double> pack_rows<double>(const UnitRows& rows) {
  return cpu::kernels().unit_rows_double[static_cast<int>(rows.scalar)];
}
template <>
cpu::PackFunction<float> pack_columns<float>(const UnitRows& rows) {
  return cpu::kernels().unit_columns_float[static_cast<int>(rows.scalar)];
}
template <>
cpu::PackFunction<double> pack_columns<double>(const UnitRows& rows) {
  return cpu::kernels().unit_columns_double[static_cast<int>(rows.scalar)];
}
template <>
cpu::PackFunction<uint16_t> pack_rows<uint16_t>(const UnitRows&) {
  return cpu::kernels().pair_rows;
}
template <>
cpu::PackFunction<uint16_t> pack_columns<uint16_t>(const UnitRows&) {
  return cpu::kernels().pair_columns;
}

template <>
cpu::CentredRowsFunction<float> pack_centred<float>(const UnitRows& rows) {
  return cpu::kernels().centred_rows_float[static_cast<int>(rows.scalar)];
}
template <>
cpu::CentredRowsFunction<double> pack_centred<double>(const UnitRows& rows) {
  return cpu::kernels().centred_rows_double[static_cast<int>(rows.scalar)];
}

template std::optional<MadeRows<float>> made_if_small<float>(const UnitRows& rows,
                                                             const std::optional<cpu::RowMeasures>& measures);
template std::optional<MadeRows<double>> made_if_small<double>(
    const UnitRows& rows, const std::optional<cpu::RowMeasures>& measures);

}  // namespace tfc::ops
