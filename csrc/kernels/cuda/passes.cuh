// One batch on its way through the kernels: what each launcher needs to know.
#pragma once

#include "launchers.h"

namespace tfc::cuda {

struct Pass {
  const Batch& batch;
  const Plan& plan;
  char* workspace;
  bool aligned;  // every row of every tensor begins at a multiple of 16 bytes

  template <typename T>
  T* at(int64_t offset) const {
    return reinterpret_cast<T*>(workspace + offset);
  }
};

cudaError_t launch_row_scales(const Pass& pass, cudaStream_t stream);
cudaError_t launch_row_pass(const Pass& pass, const Results& results, cudaStream_t stream);
cudaError_t launch_column_pass(const Pass& pass, const Results& results, cudaStream_t stream);

}  // namespace tfc::cuda
