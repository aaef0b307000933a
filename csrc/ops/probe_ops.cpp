// The ops that stand in a model: relu_probe in the place of ReLU, tap behind any other module.
//
// Forward they are ReLU and the identity. Backward they call relu_probe_backward / tap_backward,
// which add the batch's statistics to row `site` of `sites` (see statistics.h) as they read the
// gradient. Those are ops of their own, with the mutation in their schema, so that torch.compile
// traces through the autograd nodes below and keeps the calls.
//
// All state is on the device of the model. The backward ops: probe_backward.cpp, for others than the CPU
// cuda/probe_ops.cpp.
//
//   sites      float64 [1 + sites, kSiteDoubles]  row 0: StepHeader; row 1 + site: BatchSums
//   units      int32   [2, capacity]              step at which a unit was last open / last shut
//   order      int64   [>= n]                     rows sorted by class
//   class_ptr  int64   [classes + 1], or [0] when there are no labels
//   reduction  a RowReduction: what the rows of the feature are
//   class_sums float64 [kClassPlanes * classes, sites + capacity], or none: what the rows of each class add
//              up to, for a probe of several processes (see ClassPlane)
//   mask       bool [n, ...], which positions of each sample are measured where positions are rows; [0]: all
#include <ATen/FuncTorchTLS.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/threshold_backward.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <utility>

#include "measure.h"
#include "probe_ops.h"
#include "row_reduction.h"

namespace tfc::ops {

using at::Tensor;

void check_state(const Site& site, const char* op) {
  const Tensor &sites = site.sites, &units = site.units;
  TORCH_CHECK_VALUE(sites.scalar_type() == at::kDouble && sites.dim() == 2 && sites.size(1) == kSiteDoubles &&
                        sites.is_contiguous(),
                    op, ": sites must be a contiguous float64 tensor [1 + sites, ", kSiteDoubles, "], got ",
                    sites.scalar_type(), " ", sites.sizes());
  TORCH_CHECK_VALUE(
      units.scalar_type() == at::kInt && units.dim() == 2 && units.size(0) == 2 && units.is_contiguous(), op,
      ": units must be a contiguous int32 tensor [2, capacity], got ", units.scalar_type(), " ",
      units.sizes());
  TORCH_CHECK_INDEX(site.index >= 0 && site.index + 1 < sites.size(0), op, ": site ", site.index, " of ",
                    sites.size(0) - 1);
  TORCH_CHECK_VALUE(
      !site.mask.has_value() || (site.mask->scalar_type() == at::kBool && site.mask->is_contiguous()), op,
      ": mask must be a contiguous bool tensor");
  if (!site.class_sums.has_value()) return;
  const Tensor& sums = *site.class_sums;
  const int64_t classes = std::max<int64_t>(1, site.class_ptr.numel() - 1);
  const int64_t columns = sites.size(0) - 1 + units.size(1);
  TORCH_CHECK_VALUE(sums.scalar_type() == at::kDouble && sums.dim() == 2 && sums.is_contiguous() &&
                        sums.size(0) == kClassPlanes * classes && sums.size(1) == columns,
                    op, ": class_sums must be a contiguous float64 tensor [", kClassPlanes * classes, ", ",
                    columns, "], got ", sums.scalar_type(), " ", sums.sizes());
}

RowReduction checked_reduction(const Tensor& grad, const Tensor& feature, const Site& site, const char* op) {
  check_state(site, op);
  TORCH_CHECK_VALUE(feature.dim() >= 1, op, ": a watched feature needs a batch dimension, got a scalar");
  TORCH_CHECK_VALUE(grad.sizes() == feature.sizes(), op, ": gradient ", grad.sizes(), " and feature ",
                    feature.sizes(), " differ in shape");
  return row_reduction(site.reduction, op);
}

bool can_fuse(const Tensor& grad, const Tensor& result, const Site& site, RowReduction reduction) {
  return rows_are_elements(result, reduction) && !is_masked(result, reduction, site.mask) &&
         grad.is_contiguous() && result.is_contiguous() && grad.scalar_type() == result.scalar_type() &&
         is_supported(result.scalar_type());
}

namespace {

// Whether nobody but this node can ever look at `grad` again: then grad_in may take its memory, which
// saves an allocation (for large tensors with page faults at every step) and a stream of writes.
bool owns_alone(const Tensor& grad) {
  return grad.use_count() == 1 && grad.storage().use_count() == 1 && !grad.is_view();
}

constinit std::array<BackwardInPlace, c10::COMPILE_TIME_MAX_DEVICE_TYPES> backward_in_place = {
    relu_probe_backward_in_place_cpu};
static_assert(static_cast<int>(c10::DeviceType::CPU) == 0);

// Whether the memory of `grad` has become grad_in; if not, nothing has happened.
bool relu_probe_backward_in_place(const Tensor& grad, const Tensor& result, const Site& site) {
  const RowReduction rows = row_reduction(site.reduction, "relu_probe_backward");
  const at::Device device = site.sites.device();
  if (at::isTensorSubclassLike(grad) || at::isTensorSubclassLike(result) ||
      c10::impl::TorchDispatchModeTLS::any_modes_set() || grad.device() != device ||
      result.device() != device || grad.sizes() != result.sizes() || result.dim() < 1 ||
      !can_fuse(grad, result, site, rows) || !owns_alone(grad)) {
    return false;
  }
  const BackwardInPlace backward = backward_in_place[static_cast<size_t>(device.type())];
  if (backward == nullptr) return false;
  check_state(site, "relu_probe_backward");
  return backward(grad, result, site, rows);
}

// Whether these are many gradients of the same rows at once (is_grads_batched=True of torch.autograd.grad).
bool is_batched(const Tensor& grad) {
  return grad.key_set().has_any(
      c10::DispatchKeySet{c10::DispatchKey::Batched, c10::DispatchKey::FuncTorchBatched});
}

using OptionalTensor = std::optional<Tensor>;

Tensor relu_probe_forward(const Tensor& x, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                          int64_t, int64_t, const OptionalTensor&, const OptionalTensor&) {
  return at::relu(x);
}

Tensor tap_forward(const Tensor& x, const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t,
                   int64_t, const OptionalTensor&, const OptionalTensor&) {
  return x.clone();
}

Tensor relu_probe_backward_meta(const Tensor& grad, const Tensor& result, const Tensor&, const Tensor&,
                                Tensor&, Tensor&, int64_t, int64_t, const OptionalTensor&,
                                const OptionalTensor&) {
  return at::threshold_backward(grad, result, 0);  // the same strides
}

void tap_backward_meta(const Tensor&, const Tensor&, const Tensor&, const Tensor&, Tensor&, Tensor&, int64_t,
                       int64_t, const OptionalTensor&, const OptionalTensor&) {}

// ---- autograd --------------------------------------------------------------------------------

Tensor call_relu_probe_backward(const Tensor& grad, const Tensor& result, Site& to) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tfc_fast::relu_probe_backward", "")
                             .typed<decltype(relu_probe_backward_meta)>();
  return op.call(grad, result, to.order, to.class_ptr, to.sites, to.units, to.index, to.reduction,
                 to.class_sums, to.mask);
}

void call_tap_backward(const Tensor& grad, const Tensor& feature, Site& to) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tfc_fast::tap_backward", "")
                             .typed<decltype(tap_backward_meta)>();
  op.call(grad, feature, to.order, to.class_ptr, to.sites, to.units, to.index, to.reduction, to.class_sums,
          to.mask);
}

// The probe's tensors, for one site. They ride in saved_data: they change between forward and
// backward, which the version check on saved variables would refuse. One object instead of six
// arguments, so that autograd does not take the tensors for inputs of the node.
struct State : torch::CustomClassHolder {
  explicit State(Site site_) : site(std::move(site_)) {}
  Site site;
  bool recorded = false;
};
using StatePtr = c10::intrusive_ptr<State>;

// The feature is a saved variable, as in ReLU itself, so that changing it in place before backward
// is the error that it always was.
struct Node {
  using Context = torch::autograd::AutogradContext;
  using List = torch::autograd::variable_list;

  static void save(Context* ctx, const Tensor& feature, const StatePtr& state) {
    ctx->save_for_backward({feature});
    ctx->saved_data["state"] = c10::IValue::make_capsule(state);
  }

  // With create_graph=True the gradient must itself be differentiable: record from detached tensors
  // and let `differentiable` give the gradient. A backward through the same graph once more, such as that of
  // a gradient penalty, brings another gradient of the same rows, which is not a batch of its own.
  template <typename Fused, typename Differentiable>
  static List backward(Context* ctx, const Tensor& grad, const Fused& fused,
                       const Differentiable& differentiable) {
    List grads(2);
    if (!grad.defined()) return grads;
    const Tensor feature = ctx->get_saved_variables()[0];
    const auto state = c10::static_intrusive_pointer_cast<State>(ctx->saved_data.at("state").toCapsule());
    if (is_batched(grad)) {
      grads[0] = differentiable(grad, feature);
      return grads;
    }
    if (state->recorded) {
      grads[0] = differentiable(grad, feature);
    } else if (at::GradMode::is_enabled()) {
      {
        at::NoGradGuard no_grad;
        call_tap_backward(grad.detach(), feature.detach(), state->site);
      }
      grads[0] = differentiable(grad, feature);
    } else {
      grads[0] = fused(grad, feature, state->site);
    }
    state->recorded = true;
    return grads;
  }
};

Tensor relu_backward(const Tensor& grad, const Tensor& result) {
  return at::threshold_backward(grad, result, 0);
}
Tensor identity_backward(const Tensor& grad, const Tensor&) { return grad; }
Tensor record_identity(const Tensor& grad, const Tensor& feature, Site& site) {
  call_tap_backward(grad, feature, site);
  return grad;
}

Tensor fused_relu_backward(const Tensor& grad, const Tensor& result, Site& site) {
  if (relu_probe_backward_in_place(grad, result, site)) return grad;
  return call_relu_probe_backward(grad, result, site);
}

struct ReluProbe : torch::autograd::Function<ReluProbe> {
  static Tensor forward(Node::Context* ctx, const Tensor& x, const StatePtr& state) {
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor result = at::relu(x);
    Node::save(ctx, result, state);
    return result;
  }
  static Node::List backward(Node::Context* ctx, const Node::List& grads) {
    return Node::backward(ctx, grads[0], fused_relu_backward, relu_backward);
  }
};

struct InplaceReluProbe : torch::autograd::Function<InplaceReluProbe> {
  static Tensor forward(Node::Context* ctx, Tensor x, const StatePtr& state) {
    at::AutoDispatchBelowADInplaceOrView below;
    at::relu_(x);
    x.unsafeGetTensorImpl()->bump_version();
    ctx->mark_dirty({x});
    Node::save(ctx, x, state);
    return x;
  }
  static Node::List backward(Node::Context* ctx, const Node::List& grads) {
    return Node::backward(ctx, grads[0], fused_relu_backward, relu_backward);
  }
};

struct Tap : torch::autograd::Function<Tap> {
  static Tensor forward(Node::Context* ctx, const Tensor& x, const StatePtr& state) {
    Node::save(ctx, x, state);
    at::AutoDispatchBelowADInplaceOrView below;
    Tensor out = x.view_as(x);
    // One version for both: what is done to `out` in place is noticed when `x` is needed again.
    torch::autograd::impl::set_version_counter(out, torch::autograd::impl::version_counter(x));
    return out;
  }
  static Node::List backward(Node::Context* ctx, const Node::List& grads) {
    return Node::backward(ctx, grads[0], record_identity, identity_backward);
  }
};

// Derivatives that only torch's own functions have; torch would say so in words about its insides.
void check_differentiation(const Tensor& x) {
  if (const auto& transforms = at::functorch::functorchTLSAccessor(); transforms != nullptr) {
    try {
      transforms->checkSupportsCppAutogradFunction();
    } catch (const c10::Error&) {
      TORCH_CHECK(false,
                  "a watched layer has no part in the transforms of torch.func (grad, vjp, vmap, jacrev); "
                  "detach the probe around them. torch.func.functional_call with backward() is watched");
    }
  }
  TORCH_CHECK(!x._fw_grad(/*level=*/0).defined(),
              "a watched layer has no forward-mode derivative (torch.autograd.forward_ad); detach the "
              "probe around it");
}

Tensor relu_probe_autograd(const Tensor& x, const Tensor& sites, const Tensor& units, const Tensor& order,
                           const Tensor& class_ptr, int64_t site, int64_t reduction,
                           const OptionalTensor& class_sums, const OptionalTensor& mask) {
  check_differentiation(x);
  return ReluProbe::apply(
      x, c10::make_intrusive<State>(Site{sites, units, order, class_ptr, class_sums, site, reduction, mask}));
}

Tensor tap_autograd(const Tensor& x, const Tensor& sites, const Tensor& units, const Tensor& order,
                    const Tensor& class_ptr, int64_t site, int64_t reduction,
                    const OptionalTensor& class_sums, const OptionalTensor& mask) {
  check_differentiation(x);
  return Tap::apply(
      x, c10::make_intrusive<State>(Site{sites, units, order, class_ptr, class_sums, site, reduction, mask}));
}

}  // namespace

void register_backward_in_place(c10::DeviceType device, BackwardInPlace backward) {
  backward_in_place[static_cast<size_t>(device)] = backward;
}

Tensor relu_probe_inplace(Tensor x, const Site& site) {
  check_differentiation(x);
  return InplaceReluProbe::apply(std::move(x), c10::make_intrusive<State>(site));
}

Tensor relu_probe(const Tensor& x, const Site& site) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tfc_fast::relu_probe", "")
                             .typed<decltype(relu_probe_forward)>();
  return op.call(x, site.sites, site.units, site.order, site.class_ptr, site.index, site.reduction,
                 site.class_sums, site.mask);
}

Tensor tap(const Tensor& x, const Site& site) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("tfc_fast::tap", "").typed<decltype(tap_forward)>();
  return op.call(x, site.sites, site.units, site.order, site.class_ptr, site.index, site.reduction,
                 site.class_sums, site.mask);
}

}  // namespace tfc::ops

TORCH_LIBRARY_FRAGMENT(tfc_fast, m) {
  m.def(
      "relu_probe(Tensor x, Tensor sites, Tensor units, Tensor order, Tensor class_ptr, int site, int "
      "reduction=0, Tensor? class_sums=None, Tensor? mask=None) -> Tensor");
  m.def(
      "relu_probe_backward(Tensor grad, Tensor result, Tensor order, Tensor class_ptr, Tensor(a!) sites, "
      "Tensor(b!) units, int site, int reduction=0, Tensor(c!)? class_sums=None, Tensor? mask=None) -> "
      "Tensor");
  m.def(
      "tap(Tensor x, Tensor sites, Tensor units, Tensor order, Tensor class_ptr, int site, int reduction=0, "
      "Tensor? class_sums=None, Tensor? mask=None) -> Tensor");
  m.def(
      "tap_backward(Tensor grad, Tensor feature, Tensor order, Tensor class_ptr, Tensor(a!) sites, "
      "Tensor(b!) units, int site, int reduction=0, Tensor(c!)? class_sums=None, Tensor? mask=None) -> ()");
}

TORCH_LIBRARY_IMPL(tfc_fast, Meta, m) {
  m.impl("relu_probe_backward", tfc::ops::relu_probe_backward_meta);
  m.impl("tap_backward", tfc::ops::tap_backward_meta);
}

// Forward needs nothing of ours on any device.
TORCH_LIBRARY_IMPL(tfc_fast, CompositeExplicitAutograd, m) {
  m.impl("relu_probe", tfc::ops::relu_probe_forward);
  m.impl("tap", tfc::ops::tap_forward);
}

TORCH_LIBRARY_IMPL(tfc_fast, Autograd, m) {
  m.impl("relu_probe", tfc::ops::relu_probe_autograd);
  m.impl("tap", tfc::ops::tap_autograd);
}
