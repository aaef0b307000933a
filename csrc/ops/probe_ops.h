// The probe's ops, called through the dispatcher; arguments as in probe_ops.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>

#include "../kernels/statistics.h"

namespace tfc::ops {

constexpr int64_t kNonfiniteIndex = offsetof(BatchSums, nonfinite) / sizeof(double);

at::Tensor relu_probe(const at::Tensor& x, const at::Tensor& sites, const at::Tensor& units,
                      const at::Tensor& order, const at::Tensor& class_ptr, int64_t site);

// Overwrites x. Eager only: under torch.compile relu_probe is copied back into x.
at::Tensor relu_probe_inplace(at::Tensor x, const at::Tensor& sites, const at::Tensor& units,
                              const at::Tensor& order, const at::Tensor& class_ptr, int64_t site);

at::Tensor tap(const at::Tensor& x, const at::Tensor& sites, const at::Tensor& units, const at::Tensor& order,
               const at::Tensor& class_ptr, int64_t site);

}  // namespace tfc::ops
