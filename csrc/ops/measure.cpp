#include "measure.h"

#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>

#include "../kernels/cpu/dispatch.h"
#include "../kernels/cpu/summary.h"

namespace tfc::ops {

Grouping grouping(const at::Tensor& order, const at::Tensor& class_ptr) {
  if (class_ptr.numel() == 0) return {};
  return {order, class_ptr};
}

void check_grouping(const Grouping& groups, const at::Tensor& x, const char* what) {
  if (!groups.labelled()) return;
  const at::Tensor& class_ptr = groups.class_ptr;
  const at::Tensor& order = groups.order;
  TORCH_CHECK_VALUE(class_ptr.scalar_type() == at::kLong && class_ptr.is_contiguous() &&
                        class_ptr.dim() == 1 && class_ptr.numel() >= 2,
                    what, ": class_ptr must be a contiguous int64 tensor [num_classes + 1], got ",
                    class_ptr.scalar_type(), " ", class_ptr.sizes());
  TORCH_CHECK_VALUE(order.scalar_type() == at::kLong && order.is_contiguous() && order.dim() == 1, what,
                    ": order must be a contiguous int64 tensor [n], got ", order.scalar_type(), " ",
                    order.sizes());
  const int64_t* begin = class_ptr.const_data_ptr<int64_t>();
  const int64_t classes = class_ptr.numel() - 1;
  TORCH_CHECK_VALUE(begin[0] == 0 && std::is_sorted(begin, begin + classes + 1), what,
                    ": class_ptr must begin with 0 and ascend");
  TORCH_CHECK_VALUE(begin[classes] == x.size(0), what, ": ", begin[classes],
                    " labels were given, but the tensor has ", x.size(0), " samples (shape ", x.sizes(),
                    "); give one label for each");
  TORCH_CHECK_VALUE(order.numel() >= x.size(0), what, ": order has ", order.numel(), " entries for ",
                    x.size(0), " rows");
}

void check_order(const Grouping& groups, const at::Tensor& x, const char* what) {
  if (!groups.labelled()) return;
  const int64_t* row = groups.order.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < x.size(0); ++i) {
    TORCH_CHECK_VALUE(row[i] >= 0 && row[i] < x.size(0), what, ": order[", i, "] is ", row[i],
                      ", the tensor has ", x.size(0), " rows");
  }
}

bool is_supported(at::ScalarType type) {
  return type == at::kFloat || type == at::kDouble || type == at::kBFloat16 || type == at::kHalf;
}

void check_input(const at::Tensor& x, const char* op) {
  TORCH_CHECK_VALUE(x.dim() >= 1, op, ": x must have at least one dimension (rows), got a scalar");
  TORCH_CHECK_TYPE(is_supported(x.scalar_type()), op,
                   ": x must be float16, bfloat16, float32 or float64, got ", x.scalar_type());
}

Grouping optional_grouping(const std::optional<at::Tensor>& order, const std::optional<at::Tensor>& class_ptr,
                           const at::Tensor& x, const char* op) {
  TORCH_CHECK_VALUE(order.has_value() == class_ptr.has_value(), op,
                    ": give both order and class_ptr, or neither");
  if (!class_ptr) return {};
  const Grouping groups{*order, *class_ptr};
  check_grouping(groups, x, op);
  check_order(groups, x, op);
  return groups;
}

c10::SymInt row_width(const at::Tensor& x) {
  c10::SymInt width = 1;
  for (int64_t i = 1; i < x.dim(); ++i) width *= x.sym_size(i);
  return width;
}

at::Tensor as_rows(const at::Tensor& x) {
  if (x.dim() == 2 && x.stride(1) == 1) return x;  // the common case, without the price of a view
  const int64_t rows = x.size(0);
  const int64_t width = rows > 0 ? x.numel() / rows : 0;
  if (rows == 0) return x.reshape({0, std::max<int64_t>(1, c10::multiply_integers(x.sizes().slice(1)))});
  // view() merges the inner dimensions without a copy where their strides allow it.
  const at::Tensor rows_view =
      x.is_contiguous() || x.dim() == 2 ? x.view({rows, width}) : x.reshape({rows, width});
  if (width <= 1 || rows_view.stride(1) == 1) return rows_view;
  return rows_view.contiguous();
}

cpu::Scalar scalar_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return cpu::Scalar::kFloat32;
    case at::kDouble:
      return cpu::Scalar::kFloat64;
    case at::kBFloat16:
      return cpu::Scalar::kBFloat16;
    case at::kHalf:
      return cpu::Scalar::kFloat16;
    default:
      TORCH_CHECK_TYPE(false, "dtype ", type,
                       " is not supported; wanted float16, bfloat16, float32 or float64");
  }
}

namespace {

// Memory for everything that a call needs and nobody keeps. Up to kKept bytes stay with the thread:
// given back and taken again at every step they would cost more in page faults than the statistics.
class Scratch {
 public:
  template <typename T>
  size_t reserve(int64_t count) {
    const size_t at = bytes_;
    bytes_ += (static_cast<size_t>(count) * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    return at;
  }
  void allocate() {
    thread_local at::DataPtr kept;
    thread_local size_t kept_bytes = 0;
    if (bytes_ > kKept) {
      own_ = c10::GetCPUAllocator()->allocate(bytes_);
      base_ = static_cast<char*>(own_.get());
      return;
    }
    if (bytes_ > kept_bytes) {
      kept = {};
      kept = c10::GetCPUAllocator()->allocate(bytes_);
      kept_bytes = bytes_;
    }
    base_ = static_cast<char*>(kept.get());
  }
  template <typename T>
  T* at(size_t offset) {
    return reinterpret_cast<T*>(base_ + offset);
  }

 private:
  static constexpr size_t kAlignment = 64;
  static constexpr size_t kKept = size_t{16} << 20;
  size_t bytes_ = 0;
  at::DataPtr own_;
  char* base_ = nullptr;
};

BatchSums run(cpu::Job job, const at::Tensor& feature, const at::Tensor& gradient, const at::Tensor& grad_in,
              const Grouping& groups, const UnitHistory& units, UnitCounts* counts,
              const ClassSums* class_sums, const BatchClassSums& classes) {
  const cpu::Kernels& kernels = cpu::kernels();
  const int64_t rows = feature.size(0);
  const int64_t width = feature.size(1);
  const cpu::Scalar scalar = scalar_of(feature.scalar_type());
  const size_t sum_bytes = scalar == cpu::Scalar::kFloat64 ? sizeof(double) : sizeof(float);
  const bool cosines = job != cpu::Job::kGates;
  const bool gates = job != cpu::Job::kCosine;
  const bool pair = job == cpu::Job::kPair || job == cpu::Job::kReluBackward;

  const int64_t one_group[2] = {0, rows};
  const int64_t* class_ptr = groups.labelled() ? groups.class_ptr.const_data_ptr<int64_t>() : one_group;
  const int64_t num_classes = groups.labelled() ? groups.class_ptr.numel() - 1 : 1;
  const int64_t num_segments = cpu::count_segments(class_ptr, num_classes);
  const int64_t num_strips = cpu::count_strips(width);

  Scratch scratch;
  const size_t segments_at = scratch.reserve<cpu::Segment>(num_segments);
  const size_t totals_at = scratch.reserve<cpu::SegmentTotals>(num_segments);
  const size_t strips_at = scratch.reserve<cpu::ColumnTotals>(num_strips);
  const size_t feature_at = scratch.reserve<char>(cosines ? num_segments * width * sum_bytes : 0);
  const size_t gradient_at = scratch.reserve<char>(pair ? num_segments * width * sum_bytes : 0);
  const size_t gates_at = scratch.reserve<int32_t>(gates ? num_segments * width : 0);
  scratch.allocate();
  auto* segments = scratch.at<cpu::Segment>(segments_at);
  cpu::cut_segments(class_ptr, num_classes, segments);

  cpu::RowPass row_pass{};
  row_pass.feature = feature.const_data_ptr();
  row_pass.feature_stride = feature.stride(0);
  if (pair) {
    row_pass.gradient = gradient.const_data_ptr();
    row_pass.gradient_stride = gradient.stride(0);
  }
  if (job == cpu::Job::kReluBackward) {
    row_pass.grad_in = grad_in.mutable_data_ptr();
    row_pass.grad_in_stride = grad_in.stride(0);
  }
  row_pass.rows = rows;
  row_pass.width = width;
  row_pass.order = groups.labelled() ? groups.order.const_data_ptr<int64_t>() : nullptr;
  row_pass.segments = segments;
  row_pass.sums[0] = scratch.at<char>(feature_at);
  row_pass.sums[1] = scratch.at<char>(gradient_at);
  row_pass.gates = scratch.at<int32_t>(gates_at);
  row_pass.totals = scratch.at<cpu::SegmentTotals>(totals_at);
  const int64_t elements_per_segment =
      std::max<int64_t>(1, rows * width / std::max<int64_t>(1, num_segments));
  at::parallel_for(0, num_segments, std::max<int64_t>(1, kElementsPerThread / elements_per_segment),
                   [&](int64_t first, int64_t last) {
                     kernels.row_pass[static_cast<int>(job)][static_cast<int>(scalar)](row_pass, first, last);
                   });

  cpu::ColumnPass column_pass{};
  column_pass.width = width;
  column_pass.rows = rows;
  column_pass.num_segments = num_segments;
  column_pass.segments = segments;
  column_pass.sums[0] = cosines ? row_pass.sums[0] : nullptr;
  column_pass.sums[1] = pair ? row_pass.sums[1] : nullptr;
  column_pass.gates = gates ? row_pass.gates : nullptr;
  column_pass.sums_are_double = scalar == cpu::Scalar::kFloat64;
  column_pass.totals = scratch.at<cpu::ColumnTotals>(strips_at);
  column_pass.last_open = units.last_open;
  column_pass.last_shut = units.last_shut;
  column_pass.step = units.step;
  if (class_sums != nullptr) {
    column_pass.class_sums[0] = class_sums->sums;
    column_pass.class_lost = class_sums->lost;
    column_pass.class_pitch = width;
  } else {
    column_pass.class_sums[0] = classes.feature;
    column_pass.class_sums[1] = classes.gradient;
    column_pass.class_open = classes.open;
    column_pass.class_pitch = classes.pitch;
  }
  column_pass.open_rows = units.open_rows;
  const int64_t elements_per_strip = std::max<int64_t>(1, num_segments * std::min(width, cpu::kStripUnits));
  at::parallel_for(0, num_strips, std::max<int64_t>(1, kElementsPerThread / elements_per_strip),
                   [&](int64_t first, int64_t last) { kernels.column_pass(column_pass, first, last); });

  const cpu::Batch batch{rows,     width,           groups.labelled(), num_segments,
                         segments, row_pass.totals, num_strips,        column_pass.totals};
  BatchSums sums;
  sums.batches = 1;
  sums.rows = static_cast<double>(rows);
  sums.width = static_cast<double>(width);
  sums.labelled = groups.labelled();
  sums.nonfinite = static_cast<double>(cpu::nonfinite_rows(batch));
  if (cosines) sums.feature = cpu::cosine_sums(batch, 0);
  if (pair) sums.gradient = cpu::cosine_sums(batch, 1);
  if (gates) sums.gates = cpu::gate_sums(batch);
  if (counts != nullptr) {
    *counts = {0, 0};
    for (int64_t s = 0; s < num_strips; ++s) {
      counts->dead += column_pass.totals[s].dead;
      counts->always_on += column_pass.totals[s].always_on;
    }
  }
  if (class_sums != nullptr) {
    for (int64_t s = 0; s < num_segments; ++s) {
      int64_t* of_class = class_sums->counts + 3 * segments[s].label;
      of_class[0] += row_pass.totals[s].valid[0];
      of_class[1] += row_pass.totals[s].zero[0];
      of_class[2] += row_pass.totals[s].nonfinite;
    }
  }
  if (classes.feature != nullptr) {
    for (int64_t s = 0; s < num_segments; ++s) {
      const int64_t of_class = segments[s].label * classes.pitch;
      classes.feature_rows[of_class] += row_pass.totals[s].valid[0];
      classes.gradient_rows[of_class] += row_pass.totals[s].valid[1];
      classes.rows[of_class] += segments[s].rows;
    }
  }
  return sums;
}

}  // namespace

BatchSums measure(cpu::Job job, const at::Tensor& feature, const at::Tensor& gradient,
                  const at::Tensor& grad_in, const Grouping& groups, const UnitHistory& units,
                  const BatchClassSums& classes) {
  return run(job, feature, gradient, grad_in, groups, units, nullptr, nullptr, classes);
}

BatchSums measure(cpu::Job job, const at::Tensor& feature, const Grouping& groups, UnitCounts* counts) {
  return run(job, feature, {}, {}, groups, {}, counts, nullptr, {});
}

BatchSums add_class_sums(const at::Tensor& rows, const Grouping& groups, const ClassSums& to) {
  return run(cpu::Job::kCosine, rows, {}, {}, groups, {}, nullptr, &to, {});
}

}  // namespace tfc::ops
