#include "cosine_tiles.h"

#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>

#include "../measure.h"
#include "library_products.h"

namespace tfc::ops::on_cuda {
namespace {

constexpr int64_t kRowStep = 8;  // so that the rows of a product are aligned
constexpr int64_t kScratchBytes = int64_t{1} << 26;
constexpr int64_t kMostRows = 4096;
constexpr int64_t kFewestRows = 256;  // unless memory forbids

int64_t rounded_up(int64_t value, int64_t step) { return (value + step - 1) / step * step; }

// Entries at a time (see the header); rows of more than a million are cut into longer runs, so that neither
// the batch of products nor what it takes to hold them grows without bound.
int64_t run_of(int64_t width, at::ScalarType type) {
  constexpr int64_t kMostRuns = 16384;
  int64_t run = type == at::kDouble ? 2048 : type == at::kFloat ? 64 : 128;
  while (width > kMostRuns * run) run *= 2;
  return std::clamp<int64_t>(rounded_up(width, kRowStep), kRowStep, run);
}

// Rows and columns of a tile, multiples of kTileStep. A triangle is cut into about eight bands of rows, so
// that little more than half of it is multiplied; a band is one tile where memory allows.
struct TileShape {
  int64_t rows, columns;
  TileShape(int64_t count, int64_t across, bool triangle, int64_t most_entries) {
    const int64_t band = triangle ? std::max(kFewestRows, (count + 7) / 8) : count;
    rows = rounded_up(std::clamp<int64_t>(band, 1, kMostRows), cuda::kTileStep);
    columns = rounded_up(std::max<int64_t>(1, across), cuda::kTileStep);
    if (rows * columns <= most_entries) return;
    const auto side = static_cast<int64_t>(std::sqrt(static_cast<double>(most_entries)));
    rows = std::min(rows, std::max(cuda::kTileStep, side / cuda::kTileStep * cuda::kTileStep));
    columns = std::max(cuda::kTileStep, most_entries / rows / cuda::kTileStep * cuda::kTileStep);
  }
};

// pieces[p] = left right^T over run p of the entries.
void multiply(const at::Tensor& left, const at::Tensor& right, int64_t run, at::Tensor& pieces) {
  const int64_t pitch = left.size(1);
  const int64_t runs = pitch / run;
  const at::Tensor a = left.as_strided({runs, left.size(0), run}, {run, pitch, 1});
  const at::Tensor b = right.as_strided({runs, run, right.size(0)}, {run, 1, pitch});
  if (left.scalar_type() == pieces.scalar_type()) {
    at::bmm_out(pieces, a, b);
    return;
  }
#ifdef TFC_CUDA_EMULATION
  at::bmm_out(pieces, a.to(at::kFloat), b.to(at::kFloat));  // torch gives float for half on CUDA only
#else
  at::bmm_out(pieces, a, b, at::kFloat);
#endif
}

}  // namespace

ProductRows empty_product_rows(int64_t count, int64_t width, const at::TensorOptions& options) {
  const int64_t run = run_of(width, c10::typeMetaToScalarType(options.dtype()));
  const int64_t padded = rounded_up(count, kRowStep);
  return {at::empty({padded, rounded_up(std::max<int64_t>(1, width), run)}, options),
          at::empty({padded}, options.dtype(at::kDouble)), count, run};
}

ProductRows unit_product_rows(const at::Tensor& rows, const int64_t* order) {
  ProductRows product = empty_product_rows(rows.size(0), rows.size(1), rows.options());
  cuda::UnitRows kernel{};
  kernel.scalar = scalar_of(rows.scalar_type());
  kernel.rows = rows.const_data_ptr();
  kernel.stride = rows.stride(0);
  kernel.n = rows.size(0);
  kernel.width = rows.size(1);
  kernel.order = order;
  kernel.form = kernel.scalar == Scalar::kFloat64   ? cuda::UnitForm::kDouble
                : kernel.scalar == Scalar::kFloat32 ? cuda::UnitForm::kFloat
                                                    : cuda::UnitForm::kPowerOfTwo;
  kernel.out = product.rows.mutable_data_ptr();
  kernel.padded_rows = product.rows.size(0);
  kernel.pitch = product.rows.size(1);
  kernel.factors = product.factors.mutable_data_ptr<double>();
  check(cuda::unit_rows(kernel, current_stream()), "unit_rows");
  return product;
}

void for_each_tile(const ProductRows& left, const ProductRows& right, bool triangle,
                   const std::function<void(const cuda::CosineTile&)>& visit) {
  if (left.count == 0 || right.count == 0) return;
  const LibraryProducts products;
  const at::ScalarType type = left.rows.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t runs = left.rows.size(1) / left.run;
  const int64_t entry_bytes = type == at::kDouble ? 8 : 4;
  const TileShape shape(left.count, right.count, triangle, kScratchBytes / entry_bytes / runs);
  const int64_t most_rows = std::min(shape.rows, left.count);
  const int64_t most_columns = std::min(shape.columns, right.rows.size(0));
  const at::Tensor scratch = at::empty({runs * most_rows * most_columns}, left.rows.options().dtype(type));
  for (int64_t row = 0; row < left.count; row += shape.rows) {
    const int64_t rows = std::min(shape.rows, left.count - row);
    for (int64_t column = triangle ? row : 0; column < right.count; column += shape.columns) {
      const int64_t padded = std::min(shape.columns, right.rows.size(0) - column);
      at::Tensor pieces = scratch.narrow(0, 0, runs * rows * padded).view({runs, rows, padded});
      multiply(left.rows.narrow(0, row, rows), right.rows.narrow(0, column, padded), left.run, pieces);
      cuda::CosineTile tile{};
      tile.is_double = type == at::kDouble;
      tile.pieces = pieces.const_data_ptr();
      tile.count = runs;
      tile.rows = rows;
      tile.columns = std::min(padded, right.count - column);
      tile.stride = padded;
      tile.row = row;
      tile.column = column;
      tile.triangle = triangle;
      tile.row_factors = left.factors.const_data_ptr<double>();
      tile.column_factors = right.factors.const_data_ptr<double>();
      visit(tile);
    }
  }
}

}  // namespace tfc::ops::on_cuda
