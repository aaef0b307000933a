// Classes of rows in torch's own operations, on any device and without waiting for it.
#pragma once

#include <ATen/core/Tensor.h>

#include <utility>
#include <vector>

namespace tfc::ops {

// class_ptr: [num_classes + 1] -> [rows] int64, the class of the row at each position of the order.
at::Tensor classes_in_order(const at::Tensor& class_ptr, int64_t rows);

// Of one or more batches, each class_ptr and the number of rows it covers: class_ptrs of the classes that any
// of the batches has rows of, numbered anew in the same order. There are as many classes as rows in all, or
// one if there are none; what is left of them at the end is empty. So work and memory depend on the rows
// alone, however many classes there are.
std::vector<at::Tensor> compact_class_ptrs(const std::vector<std::pair<at::Tensor, int64_t>>& batches);

}  // namespace tfc::ops
