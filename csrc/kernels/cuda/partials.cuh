// What the row pass hands to the column pass, and how it is put together again.
//
// Chunks cut through classes, so sums over classes are put together from runs: a run of chunks has a head
// (the part of the class that began before it), a tail (of the class that goes on after it), and in between
// classes of which all that matters is known. Two neighbouring runs make one; that is associative, so
// ranges of chunks can be put together by different threads, in a tree of fixed shape.
#pragma once

#include "device.cuh"
#include "plan.h"

namespace tfc::cuda {

// How a row becomes a unit row: x * pre * scale, where `pre` is a power of two that the kind tells, 1 but for
// norms at the ends of the range of Sum. scale = 0: the row is left out; its norm is then 0, or NaN if it is
// not finite.
enum ScaleKind : int32_t { kUsual, kTiny, kHuge };

template <typename Sum>
struct alignas(16) RowScale {
  Sum scale;
  int32_t kind;
  double norm;
};

enum ChunkFlag : int32_t {
  kSplit = 1,  // a class begins or ends within the chunk or at its ends
  kHasHead = 2,
  kHasInner = 4,
  kHasTail = 8
};

// The classes of a chunk. By tensor where there are two (feature, gradient).
struct ChunkTotals {
  int32_t flags;
  int32_t head_rows, tail_rows;
  int32_t head_valid[2], tail_valid[2];  // on the way, the tail is the class at hand
  int32_t unused;
  int64_t inner_pairs;           // pairs of rows of classes that lie wholly inside
  int64_t inner_valid_pairs[2];  // ordered pairs of their valid rows
};

// What is only added up, over all tiles of all chunks. `within` and `disagree` are of the classes that lie
// wholly inside a chunk; what is told of rows is told by the first tile.
struct TileTotals {
  double within[2], norm[2];
  int64_t disagree, valid[2], zero[2], nonfinite;
};

// What is counted of units.
enum UnitCount : int { kOpen, kDisagreeAll, kDisagreeWithin, kDead, kAlwaysOn, kUnitCounts };

// Over the columns of one block of the column pass: the first two of a tensor, or the counts of the gates.
struct ColumnTotals {
  double all, within;
  int64_t counts[kUnitCounts];
};

// What the row pass has found before anything of the batch is written: whether it may be recorded, and where
// in the window buffer its units begin (-1: nowhere).
struct Admission {
  int64_t units_begin;
  int64_t records;
};

// Sums of neighbouring units.
struct UnitSums {
  struct Closed {
    double all[kUnitsPerLane] = {}, within = 0;
    __device__ void add(const Closed& other) {
#pragma unroll
      for (int i = 0; i < kUnitsPerLane; ++i) all[i] += other.all[i];
      within += other.within;
    }
  };
  double sum[kUnitsPerLane] = {};
  __device__ void add(const UnitSums& other) {
#pragma unroll
    for (int i = 0; i < kUnitsPerLane; ++i) sum[i] += other.sum[i];
  }
  __device__ Closed close() const {
    Closed closed;
#pragma unroll
    for (int i = 0; i < kUnitsPerLane; ++i) {
      closed.all[i] = sum[i];
      closed.within += sum[i] * sum[i];
    }
    return closed;
  }
};

// Rows in which neighbouring units are open. A batch has less than 2^31 rows.
struct OpenRows {
  struct Closed {
    int32_t open[kUnitsPerLane] = {};
    int64_t disagree = 0;
    __device__ void add(const Closed& other) {
#pragma unroll
      for (int i = 0; i < kUnitsPerLane; ++i) open[i] += other.open[i];
      disagree += other.disagree;
    }
  };
  int32_t open[kUnitsPerLane] = {}, rows = 0;
  __device__ void add(const OpenRows& other) {
#pragma unroll
    for (int i = 0; i < kUnitsPerLane; ++i) open[i] += other.open[i];
    rows += other.rows;
  }
  __device__ Closed close() const {
    Closed closed;
#pragma unroll
    for (int i = 0; i < kUnitsPerLane; ++i) {
      closed.open[i] = open[i];
      closed.disagree += int64_t{open[i]} * (open[i] - rows);
    }
    return closed;
  }
};

// Rows and valid rows of classes.
struct ClassRows {
  struct Closed {
    int64_t pairs = 0, valid_pairs[2] = {0, 0};
    __device__ void add(const Closed& other) {
      pairs += other.pairs;
      valid_pairs[0] += other.valid_pairs[0];
      valid_pairs[1] += other.valid_pairs[1];
    }
  };
  int64_t rows = 0, valid[2] = {0, 0};
  __device__ void add(const ClassRows& other) {
    rows += other.rows;
    valid[0] += other.valid[0];
    valid[1] += other.valid[1];
  }
  __device__ Closed close() const {
    return {rows * (rows - 1) / 2, {valid[0] * (valid[0] - 1), valid[1] * (valid[1] - 1)}};
  }
};

template <typename Part>
struct Run {
  Part head, tail;  // `tail` and `closed` only if split
  typename Part::Closed closed;
  bool split = false;

  // Appends the run that comes next.
  __device__ void add(const Run& next) {
    Part& open_end = split ? tail : head;
    open_end.add(next.head);
    if (!next.split) return;
    if (split) closed.add(tail.close());
    closed.add(next.closed);
    tail = next.tail;
    split = true;
  }
  // All chunks are in: the open ends are classes of their own.
  __device__ typename Part::Closed close() const {
    typename Part::Closed all = closed;
    all.add(head.close());
    if (split) all.add(tail.close());
    return all;
  }
};

}  // namespace tfc::cuda
