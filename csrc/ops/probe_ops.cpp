// The ops that stand in a model: relu_probe in the place of ReLU, tap behind any other module.
//
// Forward they are ReLU and the identity. Backward they call relu_probe_backward / tap_backward,
// which add the batch's statistics to row `site` of `sites` (see statistics.h) as they read the
// gradient. Those are ops of their own, with the mutation in their schema, so that torch.compile
// traces through the autograd nodes below and keeps the calls.
//
// All state is on the device of the model. Kernels for others than the CPU: csrc/ops/cuda/probe_ops.cpp.
//
//   sites      float64 [1 + sites, kSiteDoubles]  row 0: StepHeader; row 1 + site: BatchSums
//   units      int32   [2, capacity]              step at which a unit was last open / last shut
//   order      int64   [>= n]                     rows sorted by class
//   class_ptr  int64   [classes + 1], or [0] when there are no labels
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/relu.h>
#include <ATen/ops/threshold_backward.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>
#include <torch/library.h>

#include <array>
#include <chrono>
#include <limits>

#include "../kernels/cpu/summary.h"
#include "batch_faults.h"
#include "measure.h"
#include "probe_ops.h"

namespace tfc::ops {
namespace {

using at::Tensor;

// ---- recording -------------------------------------------------------------------------------

class Clock {
 public:
  double nanoseconds() const {
    return static_cast<double>(
        std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start_)
            .count());
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

}  // namespace

void check_state(const Tensor& sites, const Tensor& units, int64_t site, const char* op) {
  TORCH_CHECK_VALUE(sites.scalar_type() == at::kDouble && sites.dim() == 2 && sites.size(1) == kSiteDoubles &&
                        sites.is_contiguous(),
                    op, ": sites must be a contiguous float64 tensor [1 + sites, ", kSiteDoubles, "], got ",
                    sites.scalar_type(), " ", sites.sizes());
  TORCH_CHECK_VALUE(
      units.scalar_type() == at::kInt && units.dim() == 2 && units.size(0) == 2 && units.is_contiguous(), op,
      ": units must be a contiguous int32 tensor [2, capacity], got ", units.scalar_type(), " ",
      units.sizes());
  TORCH_CHECK_INDEX(site >= 0 && site + 1 < sites.size(0), op, ": site ", site, " of ", sites.size(0) - 1);
}

void check_pair(const Tensor& grad, const Tensor& feature, const char* op) {
  TORCH_CHECK_VALUE(feature.dim() >= 1, op, ": a watched feature needs a batch dimension, got a scalar");
  TORCH_CHECK_VALUE(grad.sizes() == feature.sizes(), op, ": gradient ", grad.sizes(), " and feature ",
                    feature.sizes(), " differ in shape");
}

bool can_fuse(const Tensor& grad, const Tensor& result) {
  return grad.is_contiguous() && result.is_contiguous() && grad.scalar_type() == result.scalar_type() &&
         is_supported(result.scalar_type());
}

namespace {

// The state of one step as the kernels see it.
struct Recording {
  StepHeader& header;
  BatchSums& site;
  UnitHistory units;
};

// Places the site's units in the window buffer when it is seen for the first time. A site that finds
// no room is recorded without them; the recorder makes room between steps.
Recording open_recording(Tensor& sites, Tensor& units, int64_t site, int64_t width) {
  double* rows = sites.mutable_data_ptr<double>();
  Recording recording{*reinterpret_cast<StepHeader*>(rows),
                      *reinterpret_cast<BatchSums*>(rows + (1 + site) * kSiteDoubles),
                      {}};
  StepHeader& header = recording.header;
  BatchSums& sums = recording.site;
  TORCH_CHECK_VALUE(sums.units_begin < 0 || sums.width == width,
                    fault_text(BatchFault::kWidthChanged, site, static_cast<int64_t>(sums.width), width, 0));
  sums.width = static_cast<double>(width);
  const int64_t capacity = units.size(1);
  if (sums.units_begin < 0 && header.units_used + width <= capacity) {
    sums.units_begin = header.units_used;
    header.units_used += width;
  }
  const int64_t end = static_cast<int64_t>(sums.units_begin) + width;
  TORCH_CHECK_VALUE(sums.units_begin < 0 || end <= capacity,
                    fault_text(BatchFault::kUnitsBeyond, site, end, capacity, 0));
  if (sums.units_begin >= 0) {
    int32_t* last_open = units.mutable_data_ptr<int32_t>() + static_cast<int64_t>(sums.units_begin);
    recording.units = {last_open, last_open + capacity, static_cast<int32_t>(header.step)};
  }
  return recording;
}

bool is_enabled(const Tensor& sites) {
  return reinterpret_cast<const StepHeader*>(sites.const_data_ptr<double>())->enabled != 0;
}

void check_batch(const Recording& recording, const Grouping& groups, const Tensor& feature) {
  if (!groups.labelled()) return;
  const auto labels = static_cast<int64_t>(recording.header.batch_rows);
  TORCH_CHECK_VALUE(labels >= 0 && recording.site.last_batch != recording.header.batch,
                    fault_text(BatchFault::kLabelsMissing, 0, 0, 0, 0));
  TORCH_CHECK_VALUE(labels == feature.size(0),
                    fault_text(BatchFault::kLabelCount, 0, labels, feature.size(0), 0, feature.sizes()));
}

void record(cpu::Job job, const Tensor& grad, const Tensor& feature, Tensor grad_in, const Tensor& order,
            const Tensor& class_ptr, Tensor& sites, Tensor& units, int64_t site) {
  const Clock clock;
  const Grouping groups = grouping(order, class_ptr);
  const Tensor feature_rows = as_rows(feature);
  Recording recording = open_recording(sites, units, site, feature_rows.size(1));
  check_batch(recording, groups, feature);
  check_grouping(groups, feature, "probe");
  const Tensor grad_rows = as_rows(grad);
  const Tensor grad_in_rows = grad_in.defined() ? as_rows(grad_in) : grad_in;
  BatchSums batch = measure(job, feature_rows, grad_rows, grad_in_rows, groups, recording.units);
  batch.last_batch = recording.header.batch;
  batch.nanoseconds = clock.nanoseconds();
  accumulate(batch, recording.site);
}

// ---- kernels ---------------------------------------------------------------------------------

void tap_backward_cpu(const Tensor& grad, const Tensor& feature, const Tensor& order, const Tensor& class_ptr,
                      Tensor& sites, Tensor& units, int64_t site) {
  check_state(sites, units, site, "tap_backward");
  check_pair(grad, feature, "tap_backward");
  if (!is_enabled(sites) || !is_supported(feature.scalar_type())) return;
  const Tensor same = grad.scalar_type() == feature.scalar_type() ? grad : grad.to(feature.scalar_type());
  record(cpu::Job::kPair, same, feature, {}, order, class_ptr, sites, units, site);
}

Tensor relu_probe_backward_cpu(const Tensor& grad, const Tensor& result, const Tensor& order,
                               const Tensor& class_ptr, Tensor& sites, Tensor& units, int64_t site) {
  check_state(sites, units, site, "relu_probe_backward");
  check_pair(grad, result, "relu_probe_backward");
  if (!is_enabled(sites)) return at::threshold_backward(grad, result, 0);
  if (!can_fuse(grad, result)) {
    tap_backward_cpu(grad, result, order, class_ptr, sites, units, site);
    return at::threshold_backward(grad, result, 0);
  }
  Tensor grad_in = at::empty_like(grad, grad.options(), at::MemoryFormat::Contiguous);
  const double& nonfinite = sites.const_data_ptr<double>()[(1 + site) * kSiteDoubles + kNonfiniteIndex];
  const double nonfinite_before = nonfinite;
  record(cpu::Job::kReluBackward, grad, result, grad_in, order, class_ptr, sites, units, site);
  // In half precision ReLU's own backward rewrites the payload of a NaN; ours keeps it.
  const bool half = result.scalar_type() == at::kBFloat16 || result.scalar_type() == at::kHalf;
  if (half && nonfinite != nonfinite_before) return at::threshold_backward(grad, result, 0);
  return grad_in;
}

// Whether nobody but this node can ever look at `grad` again: then grad_in may take its memory, which
// saves an allocation (for large tensors with page faults at every step) and a stream of writes.
bool owns_alone(const Tensor& grad) {
  return grad.use_count() == 1 && grad.storage().use_count() == 1 && !grad.is_view();
}

bool relu_probe_backward_in_place_cpu(const Tensor& grad, const Tensor& result, const Tensor& order,
                                      const Tensor& class_ptr, Tensor& sites, Tensor& units, int64_t site) {
  const bool full = result.scalar_type() == at::kFloat || result.scalar_type() == at::kDouble;
  if (!full || !is_enabled(sites)) return false;
  record(cpu::Job::kReluBackward, grad, result, grad, order, class_ptr, sites, units, site);
  return true;
}

constinit std::array<BackwardInPlace, c10::COMPILE_TIME_MAX_DEVICE_TYPES> backward_in_place = {
    relu_probe_backward_in_place_cpu};
static_assert(static_cast<int>(c10::DeviceType::CPU) == 0);

// Whether the memory of `grad` has become grad_in; if not, nothing has happened.
bool relu_probe_backward_in_place(const Tensor& grad, const Tensor& result, const Tensor& order,
                                  const Tensor& class_ptr, Tensor& sites, Tensor& units, int64_t site) {
  if (at::isTensorSubclassLike(grad) || at::isTensorSubclassLike(result) ||
      c10::impl::TorchDispatchModeTLS::any_modes_set() || grad.device() != sites.device() ||
      result.device() != sites.device() || grad.sizes() != result.sizes() || result.dim() < 1 ||
      !can_fuse(grad, result) || !owns_alone(grad)) {
    return false;
  }
  const BackwardInPlace backward = backward_in_place[static_cast<size_t>(sites.device().type())];
  if (backward == nullptr) return false;
  check_state(sites, units, site, "relu_probe_backward");
  return backward(grad, result, order, class_ptr, sites, units, site);
}

Tensor relu_probe_forward(const Tensor& x, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                          int64_t) {
  return at::relu(x);
}

Tensor tap_forward(const Tensor& x, const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t) {
  return x.clone();
}

Tensor relu_probe_backward_meta(const Tensor& grad, const Tensor& result, const Tensor&, const Tensor&,
                                Tensor&, Tensor&, int64_t) {
  return at::threshold_backward(grad, result, 0);  // the same strides
}

void tap_backward_meta(const Tensor&, const Tensor&, const Tensor&, const Tensor&, Tensor&, Tensor&,
                       int64_t) {}

// ---- autograd --------------------------------------------------------------------------------

Tensor call_relu_probe_backward(const Tensor& grad, const Tensor& result, const Tensor& order,
                                const Tensor& class_ptr, Tensor& sites, Tensor& units, int64_t site) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tfc_fast::relu_probe_backward", "")
                             .typed<decltype(relu_probe_backward_cpu)>();
  return op.call(grad, result, order, class_ptr, sites, units, site);
}

void call_tap_backward(const Tensor& grad, const Tensor& feature, const Tensor& order,
                       const Tensor& class_ptr, Tensor& sites, Tensor& units, int64_t site) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tfc_fast::tap_backward", "")
                             .typed<decltype(tap_backward_cpu)>();
  op.call(grad, feature, order, class_ptr, sites, units, site);
}

// The probe's tensors, for one site. They ride in saved_data: they change between forward and
// backward, which the version check on saved variables would refuse. One object instead of five
// arguments, so that autograd does not take the tensors for inputs of the node.
struct State : torch::CustomClassHolder {
  State(const Tensor& sites_, const Tensor& units_, const Tensor& order_, const Tensor& class_ptr_,
        int64_t site_)
      : sites(sites_), units(units_), order(order_), class_ptr(class_ptr_), site(site_) {}
  Tensor sites, units, order, class_ptr;
  int64_t site;
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
  // and let `differentiable` give the gradient.
  template <typename Fused, typename Differentiable>
  static List backward(Context* ctx, const Tensor& grad, const Fused& fused,
                       const Differentiable& differentiable) {
    List grads(2);
    if (!grad.defined()) return grads;
    const Tensor feature = ctx->get_saved_variables()[0];
    const auto state = c10::static_intrusive_pointer_cast<State>(ctx->saved_data.at("state").toCapsule());
    if (at::GradMode::is_enabled()) {
      {
        at::NoGradGuard no_grad;
        call_tap_backward(grad.detach(), feature.detach(), state->order, state->class_ptr, state->sites,
                          state->units, state->site);
      }
      grads[0] = differentiable(grad, feature);
    } else {
      grads[0] =
          fused(grad, feature, state->order, state->class_ptr, state->sites, state->units, state->site);
    }
    return grads;
  }
};

Tensor relu_backward(const Tensor& grad, const Tensor& result) {
  return at::threshold_backward(grad, result, 0);
}
Tensor identity_backward(const Tensor& grad, const Tensor&) { return grad; }
Tensor record_identity(const Tensor& grad, const Tensor& feature, const Tensor& order,
                       const Tensor& class_ptr, Tensor& sites, Tensor& units, int64_t site) {
  call_tap_backward(grad, feature, order, class_ptr, sites, units, site);
  return grad;
}

Tensor fused_relu_backward(const Tensor& grad, const Tensor& result, const Tensor& order,
                           const Tensor& class_ptr, Tensor& sites, Tensor& units, int64_t site) {
  if (relu_probe_backward_in_place(grad, result, order, class_ptr, sites, units, site)) return grad;
  return call_relu_probe_backward(grad, result, order, class_ptr, sites, units, site);
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

Tensor relu_probe_autograd(const Tensor& x, const Tensor& sites, const Tensor& units, const Tensor& order,
                           const Tensor& class_ptr, int64_t site) {
  return ReluProbe::apply(x, c10::make_intrusive<State>(sites, units, order, class_ptr, site));
}

Tensor tap_autograd(const Tensor& x, const Tensor& sites, const Tensor& units, const Tensor& order,
                    const Tensor& class_ptr, int64_t site) {
  return Tap::apply(x, c10::make_intrusive<State>(sites, units, order, class_ptr, site));
}

}  // namespace

void register_backward_in_place(c10::DeviceType device, BackwardInPlace backward) {
  backward_in_place[static_cast<size_t>(device)] = backward;
}

Tensor relu_probe_inplace(Tensor x, const Tensor& sites, const Tensor& units, const Tensor& order,
                          const Tensor& class_ptr, int64_t site) {
  return InplaceReluProbe::apply(std::move(x),
                                 c10::make_intrusive<State>(sites, units, order, class_ptr, site));
}

Tensor relu_probe(const Tensor& x, const Tensor& sites, const Tensor& units, const Tensor& order,
                  const Tensor& class_ptr, int64_t site) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("tfc_fast::relu_probe", "")
                             .typed<decltype(relu_probe_forward)>();
  return op.call(x, sites, units, order, class_ptr, site);
}

Tensor tap(const Tensor& x, const Tensor& sites, const Tensor& units, const Tensor& order,
           const Tensor& class_ptr, int64_t site) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("tfc_fast::tap", "").typed<decltype(tap_forward)>();
  return op.call(x, sites, units, order, class_ptr, site);
}

}  // namespace tfc::ops

TORCH_LIBRARY_FRAGMENT(tfc_fast, m) {
  m.def(
      "relu_probe(Tensor x, Tensor sites, Tensor units, Tensor order, Tensor class_ptr, int site) -> Tensor");
  m.def(
      "relu_probe_backward(Tensor grad, Tensor result, Tensor order, Tensor class_ptr, Tensor(a!) sites, "
      "Tensor(b!) units, int site) -> Tensor");
  m.def("tap(Tensor x, Tensor sites, Tensor units, Tensor order, Tensor class_ptr, int site) -> Tensor");
  m.def(
      "tap_backward(Tensor grad, Tensor feature, Tensor order, Tensor class_ptr, Tensor(a!) sites, "
      "Tensor(b!) units, int site) -> ()");
}

TORCH_LIBRARY_IMPL(tfc_fast, CPU, m) {
  m.impl("relu_probe_backward", tfc::ops::relu_probe_backward_cpu);
  m.impl("tap_backward", tfc::ops::tap_backward_cpu);
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
