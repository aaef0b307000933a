// mean_cosine and autograd.
//
// With S_c the sum of the unit rows u_i of class c, S that of all, and P the ordered pairs of each
// kind, the gradient with respect to u_i of a row of class c is
//   w_c = g_all 2 S / P_all + g_within 2 S_c / P_within + g_between 2 (S - S_c) / P_between
// so that the backward is O(n d), too. It sums up the classes again instead of keeping the forward's
// sums: those are [num_classes, d] doubles, more than the batch itself when classes are many. A mean
// over no pairs is a constant, NaN, and has no gradient.
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <algorithm>
#include <vector>

#include "class_labels.h"
#include "mean_cosine_gradient.h"
#include "unit_row_gradient.h"

namespace tfc::ops {
namespace {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr const char* kOp = "mean_cosine_backward";

// The same rows without the classes that have none, so that work and memory depend on the batch alone.
Grouping without_empty_classes(const Grouping& groups) {
  if (!groups.labelled()) return groups;
  const int64_t* begin = groups.class_ptr.const_data_ptr<int64_t>();
  std::vector<int64_t> kept(1, 0);
  for (int64_t c = 1; c < groups.class_ptr.numel(); ++c) {
    if (begin[c] > kept.back()) kept.push_back(begin[c]);
  }
  if (kept.size() == 1) return {groups.order, groups.class_ptr};  // no rows at all
  Tensor class_ptr = at::empty({static_cast<int64_t>(kept.size())}, at::kLong);
  std::copy(kept.begin(), kept.end(), class_ptr.mutable_data_ptr<int64_t>());
  return {groups.order, class_ptr};
}

int64_t num_classes(const Grouping& groups) { return groups.labelled() ? groups.class_ptr.numel() - 1 : 1; }

// Class of each position of the order.
std::vector<int64_t> labels_in_order(const Grouping& groups) {
  std::vector<int64_t> label;
  const int64_t* begin = groups.class_ptr.const_data_ptr<int64_t>();
  for (int64_t c = 0; c < num_classes(groups); ++c) label.resize(static_cast<size_t>(begin[c + 1]), c);
  return label;
}

// w_c = total S + own S_c
template <typename Number>
struct Factors {
  Number total;
  Number own;
};

double per_pair(double grad, double pairs) { return pairs > 0 ? 2 * grad / pairs : 0; }
Tensor per_pair(const Tensor& grad, const Tensor& pairs) {
  return at::where(pairs > 0, 2 * grad / pairs.clamp_min(1), at::zeros_like(pairs));
}

template <typename Number>
Factors<Number> factors(const Number& all, const Number& within, const Number& between,
                        const Number& all_pairs, const Number& within_pairs, bool labelled) {
  const Number of_all = per_pair(all, all_pairs);
  if (!labelled) return {of_all, of_all * 0};
  const Number of_between = per_pair(between, all_pairs - within_pairs);
  return {of_all + of_between, per_pair(within, within_pairs) - of_between};
}

// sums: in: S_c; out: w_c; [classes, width].
void sums_to_weights(double* sums, int64_t classes, int64_t width, const Factors<double>& by) {
  constexpr int64_t kStrip = 256;
  const int64_t strips = (width + kStrip - 1) / kStrip;
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / (classes * kStrip));
  at::parallel_for(0, strips, grain, [&](int64_t first_strip, int64_t last_strip) {
    for (int64_t strip = first_strip; strip < last_strip; ++strip) {
      const int64_t begin = strip * kStrip;
      const int64_t count = std::min(kStrip, width - begin);
      double total[kStrip] = {};
      for (int64_t c = 0; c < classes; ++c) {
        const double* of_class = sums + c * width + begin;
        for (int64_t j = 0; j < count; ++j) total[j] += of_class[j];
      }
      for (int64_t j = 0; j < count; ++j) total[j] *= by.total;
      for (int64_t c = 0; c < classes; ++c) {
        double* of_class = sums + c * width + begin;
        for (int64_t j = 0; j < count; ++j) of_class[j] = total[j] + by.own * of_class[j];
      }
    }
  });
}

Tensor backward_cpu(const Tensor& grad, const Tensor& x, const OptionalTensor& order,
                    const OptionalTensor& class_ptr) {
  check_input(x, kOp);
  check_mean_cosine_grad(grad);
  const Grouping groups = without_empty_classes(optional_grouping(order, class_ptr, x, kOp));
  const int64_t classes = num_classes(groups);
  const Tensor rows = as_rows(x);
  Tensor weights = at::zeros({classes, rows.size(1)}, at::kDouble);
  std::vector<int64_t> counts(static_cast<size_t>(3 * classes));
  double* sums = weights.mutable_data_ptr<double>();
  const CosineSums found = add_class_sums(rows, groups, {sums, nullptr, counts.data()}).feature;
  const Tensor means = grad.contiguous();
  const double* g = means.const_data_ptr<double>();
  sums_to_weights(sums, classes, rows.size(1),
                  factors<double>(g[0], g[1], g[2], found.all_pairs, found.within_pairs, groups.labelled()));
  if (!groups.labelled()) return unit_row_gradient(x, weights, {nullptr, nullptr, true});
  const std::vector<int64_t> label = labels_in_order(groups);
  return unit_row_gradient(x, weights, {groups.order.const_data_ptr<int64_t>(), label.data(), false});
}

Tensor backward_meta(const Tensor& grad, const Tensor& x, const OptionalTensor&, const OptionalTensor&) {
  check_mean_cosine_grad(grad);
  return at::empty_like(x, x.options(), at::MemoryFormat::Contiguous);
}

// ---- autograd --------------------------------------------------------------------------------

// The same gradient in operations that autograd follows, for derivatives of it, on any device. Rows are added
// to their class by index_put: index_add is not deterministic on CUDA.
Tensor differentiable_backward(const Tensor& grad, const Tensor& x, const Grouping& groups) {
  const int64_t n = x.size(0);
  Tensor label = at::zeros({n}, x.options().dtype(at::kLong));
  int64_t classes = 1;
  if (groups.labelled()) {
    Tensor class_ptr = groups.class_ptr;
    if (class_ptr.numel() - 1 > n) class_ptr = compact_class_ptrs({{class_ptr, n}})[0];
    classes = class_ptr.numel() - 1;
    label.index_copy_(0, groups.order.slice(0, 0, n), classes_in_order(class_ptr, n));
  }
  const c10::List<OptionalTensor> of_class({label});
  const auto sums_by_class = [&](const Tensor& values) {
    return at::zeros({classes, values.size(1)}, values.options()).index_put(of_class, values, true);
  };
  const DifferentiableUnitRows rows = differentiable_unit_rows(x);
  const Tensor class_rows = sums_by_class(rows.valid.to(at::kDouble));
  const Tensor valid_rows = class_rows.sum();
  const Tensor sums = sums_by_class(rows.units);
  const Factors<Tensor> by = factors<Tensor>(grad[0], grad[1], grad[2], valid_rows * (valid_rows - 1),
                                             (class_rows * (class_rows - 1)).sum(), groups.labelled());
  const Tensor weights = by.total * sums.sum(0, /*keepdim=*/true) + by.own * sums;
  return differentiable_gradient(rows, weights.index(of_class), x);
}

Tensor call_mean_cosine(const Tensor& x, const OptionalTensor& order, const OptionalTensor& class_ptr) {
  using Signature = Tensor(const Tensor&, const OptionalTensor&, const OptionalTensor&);
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("tfc_fast::mean_cosine", "").typed<Signature>();
  return op.call(x, order, class_ptr);
}

Tensor call_backward(const Tensor& grad, const Tensor& x, const OptionalTensor& order,
                     const OptionalTensor& class_ptr) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tfc_fast::mean_cosine_backward", "")
                             .typed<decltype(backward_cpu)>();
  return op.call(grad, x, order, class_ptr);
}

struct MeanCosine : torch::autograd::Function<MeanCosine> {
  using Context = torch::autograd::AutogradContext;
  using List = torch::autograd::variable_list;

  static Tensor forward(Context* ctx, const Tensor& x, const OptionalTensor& order,
                        const OptionalTensor& class_ptr) {
    ctx->save_for_backward({x, order.value_or(Tensor()), class_ptr.value_or(Tensor())});
    const at::AutoDispatchBelowADInplaceOrView below;
    return call_mean_cosine(x, order, class_ptr);
  }

  static List backward(Context* ctx, const List& grads) {
    if (!grads[0].defined()) return List(3);
    const List saved = ctx->get_saved_variables();
    const bool labelled = saved[1].defined();
    if (at::GradMode::is_enabled()) {
      const Grouping groups = labelled ? Grouping{saved[1], saved[2]} : Grouping{};
      return {differentiable_backward(grads[0], saved[0], groups), Tensor(), Tensor()};
    }
    const OptionalTensor order = labelled ? OptionalTensor(saved[1]) : std::nullopt;
    const OptionalTensor class_ptr = labelled ? OptionalTensor(saved[2]) : std::nullopt;
    return {call_backward(grads[0], saved[0], order, class_ptr), Tensor(), Tensor()};
  }
};

Tensor mean_cosine_autograd(const Tensor& x, const OptionalTensor& order, const OptionalTensor& class_ptr) {
  check_no_tangent(x, "mean_cosine");
  if (x.requires_grad() && at::GradMode::is_enabled()) return MeanCosine::apply(x, order, class_ptr);
  const at::AutoDispatchBelowADInplaceOrView below;
  return call_mean_cosine(x, order, class_ptr);
}

}  // namespace

void check_mean_cosine_grad(const Tensor& grad) {
  TORCH_CHECK_VALUE(grad.scalar_type() == at::kDouble && grad.dim() == 1 && grad.sym_size(0) == 6, kOp,
                    ": grad must be a float64 tensor [6], got ", grad.scalar_type(), " ", grad.sym_sizes());
}

}  // namespace tfc::ops

TORCH_LIBRARY_FRAGMENT(tfc_fast, m) {
  m.def("mean_cosine_backward(Tensor grad, Tensor x, Tensor? order, Tensor? class_ptr) -> Tensor");
}

TORCH_LIBRARY_IMPL(tfc_fast, CPU, m) { m.impl("mean_cosine_backward", tfc::ops::backward_cpu); }

TORCH_LIBRARY_IMPL(tfc_fast, Meta, m) { m.impl("mean_cosine_backward", tfc::ops::backward_meta); }

TORCH_LIBRARY_IMPL(tfc_fast, Autograd, m) { m.impl("mean_cosine", tfc::ops::mean_cosine_autograd); }
