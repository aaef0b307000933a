// cosine_matrix and autograd.
//
// With u_i the unit rows of x, v_j those of y and G the gradient with respect to the matrix, that with
// respect to u is G v; without y it is (G + G^T) u, less the diagonal, which is constant. The product
// is torch's own. A row that is zero or not finite neither has a gradient nor adds to another's, even
// where G is NaN.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>

#include "cosine_matrix.h"
#include "unit_row_gradient.h"
#include "unit_rows.h"

namespace tfc::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr const char* kOp = "cosine_matrix_backward";

}  // namespace

void check_cosine_matrix_backward(const Tensor& grad, const Tensor& x, const OptionalTensor& y) {
  check_input(x, kOp);
  const Tensor& other = y ? *y : x;
  const at::ScalarType type = cosine_type(x);
  TORCH_CHECK_VALUE(other.scalar_type() == x.scalar_type() && row_width(other) == row_width(x), kOp,
                    ": x and y must have rows of one length and one dtype, got ", x.sym_sizes(), " ",
                    x.scalar_type(), " and ", other.sym_sizes(), " ", other.scalar_type());
  TORCH_CHECK_VALUE(grad.scalar_type() == type && grad.dim() == 2 && grad.sym_size(0) == x.sym_size(0) &&
                        grad.sym_size(1) == other.sym_size(0),
                    kOp, ": grad must be a ", type, " tensor [", x.sym_size(0), ", ", other.sym_size(0),
                    "], got ", grad.scalar_type(), " ", grad.sym_sizes());
}

namespace {

template <typename Real>
void pack(const UnitRows& rows, Tensor& out) {
  const auto kernel = pack_rows<Real>(rows);
  const int64_t width = rows.kernel.width;
  Real* data = out.mutable_data_ptr<Real>();
  at::parallel_for(
      0, rows.count, std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, width)),
      [&](int64_t first, int64_t last) { kernel(rows.kernel, first, last, data + first * width, width); });
}

// The unit rows of x, and of which rows there are none; undefined when there is one of each.
struct Units {
  Tensor rows;     // [n, d] float32 or float64
  Tensor missing;  // [n] bool
};

Units pack_units(const Tensor& x, at::ScalarType type) {
  const Tensor rows = as_rows(x);
  const std::vector<cpu::UnitScale> scales = unit_scales(rows);
  Units units;
  units.rows = at::empty(rows.sizes(), type);
  if (type == at::kDouble) {
    pack<double>(unit_rows(rows, scales), units.rows);
  } else {
    pack<float>(unit_rows(rows, scales), units.rows);
  }
  const auto is_missing = [](const cpu::UnitScale& scale) { return !(scale.scale > 0); };
  if (std::none_of(scales.begin(), scales.end(), is_missing)) return units;
  units.missing = at::empty({rows.size(0)}, at::kBool);
  std::transform(scales.begin(), scales.end(), units.missing.mutable_data_ptr<bool>(), is_missing);
  return units;
}

Tensor backward_cpu(const Tensor& grad, const Tensor& x, const OptionalTensor& y) {
  check_cosine_matrix_backward(grad, x, y);
  // The products are those of the dtype given here, inside torch.autocast as well.
  const c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
  const Units units = pack_units(y ? *y : x, grad.scalar_type());
  Tensor weights = grad;
  if (!y) {
    weights = grad + grad.t();
    weights.fill_diagonal_(0);
  }
  if (units.missing.defined()) weights = weights.masked_fill(units.missing, 0);
  return unit_row_gradient(x, at::mm(weights, units.rows).contiguous(), {});
}

Tensor backward_meta(const Tensor& grad, const Tensor& x, const OptionalTensor& y) {
  check_cosine_matrix_backward(grad, x, y);
  return at::empty_like(x, x.options(), at::MemoryFormat::Contiguous);
}

// ---- autograd --------------------------------------------------------------------------------

// The same gradient in operations that autograd follows, for derivatives of it.
Tensor differentiable_backward(const Tensor& grad, const Tensor& x, const OptionalTensor& y) {
  const DifferentiableUnitRows left = differentiable_unit_rows(x);
  const DifferentiableUnitRows right = y ? differentiable_unit_rows(*y) : left;
  Tensor weights = grad.to(at::kDouble);
  // A row that has no cosines takes no part, not even where its weights are NaN.
  Tensor constant = right.valid.logical_not().t().logical_or(left.valid.logical_not());
  if (!y) {
    weights = weights + weights.t();
    constant = constant.logical_or(at::eye(x.size(0), x.options().dtype(at::kBool)));
  }
  return differentiable_gradient(left, at::mm(weights.masked_fill(constant, 0), right.units), x);
}

Tensor call_cosine_matrix(const Tensor& x, const OptionalTensor& y) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tfc_fast::cosine_matrix", "")
                             .typed<Tensor(const Tensor&, const OptionalTensor&)>();
  return op.call(x, y);
}

Tensor backward(const Tensor& grad, const Tensor& x, const OptionalTensor& y) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tfc_fast::cosine_matrix_backward", "")
                             .typed<decltype(backward_cpu)>();
  return at::GradMode::is_enabled() ? differentiable_backward(grad, x, y) : op.call(grad, x, y);
}

struct CosineMatrix : torch::autograd::Function<CosineMatrix> {
  using Context = torch::autograd::AutogradContext;
  using List = torch::autograd::variable_list;

  static Tensor forward(Context* ctx, const Tensor& x, const OptionalTensor& y) {
    ctx->save_for_backward({x, y.value_or(Tensor())});
    const at::AutoDispatchBelowADInplaceOrView below;
    return call_cosine_matrix(x, y);
  }

  static List backward(Context* ctx, const List& grads) {
    List out(2);
    if (!grads[0].defined()) return out;
    const List saved = ctx->get_saved_variables();
    const Tensor &x = saved[0], &y = saved[1];
    if (!y.defined()) {
      out[0] = ops::backward(grads[0], x, std::nullopt);
      return out;
    }
    if (ctx->needs_input_grad(0)) out[0] = ops::backward(grads[0], x, y);
    if (ctx->needs_input_grad(1)) out[1] = ops::backward(grads[0].t(), y, x);
    return out;
  }
};

Tensor cosine_matrix_autograd(const Tensor& x, const OptionalTensor& y) {
  check_no_tangent(x, "cosine_matrix");
  if (y) check_no_tangent(*y, "cosine_matrix");
  if ((x.requires_grad() || (y && y->requires_grad())) && at::GradMode::is_enabled()) {
    return CosineMatrix::apply(x, y);
  }
  const at::AutoDispatchBelowADInplaceOrView below;
  return call_cosine_matrix(x, y);
}

}  // namespace
}  // namespace tfc::ops

TORCH_LIBRARY_FRAGMENT(tfc_fast, m) {
  m.def("cosine_matrix_backward(Tensor grad, Tensor x, Tensor? y) -> Tensor");
}

TORCH_LIBRARY_IMPL(tfc_fast, CPU, m) { m.impl("cosine_matrix_backward", tfc::ops::backward_cpu); }

TORCH_LIBRARY_IMPL(tfc_fast, Meta, m) { m.impl("cosine_matrix_backward", tfc::ops::backward_meta); }

TORCH_LIBRARY_IMPL(tfc_fast, Autograd, m) { m.impl("cosine_matrix", tfc::ops::cosine_matrix_autograd); }
