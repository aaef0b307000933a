// Results that go to memory of the caller.
#pragma once

#include <ATen/core/Tensor.h>

namespace tfc::ops {

// Throws unless `out` is [rows of x, rows of y], of that dtype and on the device of x.
void check_output(const char* op, const at::Tensor& out, at::ScalarType type, const at::Tensor& x,
                  const at::Tensor& y);

// Throws if `out` shares memory with itself or with the input of that name.
void check_memory(const char* op, const at::Tensor& out, const at::Tensor& input, const char* name);

}  // namespace tfc::ops
