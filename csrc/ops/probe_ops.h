// The probe's ops, called through the dispatcher, and what they share between devices; arguments as in
// probe_ops.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstddef>

#include "../kernels/statistics.h"

namespace tfc::ops {

constexpr int64_t kNonfiniteIndex = offsetof(BatchSums, nonfinite) / sizeof(double);

// What the rows of a feature are that are compared; [n] and [n, d] are rows in any case.
enum class RowReduction : int64_t {
  kFlatten,  // [n, ...] -> [n, d]: a sample with all its elements
  kPool,     // [n, C, ...] -> [n, C]: a sample's mean over all positions
  kTokens    // [n, ..., d] -> [n * positions, d]: each position of each sample
};
constexpr std::array<const char*, 3> kRowReductionNames = {"flatten", "pool", "tokens"};

// Throw, naming the op.
void check_state(const at::Tensor& sites, const at::Tensor& units, int64_t site, const char* op);
// All that a backward op is given.
RowReduction checked_reduction(const at::Tensor& grad, const at::Tensor& feature, const at::Tensor& sites,
                               const at::Tensor& units, int64_t site, int64_t reduction, const char* op);

// Whether one kernel can record the batch and write grad_in. Other layouts (channels last, expanded
// gradients) keep the strides that ReLU's own backward would give, so that what is computed from grad_in
// next is bit for bit the same. Nor can it where the rows are means.
bool can_fuse(const at::Tensor& grad, const at::Tensor& result, RowReduction reduction);

// Backward of relu_probe that writes grad_in into the memory of `grad`, of which nobody else knows; false:
// not for this batch, and nothing has happened. One per type of device; without one, the op makes a new
// tensor.
using BackwardInPlace = bool (*)(const at::Tensor& grad, const at::Tensor& result, const at::Tensor& order,
                                 const at::Tensor& class_ptr, at::Tensor& sites, at::Tensor& units,
                                 int64_t site, RowReduction reduction);
void register_backward_in_place(c10::DeviceType device, BackwardInPlace backward);

bool relu_probe_backward_in_place_cpu(const at::Tensor& grad, const at::Tensor& result,
                                      const at::Tensor& order, const at::Tensor& class_ptr, at::Tensor& sites,
                                      at::Tensor& units, int64_t site, RowReduction reduction);

at::Tensor relu_probe(const at::Tensor& x, const at::Tensor& sites, const at::Tensor& units,
                      const at::Tensor& order, const at::Tensor& class_ptr, int64_t site, int64_t reduction);

// Overwrites x. Eager only: under torch.compile relu_probe is copied back into x.
at::Tensor relu_probe_inplace(at::Tensor x, const at::Tensor& sites, const at::Tensor& units,
                              const at::Tensor& order, const at::Tensor& class_ptr, int64_t site,
                              int64_t reduction);

at::Tensor tap(const at::Tensor& x, const at::Tensor& sites, const at::Tensor& units, const at::Tensor& order,
               const at::Tensor& class_ptr, int64_t site, int64_t reduction);

}  // namespace tfc::ops
