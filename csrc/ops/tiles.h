// Walks the matrix of cosines of two batches of rows tile by tile, never holding more of it.
//
// A tile is one task on one thread: packed unit rows, multiplied, handed over in scratch memory that
// stays in cache. What a tile covers depends on the sizes only, so the bits do not depend on the threads.
#pragma once

#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <type_traits>
#include <vector>

#include "gemm.h"
#include "unit_rows.h"

namespace tfc::ops {

// Left rows `row` ... `row + rows - 1` with right rows `column` ..., in positions of the order.
struct TilePlace {
  int64_t index;  // of all tiles, in a fixed order
  int64_t row, rows;
  int64_t column, columns;
};

template <typename Real>
struct Tile : TilePlace {
  // Of a tile on the diagonal of a triangle only what is on and above it holds.
  Real* cosines;  // row after row, `stride` apart; free to be written to
  int64_t stride;
};

constexpr int64_t kLargestSide = 512;  // a tile of float and its panels stay in a second-level cache

// How the matrix is cut. `triangle`: only tiles on and above the diagonal (left and right are the same).
class TileGrid {
 public:
  TileGrid(int64_t rows, int64_t columns, bool triangle, int64_t largest_side = kLargestSide);
  int64_t count() const;
  int64_t height() const { return height_; }
  int64_t width() const { return width_; }
  bool triangle() const { return triangle_; }
  TilePlace place(int64_t index) const;

 private:
  int64_t rows_, columns_;
  int64_t height_, width_;  // of a tile; multiples of 16
  int64_t down_, across_;   // tiles
  bool triangle_;
};

// Entries of rows that are packed and multiplied at a time, and of which they are a multiple.
template <typename Packed>
constexpr int64_t kDepth = 128;
template <>
inline constexpr int64_t kDepth<uint16_t> = 256;
template <>
inline constexpr int64_t kDepth<double> = 512;
template <typename Packed>
constexpr int64_t kDepthStep = std::is_same_v<Packed, uint16_t> ? cpu::kPairStep : cpu::kPanelStep;

// How many products are added before their sum joins that of the row, in double (see gemm.h). In one go
// fifty thousand equal double products, added one by one, would be off by more than 1e-12, too.
constexpr int64_t kProductsAtATime = 512;

// Of a tile on the diagonal of a triangle only what is on and above it is wanted: strips of rows, each from
// its first column on. product(row, rows, column).
template <typename Product>
void for_each_strip(bool diagonal, int64_t height, const Product& product) {
  constexpr int64_t kFewestRows = 32;
  const int64_t step = diagonal ? std::max(kFewestRows, rounded_up(height / 4, cpu::kPanelStep))
                                : std::max<int64_t>(1, height);
  for (int64_t i = 0; i < height; i += step) product(i, std::min(step, height - i), diagonal ? i : 0);
}

// gemm() of packed rows into a tile.
template <typename Packed, typename Real>
void multiply_panels(bool diagonal, int64_t height, int64_t width, int64_t depth, const Packed* left,
                     int64_t left_stride, const Packed* right, int64_t right_stride, bool add, Real* out,
                     int64_t out_stride) {
  constexpr int64_t kEntriesOfColumn = std::is_same_v<Packed, uint16_t> ? 2 : 1;  // side by side
  for_each_strip(diagonal, height, [&](int64_t i, int64_t rows, int64_t j) {
    gemm(rows, width - j, depth, left + i * left_stride, left_stride, right + j * kEntriesOfColumn,
         right_stride, add, out + i * out_stride + j, out_stride);
  });
}

// One thread's packed panels and tile. Packed: Real for unit rows; uint16_t for bfloat16 rows times a power
// of two (cpu::PackPairsFunction), whose tile is given the rest of their scales.
template <typename Real, typename Packed = Real>
class TileProduct {
 public:
  TileProduct(const UnitRows& left, const UnitRows& right, const TileGrid& grid);
  Tile<Real> operator()(int64_t index);

 private:
  void multiply(const Tile<Real>& tile, int64_t first_column, int64_t last_column);

  const UnitRows& left_;
  const UnitRows& right_;
  const TileGrid& grid_;
  int64_t depth_;  // entries of a row that are packed at a time
  int64_t stride_;
  at::DataPtr memory_;
  Real* cosines_;
  Packed* left_panel_;
  Packed* right_panel_;
  std::vector<double> total_;  // long rows: sums of `cosines_`
};

// Whether rows are bfloat16 and multiplied as such. float16 is not: instructions for it either sum in
// float16 or are in few processors (AMX). Nor are rows less a mean, which are not bfloat16 any more.
bool multiplied_in_pairs(const UnitRows& rows);

// Whether a lone task must be kept from running on all threads: the product's own library would
// then split it.
template <typename Real>
bool product_is_serial();

template <typename Real, typename Packed, typename MakeWorker>
void for_each_packed_tile(const UnitRows& left, const UnitRows& right, bool triangle,
                          const MakeWorker& make_worker) {
  const TileGrid grid(left.count, right.count, triangle);
  const int64_t tiles = grid.count();
  if (tiles == 0) return;
  constexpr int64_t kProductsPerThread = int64_t{1} << 18;
  const int64_t products = grid.height() * grid.width() * std::max<int64_t>(1, left.kernel.width);
  const bool serial = product_is_serial<Real>();
  // Two tasks are run inside a parallel region even if the second is empty.
  const int64_t tasks = serial ? tiles : std::max<int64_t>(2, tiles);
  const int64_t grain = serial ? std::max<int64_t>(1, kProductsPerThread / products) : 1;
  at::parallel_for(0, tasks, grain, [&](int64_t first, int64_t last) {
    if (first >= tiles) return;
    TileProduct<Real, Packed> product(left, right, grid);
    auto worker = make_worker();
    for (int64_t index = first; index < std::min(last, tiles); ++index) worker(product(index));
    if constexpr (requires { worker.flush(); }) worker.flush();
  });
}

// `make_worker()` gives what handles the tiles of one thread: called with each tile in turn; then
// flush(), if it has that.
template <typename Real, typename MakeWorker>
void for_each_tile(const UnitRows& left, const UnitRows& right, bool triangle,
                   const MakeWorker& make_worker) {
  if constexpr (std::is_same_v<Real, float>) {
    if (multiplied_in_pairs(left)) {
      return for_each_packed_tile<Real, uint16_t>(left, right, triangle, make_worker);
    }
  }
  for_each_packed_tile<Real, Real>(left, right, triangle, make_worker);
}

}  // namespace tfc::ops
