// The matrix of cosines of two batches of rows on CUDA, tile by tile, never holding more of it.
//
// The products are torch's (cuBLAS), in runs: one batched product gives the sums over runs of the entries of
// the rows, and the kernels of cosine_tile.h add those up without loss. float32 is summed in float32 over 64
// entries at a time: a thousand equal products, whose roundings all go one way, would be off by more than
// 1e-6 of their sum. bfloat16 and float16 rows are multiplied as they are, in runs of 128, by instructions
// whose sums are cut off rather than rounded. float64 takes 2048.
#pragma once

#include <functional>

#include "../../kernels/cuda/cosine_tile.h"
#include "../../kernels/cuda/unit_rows.h"
#include "device.h"

namespace tfc::ops::on_cuda {

// Rows in memory as the products want them: aligned, padded with zeros to whole runs.
struct ProductRows {
  at::Tensor rows;     // [at least count, pitch], a multiple of 8 rows
  at::Tensor factors;  // [the same] float64, see cuda::UnitRows
  int64_t count;
  int64_t run;  // entries whose products a library sums up; `pitch` is a multiple of it
};

// Memory for `count` rows of `width`, of that dtype.
ProductRows empty_product_rows(int64_t count, int64_t width, const at::TensorOptions& options);

// The unit rows of [n, d], in the order given, or as they lie: float32 for float32, float64 for float64, half
// precision times powers of two.
ProductRows unit_product_rows(const at::Tensor& rows, const int64_t* order);

// Calls visit(tile) for tiles in a fixed order, which depends on the sizes only. `triangle`: both are the
// same, and tiles below the diagonal are left out.
void for_each_tile(const ProductRows& left, const ProductRows& right, bool triangle,
                   const std::function<void(const cuda::CosineTile&)>& visit);

}  // namespace tfc::ops::on_cuda
