// Through unit rows u = x / |x| to the rows x: what the gradients of cosines share.
//
// dx = (w - u (u.w)) / |x|, with w the gradient with respect to u. As an op of ours for a first
// derivative, and in torch's own, differentiable operations for those that follow.
#pragma once

#include <ATen/core/Tensor.h>

#include "measure.h"

namespace tfc::ops {

// Which w belongs to a row: row label[i] of the weights for the row at position i of the order. Without
// an order rows are taken as they lie; without labels each has its own.
struct WeightOf {
  const int64_t* order = nullptr;
  const int64_t* label = nullptr;
  bool same_for_all = false;  // there is one w only
};

// x: [n, ...]; weights: [..., d] float32 or float64, contiguous -> of the shape and dtype of x,
// contiguous. A row that is zero or not finite gets zeros.
at::Tensor unit_row_gradient(const at::Tensor& x, const at::Tensor& weights, const WeightOf& weight_of);

// Throws if `x` carries a tangent of forward-mode differentiation, which would be lost.
void check_no_tangent(const at::Tensor& x, const char* op);

// Unit rows in float64, for autograd to follow. A row that is zero or not finite gives zeros.
struct DifferentiableUnitRows {
  at::Tensor units;    // [n, d]
  at::Tensor lengths;  // [n, 1]
  at::Tensor valid;    // [n, 1] bool
};
DifferentiableUnitRows differentiable_unit_rows(const at::Tensor& x);

// The same gradient. weights: [n, d] float64.
at::Tensor differentiable_gradient(const DifferentiableUnitRows& rows, const at::Tensor& weights,
                                   const at::Tensor& x);

}  // namespace tfc::ops
