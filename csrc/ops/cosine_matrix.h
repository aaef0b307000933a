// What cosine_matrix takes and gives, on any device.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace tfc::ops {

// Of the cosines of those rows.
at::ScalarType cosine_type(const at::Tensor& x);

// Throw, naming the argument, unless the op can work on it.
void check_cosine_matrix(const at::Tensor& x, const std::optional<at::Tensor>& y);
void check_cosine_matrix_backward(const at::Tensor& grad, const at::Tensor& x,
                                  const std::optional<at::Tensor>& y);

}  // namespace tfc::ops
