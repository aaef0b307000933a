// Through unit rows u = x / |x| to the rows x, on CUDA: what the gradients of cosines share.
#pragma once

#include "device.h"

namespace tfc::ops::on_cuda {

// Which w belongs to a row: row label[i] of the weights for the row at position i of the order. Without
// an order rows are taken as they lie; without labels each has its own. All on the device.
struct WeightOf {
  const int64_t* order = nullptr;
  const int32_t* label = nullptr;
  bool same_for_all = false;  // there is one w only
};

// dx = (w - u (u.w)) / |x|. x: [n, ...]; weights: [..., d] float32 or float64, contiguous -> of the shape and
// dtype of x, contiguous. A row that is zero or not finite gets zeros. One launch.
at::Tensor unit_row_gradient(const at::Tensor& x, const at::Tensor& weights, const WeightOf& weight_of);

}  // namespace tfc::ops::on_cuda
