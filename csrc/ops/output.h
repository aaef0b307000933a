// Results that go to memory of the caller.
#pragma once

#include <ATen/core/Tensor.h>

namespace tfc::ops {

// Throws unless `out` is [rows of x, rows of y], of that dtype and on the device of x.
void check_output(const char* op, const at::Tensor& out, at::ScalarType type, const at::Tensor& x,
                  const at::Tensor& y);

// Throws unless `out`, of two dimensions, is apart in memory from itself and from the input of that
// name. What cannot be shown to be apart is refused, too.
void check_memory(const char* op, const at::Tensor& out, const at::Tensor& input, const char* name);

// Lets autograd know that `out` no longer holds what it did.
void mark_written(const at::Tensor& out);

}  // namespace tfc::ops
