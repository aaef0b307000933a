// What the ops for all devices ask of the gradient with respect to mean_cosine.
#pragma once

#include <ATen/core/Tensor.h>

namespace tfc::ops {

// Throws unless `grad` is a float64 tensor [6], one number for each that mean_cosine gives.
void check_mean_cosine_grad(const at::Tensor& grad);

}  // namespace tfc::ops
