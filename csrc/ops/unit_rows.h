// Unit rows of a tensor, packed for products (see gemm.h).
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>

#include <optional>
#include <vector>

#include "../kernels/cpu/passes.h"
#include "measure.h"

namespace tfc::ops {

// How each row of an [n, d] tensor is made a unit row.
std::vector<cpu::UnitScale> unit_scales(const at::Tensor& rows);

// Some rows of a tensor, in some order. Refers to memory that others own.
struct UnitRows {
  cpu::UnitRows kernel;
  cpu::Scalar scalar;
  int64_t count;
  // Ready to be multiplied where they are: count and width go up to multiples of kPanelStep in memory, with
  // zeros there.
  bool padded;
};

// All of them, as they lie.
UnitRows unit_rows(const at::Tensor& rows, const std::vector<cpu::UnitScale>& scales);

// The rows made once, in Real, for products with many others. `rows` is padded.
template <typename Real>
struct MadeRows {
  explicit MadeRows(const UnitRows& rows, const std::optional<cpu::RowMeasures>& measures);
  at::DataPtr memory;
  UnitRows rows;
};

// Nothing if they would take more than 64 MiB, which nobody expects of a function that walks tiles. Rows less
// a mean can be measured as they are made.
template <typename Real>
std::optional<MadeRows<Real>> made_if_small(const UnitRows& rows,
                                            const std::optional<cpu::RowMeasures>& measures = {});

// Entries first ... last - 1 of every row.
cpu::UnitRows columns_of(const UnitRows& rows, int64_t first, int64_t last);

// Rows that are finite and not all zero, class after class; without labels they are one class. Classes
// that have none are left out, the others numbered anew.
struct ValidRows {
  std::vector<int64_t> order;
  std::vector<int64_t> label;      // by position in `order`
  std::vector<int64_t> class_ptr;  // [classes + 1] where each class begins in `order`
  std::vector<int64_t> given;      // [classes] their numbers before
  int64_t zero = 0;
  int64_t nonfinite = 0;

  int64_t count() const { return static_cast<int64_t>(order.size()); }
  int64_t classes() const { return static_cast<int64_t>(class_ptr.size()) - 1; }
  // First position after the class of `position`.
  int64_t class_end(int64_t position) const { return class_ptr[label[position] + 1]; }
};
ValidRows valid_rows(const std::vector<cpu::UnitScale>& scales, const Grouping& groups);

// To float or double; uint16_t: bfloat16 rows as they are, in pairs.
template <typename Out>
cpu::PackFunction<Out> pack_rows(const UnitRows& rows);
template <typename Out>
cpu::PackFunction<Out> pack_columns(const UnitRows& rows);
// Rows less a mean, measured as they are packed; float or double.
template <typename Out>
cpu::CentredRowsFunction<Out> pack_centred(const UnitRows& rows);

inline int64_t divided_up(int64_t value, int64_t by) { return (value + by - 1) / by; }
inline int64_t rounded_up(int64_t value, int64_t step) { return divided_up(value, step) * step; }

}  // namespace tfc::ops
