// Walks all pairs of rows of packed gates tile by tile, never holding more of the matrix.
//
// A tile is one task on one thread: in how many units its rows differ, in scratch memory that stays in
// cache. The counts are integers, so they do not depend on the threads.
#pragma once

#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>

#include <algorithm>

#include "../kernels/cpu/gates.h"
#include "tiles.h"

namespace tfc::ops {

// Some rows of packed gates, in some order. Refers to memory that others own.
struct PackedGates {
  const int64_t* data;  // [rows, words], rows `stride` words apart; bits beyond `units` are ignored
  int64_t stride;
  int64_t count;  // positions
  int64_t units;
  const int64_t* order;  // [count] row at each position; null: rows as they lie
  int64_t words() const { return divided_up(units, cpu::kWordUnits); }
  const int64_t* row(int64_t position) const {
    return data + (order != nullptr ? order[position] : position) * stride;
  }
};

// Throws unless `x` holds packed gates of that many units.
void check_packed(const at::Tensor& x, int64_t units, const char* op, const char* name);

// All rows of an [n, words] tensor.
PackedGates packed_gates(const at::Tensor& rows, int64_t units);

// Open units in each of the rows.
std::vector<int32_t> open_units(const PackedGates& gates);

struct GateTile : TilePlace {
  int32_t* differing;  // units; row after row, `stride` apart; free to be written to
  int64_t stride;
};

// One thread's panels and tile.
class DifferingUnits {
 public:
  DifferingUnits(const PackedGates& left, const PackedGates& right, const TileGrid& grid);
  GateTile operator()(int64_t index);

 private:
  static constexpr int64_t kDepth = 128;  // words of a row at a time: a panel stays in first-level cache

  const PackedGates& left_;
  const PackedGates& right_;
  const TileGrid& grid_;
  int64_t depth_;
  int64_t stride_;
  at::DataPtr memory_;
  uint64_t* left_rows_;
  uint64_t* right_panels_;
  int32_t* differing_;
};

// `make_worker()` gives what handles the tiles of one thread: called with each tile in turn; then
// flush(), if it has that.
template <typename MakeWorker>
void for_each_gate_tile(const PackedGates& left, const PackedGates& right, bool triangle,
                        const MakeWorker& make_worker) {
  const TileGrid grid(left.count, right.count, triangle);
  constexpr int64_t kWordsPerThread = int64_t{1} << 20;
  const int64_t words = grid.height() * grid.width() * std::max<int64_t>(1, left.words());
  at::parallel_for(0, grid.count(), std::max<int64_t>(1, kWordsPerThread / words),
                   [&](int64_t first, int64_t last) {
                     DifferingUnits differing(left, right, grid);
                     auto worker = make_worker();
                     for (int64_t index = first; index < last; ++index) worker(differing(index));
                     if constexpr (requires { worker.flush(); }) worker.flush();
                   });
}

}  // namespace tfc::ops
