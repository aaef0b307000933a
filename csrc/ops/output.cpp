#include "output.h"

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

namespace {

struct Bytes {
  const char* begin;
  const char* end;
};

Bytes bytes_of(const at::Tensor& x) {
  const auto* begin = static_cast<const char*>(x.const_data_ptr());
  int64_t last = 0;
  for (int64_t i = 0; i < x.dim(); ++i) last += (x.size(i) - 1) * x.stride(i);
  return {begin, begin + (last + 1) * x.element_size()};
}

bool entries_are_apart(const at::Tensor& x) {
  const int inner = x.stride(0) < x.stride(1) ? 0 : 1;
  const int64_t extent = (x.size(inner) - 1) * x.stride(inner);
  return (x.size(inner) == 1 || x.stride(inner) > 0) &&
         (x.size(1 - inner) == 1 || x.stride(1 - inner) > extent);
}

// Rows of both that lie beside each other in the rows of one larger matrix.
bool lie_beside_each_other(const at::Tensor& a, const at::Tensor& b) {
  const auto has_rows = [](const at::Tensor& x) { return x.dim() == 2 && x.stride(1) == 1; };
  if (!has_rows(a) || !has_rows(b)) return false;
  const int64_t row = a.stride(0) * a.element_size();
  if (row <= 0 || row != b.stride(0) * b.element_size()) return false;
  const int64_t offset = bytes_of(b).begin - bytes_of(a).begin;
  const int64_t in_row = ((offset % row) + row) % row;
  return in_row >= a.size(1) * a.element_size() && in_row + b.size(1) * b.element_size() <= row;
}

}  // namespace

void check_memory(const char* op, const at::Tensor& out, const at::Tensor& input, const char* name) {
  if (out.numel() == 0) return;
  TORCH_CHECK_VALUE(entries_are_apart(out), op,
                    ": several entries of out share memory (an expanded tensor?); pass out.clone()");
  if (input.numel() == 0) return;
  // By address: tensors of one numpy array have storages of their own.
  const Bytes a = bytes_of(out);
  const Bytes b = bytes_of(input);
  TORCH_CHECK_VALUE(a.end <= b.begin || b.end <= a.begin || lie_beside_each_other(out, input), op,
                    ": out shares memory with ", name, ", or lies between its entries; pass another out, or ",
                    name, ".clone()");
}

void mark_written(const at::Tensor& out) {
  if (!out.is_inference()) out.unsafeGetTensorImpl()->bump_version();
}

}  // namespace tfc::ops
