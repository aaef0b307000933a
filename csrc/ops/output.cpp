#include "output.h"

#include <ATen/MemoryOverlap.h>

namespace tfc::ops {

void check_output(const char* op, const at::Tensor& out, at::ScalarType type, const at::Tensor& x,
                  const at::Tensor& y) {
  TORCH_CHECK_TYPE(out.scalar_type() == type, op, ": out must be ", type, " for x of ", x.scalar_type(),
                   ", got ", out.scalar_type());
  TORCH_CHECK_VALUE(out.device() == x.device(), op, ": out must be on the device of x, ", x.device(),
                    ", got ", out.device());
  TORCH_CHECK_VALUE(out.dim() == 2 && out.sym_size(0) == x.sym_size(0) && out.sym_size(1) == y.sym_size(0),
                    op, ": out must have shape [", x.sym_size(0), ", ", y.sym_size(0), "], got ",
                    out.sym_sizes());
}

void check_memory(const char* op, const at::Tensor& out, const at::Tensor& input, const char* name) {
  TORCH_CHECK_VALUE(at::has_internal_overlap(out) != at::MemOverlap::Yes, op,
                    ": several entries of out share memory (an expanded tensor?); pass out.clone()");
  const auto status = at::get_overlap_status(out, input);
  TORCH_CHECK_VALUE(status != at::MemOverlapStatus::Partial && status != at::MemOverlapStatus::Full, op,
                    ": out shares memory with ", name);
}

}  // namespace tfc::ops
