// The row pass: one block walks one chunk of rows in class order and leaves partial sums. See plan.h.
//
//   fused       the block holds whole rows: it loads kRows rows of feature and gradient into registers,
//               writes grad_in, adds up the squares over the block (one barrier), and adds the unit rows
//               to the sums of its columns, which stay in registers. Every element is read once.
//   not fused   the block holds a tile of the columns, and scales come from row_scales.
//
// A thread owns the same columns of every row, so sums never leave it; sums over classes that end within
// the chunk go to shared memory in double, where a thread again only meets its own columns.
//
// Traffic: reads feature and gradient once, writes grad_in once; partial rows as told in plan.h; 160 bytes
// per chunk of totals; order and class_ptr, 8 and up to 12 bytes per row. One launch.
#pragma once

#include "block.cuh"
#include "elements.cuh"
#include "norms.cuh"
#include "passes.cuh"

namespace tfc::cuda {

struct RowPassArguments {
  const void* feature;
  const void* gradient;
  void* grad_in;  // null: not wanted
  int64_t feature_stride, gradient_stride, grad_in_stride;
  int64_t rows, width, chunk_rows, pitch;
  Groups groups;
  bool aligned;
  const void* scales[2];      // [rows] RowScale; not fused
  void* sums[2];              // out: [chunks, kSlots, pitch]
  uint8_t* gates;             // out: [chunks, kSlots, pitch]
  TileTotals* tile_totals;    // out: [chunks, tiles]
  ChunkTotals* chunk_totals;  // out: [chunks]
  unsigned* blocks_ended;     // out: 0, for the column pass
};

struct ClassSpan {
  int64_t begin, end;  // positions
};

// The class of the row at `position`. Without labels it is one class that never ends, so that it takes no
// shared memory even if one chunk has all rows.
__device__ __forceinline__ ClassSpan class_at(const Groups& groups, int64_t rows, int64_t position) {
  if (groups.label_at == nullptr) return {0, rows + 1};
  const int32_t label = load(groups.label_at + position);
  return {load(groups.class_ptr + label), load(groups.class_ptr + label + 1)};
}

// Where the chunk that would begin at `position` begins.
__device__ __forceinline__ int64_t move_to_class(const RowPassArguments& a, int64_t position) {
  if (position >= a.rows) return a.rows;
  const ClassSpan span = class_at(a.groups, a.rows, position);
  return position - span.begin < a.chunk_rows / 2 ? span.begin : position;
}

// Bytes of RowPassShared; `columns`: per thread.
inline int64_t row_pass_shared_bytes(int64_t threads, int64_t tensors, int64_t columns, int64_t rows_at_once,
                                     bool has_inner) {
  const int64_t squares = 2 * (threads / 32) * tensors * rows_at_once * static_cast<int64_t>(sizeof(float));
  const int64_t inner = has_inner ? tensors * columns * threads * static_cast<int64_t>(sizeof(double)) : 0;
  return 32 * static_cast<int64_t>(sizeof(double)) + static_cast<int64_t>(sizeof(ChunkTotals)) + squares +
         inner;
}

// Shared memory of a block, in the order in which it lies there.
template <int kTensors, int kColumns, int kRows>
struct RowPassShared {
  double* wide;         // [32] for sums of double over the block
  ChunkTotals* totals;  // of thread 0
  float* squares;       // [2][warps][kTensors * kRows]
  double* inner;        // [kTensors * kColumns][threads] sums over classes that lie wholly inside

  __device__ explicit RowPassShared(char* memory) {
    wide = reinterpret_cast<double*>(memory);
    totals = reinterpret_cast<ChunkTotals*>(memory + 32 * 8);
    squares = reinterpret_cast<float*>(totals + 1);
    inner = reinterpret_cast<double*>(squares + 2 * (blockDim.x / 32) * kTensors * kRows);
  }
};

// Sums of the columns of a thread over the class at hand, and what becomes of them at its end.
template <typename T, bool kCosines, bool kCounts, int kTensors, int kPieces>
struct ColumnSums {
  using Sum = typename Element<T>::Sum;
  static constexpr int kColumns = kPieces * kPiece<T>;
  Sum sum[kTensors][kColumns];
  GateBytes<T> open[kPieces], inner_open[kPieces];
  double within[kTensors];
  int64_t disagree;

  __device__ __forceinline__ void clear_class() {
#pragma unroll
    for (int t = 0; t < kTensors; ++t) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) sum[t][i] = 0;
    }
#pragma unroll
    for (int p = 0; p < kPieces; ++p) open[p].clear();
  }

  __device__ __forceinline__ void clear() {
    clear_class();
    disagree = 0;
#pragma unroll
    for (int t = 0; t < kTensors; ++t) within[t] = 0;
#pragma unroll
    for (int p = 0; p < kPieces; ++p) inner_open[p].clear();
  }

  // The class lies wholly inside the chunk: its squares are known, of the rest only the sum counts.
  __device__ __forceinline__ void close_inner(double* inner, int64_t class_rows, bool first) {
    if constexpr (kCosines) {
#pragma unroll
      for (int t = 0; t < kTensors; ++t) {
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
          const double of_class = sum[t][i];
          double* cell = inner + (t * kColumns + i) * static_cast<int>(blockDim.x) + threadIdx.x;
          within[t] += of_class * of_class;
          *cell = first ? of_class : *cell + of_class;
        }
      }
    }
    if constexpr (kCounts) {
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
#pragma unroll
        for (int i = 0; i < kPiece<T>; ++i) {
          const int32_t k = open[p].of(i);
          disagree += k * (k - static_cast<int32_t>(class_rows));
        }
        inner_open[p].add(open[p]);
      }
    }
    clear_class();
  }
};

// Column of piece p of this thread.
template <typename T, int kPieces>
__device__ __forceinline__ int64_t column_of(int p) {
  return ((blockIdx.y * int64_t{kPieces} + p) * blockDim.x + threadIdx.x) * kPiece<T>;
}

// values[0 ... kPiece - 1] to 16-byte aligned memory.
__device__ __forceinline__ void store_sums(float* row, const float* values, int count) {
#pragma unroll
  for (int i = 0; i < count; i += 4) {
    store(reinterpret_cast<float4*>(row + i), float4{values[i], values[i + 1], values[i + 2], values[i + 3]});
  }
}
__device__ __forceinline__ void store_sums(double* row, const double* values, int) {
  store(row, values[0]);
  store(row + 1, values[1]);
}

// One partial row.
template <typename T, bool kCosines, bool kCounts, int kTensors, int kPieces>
__device__ __forceinline__ void store_partial(
    const RowPassArguments& a, Slot slot,
    const typename Element<T>::Sum (&sum)[kTensors][kPieces * kPiece<T>],
    const GateBytes<T> (&open)[kPieces]) {
  using Sum = typename Element<T>::Sum;
  const int64_t row = (blockIdx.x * int64_t{kSlots} + slot) * a.pitch;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int64_t column = column_of<T, kPieces>(p);
    if (column >= a.width) continue;  // the pitch has room for a whole piece
    if constexpr (kCosines) {
#pragma unroll
      for (int t = 0; t < kTensors; ++t) {
        store_sums(static_cast<Sum*>(a.sums[t]) + row + column, sum[t] + p * kPiece<T>, kPiece<T>);
      }
    }
    if constexpr (kCounts) {
      uint8_t* gates = a.gates + row + column;
      if constexpr (kPiece<T> == 2) {
        store(reinterpret_cast<uint16_t*>(gates), static_cast<uint16_t>(open[p].words[0]));
      } else {
#pragma unroll
        for (int w = 0; w < GateBytes<T>::kWords; ++w) {
          store(reinterpret_cast<uint32_t*>(gates) + w, open[p].words[w]);
        }
      }
    }
  }
}

}  // namespace tfc::cuda
