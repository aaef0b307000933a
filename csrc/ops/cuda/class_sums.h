// Sums of the unit rows of each class over torch tensors, on CUDA. Nothing waits for the device.
#pragma once

#include <tuple>

#include "../../kernels/cuda/class_sums.h"
#include "measure.h"

namespace tfc::ops::on_cuda {

// Adds the rows [n, d], which are contiguous, to sums and lost [classes, d] float64 and counts [classes, 3]
// int64; `lost` may be undefined.
void add_class_sums(const at::Tensor& rows, const DeviceGroups& groups, at::Tensor& sums,
                    const at::Tensor& lost, at::Tensor& counts);

// sums and counts of one batch. Without labels there is one class.
std::tuple<at::Tensor, at::Tensor> class_sums(const at::Tensor& rows, const DeviceGroups& groups);

cuda::ClassSide class_side(const at::Tensor& sums, const at::Tensor& lost, const at::Tensor& counts);

// The same rows with no more classes than there are rows.
Grouping limit_classes(const Grouping& groups, int64_t rows);

}  // namespace tfc::ops::on_cuda
