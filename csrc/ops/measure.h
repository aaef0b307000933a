// Runs the CPU passes over torch tensors: scratch memory, threads, dtype.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>
#include <string_view>

#include "../kernels/cpu/passes.h"
#include "../kernels/statistics.h"

namespace tfc::ops {

// The rows of a tensor [n, ...] as the kernels walk them: class by class, or as they lie.
struct Grouping {
  at::Tensor order;      // [>= n] int64 rows sorted by class; undefined: as they lie
  at::Tensor class_ptr;  // [num_classes + 1] int64; undefined: no labels, one group of all rows
  bool labelled() const { return class_ptr.defined(); }
};

// An order and a class_ptr with no elements stand for "no labels".
Grouping grouping(const at::Tensor& order, const at::Tensor& class_ptr);

// Throws unless `class_ptr` covers exactly the rows of `x`.
void check_grouping(const Grouping& groups, const at::Tensor& x, const char* what);
// Throws unless `order` names rows of `x`; for an order that comes from outside.
void check_order(const Grouping& groups, const at::Tensor& x, const char* what);

// The order and class_ptr of an op's caller, checked; both or neither.
Grouping optional_grouping(const std::optional<at::Tensor>& order, const std::optional<at::Tensor>& class_ptr,
                           const at::Tensor& x, const char* op);

bool is_supported(at::ScalarType type);
// Throws unless `x` has rows and a dtype that the kernels read.
void check_input(const at::Tensor& x, const char* op);
cpu::Scalar scalar_of(at::ScalarType type);

// Throw, naming the argument, unless labels are whole numbers [n]; unless int64 labels are all in
// 0 ... num_classes - 1.
void check_labels(const at::Tensor& labels, int64_t num_classes, std::string_view name);
void check_label_range(const at::Tensor& labels, int64_t num_classes, std::string_view name);
std::string wrong_label_text(int64_t row, int64_t label, int64_t num_classes, std::string_view name);

// Counting sort of contiguous int64 labels [n] into order [>= n] and class_ptr [num_classes + 1];
// a label outside 0 ... num_classes - 1 throws, naming the argument, before anything is written.
void group_labels_into(const at::Tensor& labels, int64_t num_classes, const at::Tensor& order,
                       const at::Tensor& class_ptr, std::string_view name = "labels");

// Entries of a row of [n, ...], known also where n is 0.
c10::SymInt row_width(const at::Tensor& x);

// [n, ...] -> [n, d] whose rows are contiguous; copies only where the rows are not.
at::Tensor as_rows(const at::Tensor& x);

// Elements that are worth a thread of their own; ATen's own elementwise kernels use twice as many.
constexpr int64_t kElementsPerThread = 16384;

// What is kept of each unit: the step at which it was last open and last shut, in how many rows it is open.
struct UnitHistory {
  int32_t* last_open = nullptr;  // [width]
  int32_t* last_shut = nullptr;  // [width]
  int32_t step = 0;
  int32_t* open_rows = nullptr;  // [width]
};

// What the rows of each class of a batch add up to; it adds up over batches and processes, too. Class c has
// row c of each, `pitch` doubles apart.
struct BatchClassSums {
  double* feature = nullptr;   // in/out: [classes, width] unit rows of the feature
  double* gradient = nullptr;  // in/out: [classes, width] unit rows of the gradient
  double* open = nullptr;      // in/out: [classes, width] open gates
  // in/out: [classes] rows in each of these
  double *feature_rows = nullptr, *gradient_rows = nullptr, *rows = nullptr;
  int64_t pitch = 0;
};

// One batch of rows. `gradient` for jobs kPair and kReluBackward, `grad_in` for kReluBackward; all
// [n, d] with contiguous rows and of one dtype.
BatchSums measure(cpu::Job job, const at::Tensor& feature, const at::Tensor& gradient,
                  const at::Tensor& grad_in, const Grouping& groups, const UnitHistory& units,
                  const BatchClassSums& classes = {});

struct UnitCounts {
  int64_t dead;
  int64_t always_on;
};
BatchSums measure(cpu::Job job, const at::Tensor& feature, const Grouping& groups, UnitCounts* counts);

// Where the sums of the unit rows of each class are added to.
struct ClassSums {
  double* sums;     // in/out: [num_classes, d]
  double* lost;     // in/out: [num_classes, d] what the additions round away; may be null
  int64_t* counts;  // in/out: [num_classes, 3] rows that take part, zero rows, non-finite rows
};
BatchSums add_class_sums(const at::Tensor& rows, const Grouping& groups, const ClassSums& to);

}  // namespace tfc::ops
