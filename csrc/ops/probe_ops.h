// The probe's ops, called through the dispatcher, and what they share between devices; arguments as in
// probe_ops.cpp.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <optional>

#include "../kernels/statistics.h"

namespace tfc::ops {

// What the rows of a feature are that are compared; [n] and [n, d] are rows in any case.
enum class RowReduction : int64_t {
  kFlatten,  // [n, ...] -> [n, d]: a sample with all its elements
  kPool,     // [n, C, ...] -> [n, C]: a sample's mean over all positions
  kTokens    // [n, ..., d] -> [n * positions, d]: each position of each sample
};
constexpr std::array<const char*, 3> kRowReductionNames = {"flatten", "pool", "tokens"};

// Where one site is recorded, as the ops are given it.
struct Site {
  at::Tensor sites, units, order, class_ptr;
  std::optional<at::Tensor> class_sums;
  int64_t index;
  int64_t reduction;
  std::optional<at::Tensor> mask;
};

// Throw, naming the op.
void check_state(const Site& site, const char* op);
// All that a backward op is given.
RowReduction checked_reduction(const at::Tensor& grad, const at::Tensor& feature, const Site& site,
                               const char* op);

// Planes of `class_sums`, each of as many rows as there are classes (one without labels). Column i of the
// first ones has the number of rows that site i has in the plane; then come the units, as in `units`.
enum ClassPlane : int { kFeaturePlane, kGradientPlane, kOpenPlane, kClassPlanes };

// Whether one kernel can record the batch and write grad_in. Other layouts (channels last, expanded
// gradients) keep the strides that ReLU's own backward would give, so that what is computed from grad_in
// next is bit for bit the same. Nor can it where the rows are means, or a mask leaves some out.
bool can_fuse(const at::Tensor& grad, const at::Tensor& result, const Site& site, RowReduction reduction);

// Backward of relu_probe that writes grad_in into the memory of `grad`, of which nobody else knows; false:
// not for this batch, and nothing has happened. One per type of device; without one, the op makes a new
// tensor.
using BackwardInPlace = bool (*)(const at::Tensor& grad, const at::Tensor& result, const Site& site,
                                 RowReduction reduction);
void register_backward_in_place(c10::DeviceType device, BackwardInPlace backward);

bool relu_probe_backward_in_place_cpu(const at::Tensor& grad, const at::Tensor& result, const Site& site,
                                      RowReduction reduction);

at::Tensor relu_probe(const at::Tensor& x, const Site& site);

// Overwrites x. Eager only: under torch.compile relu_probe is copied back into x.
at::Tensor relu_probe_inplace(at::Tensor x, const Site& site);

at::Tensor tap(const at::Tensor& x, const Site& site);

}  // namespace tfc::ops
