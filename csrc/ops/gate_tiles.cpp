#include "gate_tiles.h"

#include <bit>

#include "../kernels/cpu/dispatch.h"

namespace tfc::ops {
namespace {

// Word `index` of a row, without the bits that stand for no unit.
uint64_t word_of(const int64_t* row, int64_t index, int64_t units) {
  const auto word = static_cast<uint64_t>(row[index]);
  const int64_t left = units - index * cpu::kWordUnits;
  return left >= cpu::kWordUnits ? word : word & ((uint64_t{1} << left) - 1);
}

}  // namespace

void check_packed(const at::Tensor& x, int64_t units, const char* op, const char* name) {
  TORCH_CHECK_TYPE(x.scalar_type() == at::kLong, op, ": ", name, " must be int64 (packed gates), got ",
                   x.scalar_type());
  TORCH_CHECK_VALUE(units >= 0 && units <= cpu::kMostUnits, op, ": num_units must be 0 ... ", cpu::kMostUnits,
                    ", got ", units);
  TORCH_CHECK_VALUE(x.dim() == 2 && x.sym_size(1) == divided_up(units, cpu::kWordUnits), op, ": ", name,
                    " must have shape [n, ", divided_up(units, cpu::kWordUnits), "] for ", units,
                    " units, got ", x.sym_sizes());
}

PackedGates packed_gates(const at::Tensor& rows, int64_t units) {
  return {rows.const_data_ptr<int64_t>(), rows.stride(0), rows.size(0), units, nullptr};
}

std::vector<int32_t> open_units(const PackedGates& gates) {
  std::vector<int32_t> open(static_cast<size_t>(gates.count));
  for (int64_t i = 0; i < gates.count; ++i) {
    for (int64_t w = 0; w < gates.words(); ++w) {
      open[static_cast<size_t>(i)] += std::popcount(word_of(gates.row(i), w, gates.units));
    }
  }
  return open;
}

DifferingUnits::DifferingUnits(const PackedGates& left, const PackedGates& right, const TileGrid& grid)
    : left_(left),
      right_(right),
      grid_(grid),
      depth_(std::min(kDepth, left.words())),
      // Rows not a power of two apart: a column of the tile must not fall into one set of the cache.
      stride_(grid.width() + cpu::kPanelStep) {
  const int64_t height = grid.height();
  const int64_t words = (height + grid.width()) * depth_;
  const int64_t cells = height * stride_;
  memory_ = c10::GetCPUAllocator()->allocate(static_cast<size_t>(words) * sizeof(uint64_t) +
                                             static_cast<size_t>(cells) * sizeof(int32_t));
  left_rows_ = static_cast<uint64_t*>(memory_.get());
  right_panels_ = left_rows_ + height * depth_;
  differing_ = reinterpret_cast<int32_t*>(right_panels_ + grid.width() * depth_);
  // Rows that the last tile lacks are compared too.
  std::fill(left_rows_, left_rows_ + words, uint64_t{0});
}

GateTile DifferingUnits::operator()(int64_t index) {
  const GateTile tile{grid_.place(index), differing_, stride_};
  const int64_t panels = divided_up(tile.columns, cpu::kPanelStep);
  std::fill(differing_, differing_ + rounded_up(tile.rows, cpu::kMostBlockRows) * stride_, 0);
  for (int64_t first = 0; first < left_.words(); first += depth_) {
    const int64_t depth = std::min(depth_, left_.words() - first);
    for (int64_t i = 0; i < tile.rows; ++i) {
      const int64_t* row = left_.row(tile.row + i);
      uint64_t* to = left_rows_ + i * depth;
      for (int64_t w = 0; w < depth; ++w) to[w] = word_of(row, first + w, left_.units);
    }
    for (int64_t j = 0; j < tile.columns; ++j) {
      const int64_t* row = right_.row(tile.column + j);
      uint64_t* to = right_panels_ + (j / cpu::kPanelStep) * depth * cpu::kPanelStep + j % cpu::kPanelStep;
      for (int64_t w = 0; w < depth; ++w) to[w * cpu::kPanelStep] = word_of(row, first + w, right_.units);
    }
    cpu::kernels().gates.add_differing(left_rows_, right_panels_, depth, tile.rows, panels, differing_,
                                       stride_);
  }
  return tile;
}

}  // namespace tfc::ops
