// Around products of torch's own: they are those of the dtype given, whatever autocast or
// torch.set_float32_matmul_precision allow, and autograd does not see them.
#pragma once

#include <ATen/Context.h>
#include <ATen/core/LegacyTypeDispatch.h>

namespace tfc::ops::on_cuda {

struct LibraryProducts {
  at::NoTF32Guard no_tf32;
  c10::impl::ExcludeDispatchKeyGuard no_autocast{c10::autocast_dispatch_keyset};
  at::AutoDispatchBelowADInplaceOrView no_autograd;
};

}  // namespace tfc::ops::on_cuda
