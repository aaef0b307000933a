// How a batch is cut up for the device, from its shape alone: which rows form a chunk, which kernel walks
// it, how much memory the partial sums take. Host code; what it decides never depends on labels.
//
// A chunk is a run of consecutive rows in class order, and one block walks it. What it leaves is at most
// three partial rows: of the class that began before the chunk, of the one that goes on after it, and of
// all classes that lie wholly inside, whose squares are finished on the spot. So partials are bounded by
// 3 * chunks rows for any number of classes. Chunks differ little in length, since all of them run at the
// same time and the longest is waited for: only small classes are not cut.
//
// Sums of float32 are never longer than 32 additions: rows are added up rows_at_once at a time before they
// join the sum, and a chunk has at most 32 * rows_at_once rows.
//
// Traffic of partials per chunk of R rows and per column: 9 bytes written (two float32 sums, one byte of
// gates) and 9 read by the column pass, beside 12 R (float32) or 6 R (half) bytes of the pass itself:
//   R = 112, float32: 1.3 %; R = 112, half: 2.7 %; R = 56, float32 of more than 2048 columns: 2.7 %.
// Small batches have shorter chunks, since every multiprocessor needs one: 4096 rows of 4096 bfloat16 on 132
// multiprocessors have R = 32, and their partials are 9.4 % of the pass (4.7 MB, kept by the L2 cache).
#pragma once

#include <algorithm>
#include <cstdint>

#include "../jobs.h"

namespace tfc::cuda {

struct Device {
  int multiprocessors;
  int64_t shared_bytes;  // dynamic shared memory that a block can opt in to
};

// Partial rows of a chunk.
enum Slot : int { kHeadSlot, kInnerSlot, kTailSlot, kSlots };

struct Plan {
  Job job;
  Scalar scalar;
  int64_t rows, width;
  bool labelled;
  bool fused;        // norms and sums in one pass over the rows; else norms first, in a kernel of their own
  int pieces;        // 16-byte pieces of a row that a thread holds
  int rows_at_once;  // rows that a block holds
  int threads;
  int64_t tiles;       // blocks that share the columns of a chunk
  int64_t chunks;      // at least 1
  int64_t chunk_rows;  // at most half as much again, by the move of the ends
  int64_t pitch;       // columns of a partial row in memory
  int64_t shared_bytes;
  // Offsets in the workspace; what a job does not need takes no room.
  int64_t scales[2], sums[2], gates, tile_totals, chunk_totals, column_totals, blocks_ended, admission;
  int64_t workspace_bytes;

  int tensors() const { return job == Job::kPair || job == Job::kReluBackward ? 2 : 1; }
  bool cosines() const { return job != Job::kGates; }
  bool counts() const { return job != Job::kCosine; }
  int64_t sum_bytes() const { return scalar == Scalar::kFloat64 ? 8 : 4; }
  int64_t scalar_bytes() const { return bytes_of(scalar); }
  int64_t column_blocks() const;  // of the column pass, for each quantity
};

// What a block of the column pass puts together.
enum Quantity : int { kFeatureSums, kGradientSums, kGateCounts, kQuantities };

// Batches of one launch of the column pass.
constexpr int kBatchesAtOnce = 16;

// A class of at most chunk_rows / kSmallClass rows is not cut; by as much a chunk may grow.
constexpr int kSmallClass = 8;

// A block of the column pass: 16 warps take 16 ranges of chunks; a lane has 4 columns.
constexpr int kColumnThreads = 512;
constexpr int kUnitsPerLane = 4;
constexpr int kColumnsPerBlock = 32 * kUnitsPerLane;

inline int64_t Plan::column_blocks() const {
  return width <= kColumnsPerBlock ? 1 : (width + kColumnsPerBlock - 1) / kColumnsPerBlock;
}

Plan make_plan(Job job, Scalar scalar, int64_t rows, int64_t width, bool labelled, const Device& device);

}  // namespace tfc::cuda
