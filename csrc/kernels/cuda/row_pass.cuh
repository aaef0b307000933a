// The row pass: one block walks one chunk of rows in class order and leaves partial sums. See plan.h.
//
//   fused       the block holds whole rows: kRows rows of feature and gradient in registers. It writes
//               grad_in, adds up the squares over the block (one barrier), and adds the unit rows to the
//               sums of its columns, which stay in registers. Every element is read once.
//   not fused   the block holds a tile of the columns, and scales come from row_scales.
//
// While kRows rows are worked on, the next ones are on their way to shared memory, so that memory is never
// idle; a thread waits for its own pieces only.
//
// A thread owns the same columns of every row, so sums never leave it; sums over classes that end within
// the chunk go to shared memory in double, where a thread again only meets its own columns.
//
// Traffic: reads feature and gradient once, writes grad_in once; partial rows as told in plan.h; 144 bytes
// per chunk of totals; order, 8 bytes per row; class_ptr, 256 bytes per block (more than 31 classes: 256
// or 512 per class of a chunk), from cache; the header by each block, and the sums of the site once (see
// admission.cuh). One launch.
#pragma once

#include "admission.cuh"
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
  int32_t rows, width, chunk_rows;
  int64_t pitch;
  Groups groups;
  bool aligned;
  uint32_t pitches[3];        // bytes from row to row, if aligned: of feature, gradient, grad_in
  const void* scales[2];      // [rows] RowScale; not fused
  void* sums[2];              // out: [chunks, kSlots, pitch]
  uint8_t* gates;             // out: [chunks, kSlots, pitch]
  TileTotals* tile_totals;    // out: [chunks, tiles]
  ChunkTotals* chunk_totals;  // out: [chunks]
  unsigned* blocks_ended;     // out: 0, for the column pass
  Admission* admission;       // out
  Results results;
};

struct ClassSpan {
  int32_t begin, end;  // positions
};

// Where the classes begin: of less than 32 classes each lane knows one boundary, and no more is read.
struct Boundaries {
  static constexpr int kFew = 32;
  int32_t of_lane = 0;

  __device__ __forceinline__ explicit Boundaries(const Groups& groups) {
    if (groups.class_ptr == nullptr || groups.classes >= kFew) return;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    of_lane = static_cast<int32_t>(load(groups.class_ptr + (lane < groups.classes ? lane : groups.classes)));
  }
};

// The class of the row at `position`: the last one that begins at or before it; empty classes begin there,
// too, and come earlier. A warp looks at 32 boundaries at once. Without labels it is one class that never
// ends, so that it takes no shared memory even if one chunk has all rows.
__device__ __forceinline__ ClassSpan class_at(const Groups& groups, const Boundaries& boundaries,
                                              bool labelled, int32_t rows, int32_t position) {
  if (!labelled) return {0, rows + 1};
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int32_t begin = boundaries.of_lane;
  int64_t low = 0, high = groups.classes;
  for (;;) {
    const int64_t step = (high - low + 30) / 31;  // the last lane is at `high`
    const int64_t wanted = low + lane * step;
    const int64_t index = wanted < high ? wanted : high;
    if (groups.classes >= Boundaries::kFew) begin = static_cast<int32_t>(load(groups.class_ptr + index));
    const unsigned before = __ballot_sync(kFullWarp, index < high && begin <= position);
    const int last = before == 0 ? 0 : __popc(before) - 1;
    if (step == 1) {
      return {__shfl_sync(kFullWarp, begin, last), __shfl_sync(kFullWarp, begin, last + 1)};
    }
    low += last * step;
    high = low + step < high ? low + step : high;
  }
}

// Where a chunk begins, and the class of the row there.
struct Cut {
  int32_t position;
  ClassSpan span;
};

// The chunk that would begin at `wanted` begins with its class if that is a small one, so that most small
// classes lie wholly inside a chunk; by an eighth at most chunks differ in their length.
__device__ __forceinline__ Cut cut_at(const RowPassArguments& a, const Boundaries& boundaries, bool labelled,
                                      int64_t wanted) {
  if (wanted >= a.rows) return {a.rows, {a.rows, a.rows}};
  const int32_t position = static_cast<int32_t>(wanted);
  const ClassSpan span = class_at(a.groups, boundaries, labelled, a.rows, position);
  const bool is_small = labelled && span.end - span.begin <= a.chunk_rows / kSmallClass;
  return {is_small ? span.begin : position, span};
}

// What a thread keeps in shared memory of the classes that lie wholly inside: per tensor the sum of each of
// its columns and the sum of their squares; disagreements, and the gates of each piece. Cells of 8 bytes.
constexpr int inner_cells(int tensors, int pieces, int elements, bool cosines, bool counts) {
  const int words = elements == 8 ? 4 : 1;  // GateCounts
  return (cosines ? tensors * (pieces * elements + 1) : 0) + (counts ? 1 + pieces * words : 0);
}

// pieces: those of all tensors and rows that a thread has under way.
inline int64_t row_pass_shared_bytes(int64_t threads, int64_t pieces, int64_t squares, int64_t cells) {
  return 16 * pieces * threads + (32 + 8) * static_cast<int64_t>(sizeof(double)) +
         static_cast<int64_t>(sizeof(ChunkTotals) + sizeof(TileTotals) + sizeof(AdmissionState)) +
         2 * (threads / 32) * squares * static_cast<int64_t>(sizeof(float)) + cells * threads * 8;
}

// Shared memory of a block, in the order in which it lies there.
struct RowPassShared {
  static constexpr int kNorms = 8;
  uint4* coming;        // [pieces][threads] of the rows to come; a thread meets its own only
  double* wide;         // [32] for sums of double over the block
  ChunkTotals* totals;  // of thread 0
  TileTotals* tile;     // likewise
  AdmissionState* admission;
  double* norms;   // [kNorms] of the first lanes: sum of the norms of the rows that fell to each
  float* squares;  // [2][warps][squares]
  char* inner;     // [inner_cells][threads]

  __device__ RowPassShared(char* memory, int pieces, int num_squares) {
    coming = reinterpret_cast<uint4*>(memory);
    memory += 16 * pieces * static_cast<int>(blockDim.x);
    wide = reinterpret_cast<double*>(memory);
    totals = reinterpret_cast<ChunkTotals*>(memory + 32 * sizeof(double));
    tile = reinterpret_cast<TileTotals*>(totals + 1);
    admission = reinterpret_cast<AdmissionState*>(tile + 1);
    norms = reinterpret_cast<double*>(admission + 1);
    squares = reinterpret_cast<float*>(norms + kNorms);
    inner = reinterpret_cast<char*>(squares + 2 * (blockDim.x / 32) * num_squares);
  }
  __device__ __forceinline__ uint4& coming_piece(int index) const {
    return coming[index * blockDim.x + threadIdx.x];
  }
  // This thread's cell.
  template <typename Cell>
  __device__ __forceinline__ Cell& cell(int index) const {
    return *reinterpret_cast<Cell*>(inner + 8 * (index * blockDim.x + threadIdx.x));
  }
};

// Sums of the columns of a thread over the class at hand, and what becomes of them at its end.
template <typename T, bool kCosines, bool kCounts, int kTensors, int kPieces>
struct ColumnSums {
  using Sum = typename Element<T>::Sum;
  static constexpr int kColumns = kPieces * kPiece<T>;
  static constexpr int kWithin = kCosines ? kTensors * kColumns : 0;  // cells
  static constexpr int kDisagree = kCosines ? kWithin + kTensors : 0;
  static constexpr int kInnerOpen = kDisagree + 1;
  Sum sum[kTensors][kColumns];
  GateCounts<T> open[kPieces];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int t = 0; t < kTensors; ++t) {
#pragma unroll
      for (int i = 0; i < kColumns; ++i) sum[t][i] = 0;
    }
#pragma unroll
    for (int p = 0; p < kPieces; ++p) open[p].clear();
  }

  // The class lies wholly inside the chunk: its squares are known, of the rest only the sum counts.
  __device__ __forceinline__ void close_inner(const RowPassShared& shared, int32_t class_rows, bool first) {
    if constexpr (kCosines) {
#pragma unroll
      for (int t = 0; t < kTensors; ++t) {
        double within = first ? 0 : shared.cell<double>(kWithin + t);
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
          const double of_class = sum[t][i];
          double& all = shared.cell<double>(t * kColumns + i);
          within += of_class * of_class;
          all = first ? of_class : all + of_class;
        }
        shared.cell<double>(kWithin + t) = within;
      }
    }
    if constexpr (kCounts) {
      int64_t disagree = first ? 0 : shared.cell<int64_t>(kDisagree);
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
#pragma unroll
        for (int i = 0; i < kPiece<T>; ++i) {
          const int32_t k = open[p].of(i);
          disagree += k * (k - class_rows);
        }
#pragma unroll
        for (int w = 0; w < GateCounts<T>::kWords; ++w) {
          uint32_t& all = shared.cell<uint32_t>(kInnerOpen + p * GateCounts<T>::kWords + w);
          all = first ? open[p].words[w] : all + open[p].words[w];
        }
      }
      shared.cell<int64_t>(kDisagree) = disagree;
    }
    clear();
  }

  // The sums over all classes that lie wholly inside.
  __device__ __forceinline__ void read_inner(const RowPassShared& shared) {
    if constexpr (kCosines) {
#pragma unroll
      for (int t = 0; t < kTensors; ++t) {
#pragma unroll
        for (int i = 0; i < kColumns; ++i) {
          sum[t][i] = static_cast<Sum>(shared.cell<double>(t * kColumns + i));
        }
      }
    }
    if constexpr (kCounts) {
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
#pragma unroll
        for (int w = 0; w < GateCounts<T>::kWords; ++w) {
          open[p].words[w] = shared.cell<uint32_t>(kInnerOpen + p * GateCounts<T>::kWords + w);
        }
      }
    }
  }
};

// Column of piece p of this thread.
template <typename T, int kPieces>
__device__ __forceinline__ int32_t column_of(int p) {
  return static_cast<int32_t>((blockIdx.y * kPieces + p) * blockDim.x + threadIdx.x) * kPiece<T>;
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
    const RowPassArguments& a, Slot slot, const ColumnSums<T, kCosines, kCounts, kTensors, kPieces>& sums) {
  using Sum = typename Element<T>::Sum;
  const int64_t row = (blockIdx.x * int64_t{kSlots} + slot) * a.pitch;
#pragma unroll
  for (int p = 0; p < kPieces; ++p) {
    const int32_t column = column_of<T, kPieces>(p);
    if (column >= a.width) continue;  // the pitch has room for a whole piece
    if constexpr (kCosines) {
#pragma unroll
      for (int t = 0; t < kTensors; ++t) {
        store_sums(static_cast<Sum*>(a.sums[t]) + row + column, sums.sum[t] + p * kPiece<T>, kPiece<T>);
      }
    }
    if constexpr (kCounts) {
      uint8_t* gates = a.gates + row + column;
      if constexpr (kPiece<T> == 2) {
        store(reinterpret_cast<uint16_t*>(gates), static_cast<uint16_t>(sums.open[p].bytes(0)));
      } else {
#pragma unroll
        for (int w = 0; w < kPiece<T> / 4; ++w) {
          store(reinterpret_cast<uint32_t*>(gates) + w, sums.open[p].bytes(w));
        }
      }
    }
  }
}

}  // namespace tfc::cuda
