#include "tiles.h"

#include <cmath>
#include <type_traits>

#include "../kernels/cpu/dispatch.h"

namespace tfc::ops {
namespace {

constexpr int64_t kSmallestSide = 64;

// About four tiles per side, or as many of the largest as there are: enough tasks for a few threads
// when the matrix is small, and little packing when it is large. All tiles of about one size.
int64_t side_of(int64_t count, int64_t largest) {
  const int64_t wanted = std::clamp(rounded_up(count / 4, cpu::kPanelStep), kSmallestSide, largest);
  const int64_t tiles = std::max<int64_t>(1, divided_up(count, wanted));
  return rounded_up(divided_up(std::max<int64_t>(1, count), tiles), cpu::kPanelStep);
}

// The scales that rows packed in pairs have not been given yet.
std::vector<float> scales_of(const cpu::UnitRows& rows, int64_t first, int64_t count) {
  std::vector<float> scales(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = rows.order != nullptr ? rows.order[first + i] : first + i;
    scales[i] = static_cast<float>(rows.scales[row].scale);
  }
  return scales;
}

}  // namespace

TileGrid::TileGrid(int64_t rows, int64_t columns, bool triangle, int64_t largest_side)
    : rows_(rows),
      columns_(columns),
      height_(side_of(rows, largest_side)),
      width_(side_of(columns, largest_side)),
      down_(divided_up(rows, height_)),
      across_(divided_up(columns, width_)),
      triangle_(triangle) {}

int64_t TileGrid::count() const { return triangle_ ? down_ * (down_ + 1) / 2 : down_ * across_; }

TilePlace TileGrid::place(int64_t index) const {
  int64_t down = 0;
  int64_t across = 0;
  if (triangle_) {
    // Counted from the last row of tiles: row r from the end begins at r (r + 1) / 2 from the end.
    const int64_t left = count() - 1 - index;
    auto from_end = static_cast<int64_t>((std::sqrt(8.0 * static_cast<double>(left) + 1) - 1) / 2);
    while (from_end * (from_end + 1) / 2 > left) --from_end;
    while ((from_end + 1) * (from_end + 2) / 2 <= left) ++from_end;
    down = down_ - 1 - from_end;
    across = across_ - 1 - (left - from_end * (from_end + 1) / 2);
  } else {
    down = index / across_;
    across = index % across_;
  }
  const int64_t row = down * height_;
  const int64_t column = across * width_;
  return {index, row, std::min(height_, rows_ - row), column, std::min(width_, columns_ - column)};
}

template <typename Real, typename Packed>
TileProduct<Real, Packed>::TileProduct(const UnitRows& left, const UnitRows& right, const TileGrid& grid)
    : left_(left),
      right_(right),
      grid_(grid),
      depth_(std::min(kDepth<Packed>, rounded_up(left.kernel.width, kDepthStep<Packed>))),
      // Rows not a power of two apart: a column of the tile must not fall into one set of the cache.
      stride_(grid.width() + cpu::kPanelStep) {
  const int64_t height = grid.height();
  const int64_t cosines = height * stride_;
  const int64_t entries = (height + grid.width()) * depth_;
  memory_ = c10::GetCPUAllocator()->allocate(static_cast<size_t>(cosines) * sizeof(Real) +
                                             static_cast<size_t>(entries) * sizeof(Packed));
  cosines_ = static_cast<Real*>(memory_.get());
  left_panel_ = reinterpret_cast<Packed*>(cosines_ + cosines);
  right_panel_ = left_panel_ + height * depth_;
  // Rows that the last tile lacks are multiplied too: whatever they hold must not be a signalling NaN.
  std::fill(cosines_, cosines_ + cosines, Real{0});
  std::fill(left_panel_, left_panel_ + entries, Packed{0});
  if (left.kernel.width > kProductsAtATime) {
    total_.resize(static_cast<size_t>(cosines));
  }
}

template <typename Real, typename Packed>
Tile<Real> TileProduct<Real, Packed>::operator()(int64_t index) {
  const Tile<Real> tile{grid_.place(index), cosines_, stride_};
  const int64_t width = left_.kernel.width;
  if (total_.empty()) {
    multiply(tile, 0, width);
  } else {
    std::fill(total_.begin(), total_.end(), 0.0);
    const int64_t used = grid_.height() * stride_;
    for (int64_t first = 0; first < width; first += kProductsAtATime) {
      multiply(tile, first, std::min(width, first + kProductsAtATime));
#pragma omp simd
      for (int64_t i = 0; i < used; ++i) total_[i] += cosines_[i];
    }
#pragma omp simd
    for (int64_t i = 0; i < used; ++i) cosines_[i] = static_cast<Real>(total_[i]);
  }
  if constexpr (std::is_same_v<Packed, uint16_t>) {
    const auto left_scales = scales_of(left_.kernel, tile.row, tile.rows);
    const auto right_scales = scales_of(right_.kernel, tile.column, tile.columns);
    cpu::kernels().scale_cosines(left_scales.data(), right_scales.data(), tile.rows, tile.columns, cosines_,
                                 stride_);
  }
  return tile;
}

template <typename Real, typename Packed>
void TileProduct<Real, Packed>::multiply(const Tile<Real>& tile, int64_t first_column, int64_t last_column) {
  const int64_t height = rounded_up(tile.rows, cpu::kPanelStep);
  const int64_t width = rounded_up(tile.columns, cpu::kPanelStep);
  if (first_column == last_column) std::fill(cosines_, cosines_ + grid_.height() * stride_, Real{0});
  for (int64_t column = first_column; column < last_column; column += depth_) {
    const int64_t depth = std::min(depth_, last_column - column);
    const int64_t padded = rounded_up(depth, kDepthStep<Packed>);
    const Packed* left = left_panel_;
    int64_t left_stride = padded;
    if (std::is_same_v<Real, Packed> && left_.padded) {
      left_stride = left_.kernel.stride;
      left = static_cast<const Packed*>(left_.kernel.data) + tile.row * left_stride + column;
    } else {
      pack_rows<Packed>(left_)(columns_of(left_, column, column + depth), tile.row, tile.row + tile.rows,
                               left_panel_, padded);
    }
    pack_columns<Packed>(right_)(columns_of(right_, column, column + depth), tile.column,
                                 tile.column + tile.columns, right_panel_, width);
    multiply_panels(grid_.triangle() && tile.row == tile.column, height, width, padded, left, left_stride,
                    right_panel_, width, /*add=*/column != first_column, cosines_, stride_);
  }
}

bool multiplied_in_pairs(const UnitRows& rows) {
  return rows.scalar == cpu::Scalar::kBFloat16 && rows.kernel.means == nullptr && multiplies_pairs();
}

template <>
bool product_is_serial<float>() {
  return float_gemm() != FloatGemm::kTorch;
}
template <>
bool product_is_serial<double>() {
  return false;
}

template class TileProduct<float>;
template class TileProduct<float, uint16_t>;
template class TileProduct<double>;

}  // namespace tfc::ops
