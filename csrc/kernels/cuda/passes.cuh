// One batch on its way through the kernels: what each launcher needs to know.
#pragma once

#include "launchers.h"

namespace tfc::cuda {

// A part of a workspace.
template <typename T>
T* part_at(const OpenBatch& open, int64_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(open.workspace) + offset);
}

// `aligned`: every row of every tensor begins at a multiple of 16 bytes.
cudaError_t launch_row_scales(const Batch& batch, const OpenBatch& open, bool aligned, cudaStream_t stream);
cudaError_t launch_row_pass(const Batch& batch, const OpenBatch& open, bool aligned, cudaStream_t stream);

}  // namespace tfc::cuda
