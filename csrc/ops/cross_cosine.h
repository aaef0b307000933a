// What the ops for all devices ask of two batches.
#pragma once

#include <ATen/core/Tensor.h>

namespace tfc::ops {

// Throws unless x and y are batches of rows of one length, on one device.
void check_crossed(const at::Tensor& x, const at::Tensor& y);
// Throws unless, besides, y has as many rows as x and its dtype.
void check_paired(const at::Tensor& x, const at::Tensor& y);

}  // namespace tfc::ops
