// The column pass: chunks -> classes -> all rows, unit by unit, in double and int64; then the sums of the
// batch, which the block that ends last adds to the site. See partials.cuh for how chunks are put together.
// One launch does this for several batches.
//
// A block has 128 columns, four per lane, of one tensor's sums or of the gates; its 8 warps take 8 ranges of
// chunks, put together in order. A warp knows the shapes of 32 chunks at a time, so that the numbers of
// several chunks are on their way at once.
//
// Traffic: reads what the row pass left (plan.h): 9 bytes per partial row and column, 24 bytes per chunk and
// tile, 12 bytes per chunk, warp and block; writes 8 bytes per unit of the window buffer;
// 56 bytes per block of totals. One launch; the last block is found by a counter, so that the sums need no
// launch of their own, and adds all totals in an order of its own, whichever block it is.
#include <algorithm>
#include <cstddef>

#include "block.cuh"
#include "partials.cuh"
#include "passes.cuh"

namespace tfc::cuda {
namespace {

constexpr int kWarps = kColumnThreads / 32;
constexpr int kChunksAtOnce = 3;
constexpr int kChunkWarps = kWarps / 2;  // of those that add up what is left, the ones that walk the chunks

// One batch.
struct ColumnPassArguments {
  int64_t rows, width, pitch, chunks, tiles;
  bool labelled;
  bool sums_are_double;
  const void* sums[2];   // [chunks, kSlots, pitch]; null: that tensor has no cosines
  const uint8_t* gates;  // [chunks, kSlots, pitch]; null: no gates
  const TileTotals* tile_totals;
  const ChunkTotals* chunk_totals;
  int64_t blocks;               // of columns, for each quantity
  ColumnTotals* column_totals;  // [kQuantities, blocks]
  unsigned* blocks_ended;
  const Admission* admission;
  Results results;

  __device__ __forceinline__ bool has(int quantity) const {
    return quantity == kGateCounts ? gates != nullptr : sums[quantity] != nullptr;
  }
  __device__ __forceinline__ unsigned blocks_of_all() const {
    return static_cast<unsigned>(blocks) * ((sums[0] != nullptr) + (sums[1] != nullptr) + (gates != nullptr));
  }
};

template <int kBatches>
struct Batches {
  ColumnPassArguments of[kBatches];
};

__device__ __forceinline__ int warp_of_thread() { return static_cast<int>(threadIdx.x) / 32; }
__device__ __forceinline__ int lane_of_thread() { return static_cast<int>(threadIdx.x) % 32; }

struct ChunkShape {
  int32_t flags, head_rows, tail_rows;

  __device__ __forceinline__ bool has(ChunkFlag flag) const { return (flags & flag) != 0; }
};

// The chunks of the warp's range, put together; then the ranges. `read(chunk, its shape, rows)` begins to
// load what a chunk has left, `make(its shape, rows, run)` makes a run of it. The result is that of warp 0.
// `runs`: shared, [kWarps][32].
template <typename Part, typename Rows, typename Read, typename Make>
__device__ __forceinline__ Run<Part> put_together(const ColumnPassArguments& a, Run<Part>* runs,
                                                  const Read& read, const Make& make) {
  const int warp = warp_of_thread();
  const int lane = lane_of_thread();
  const int64_t range = (a.chunks + kWarps - 1) / kWarps;
  const int64_t begin = warp * range;
  const int64_t end = begin + range < a.chunks ? begin + range : a.chunks;
  Run<Part> run;
  for (int64_t first = begin; first < end; first += 32) {
    ChunkShape mine{};
    if (first + lane < end) {
      const ChunkTotals* totals = a.chunk_totals + first + lane;
      mine = {load(&totals->flags), load(&totals->head_rows), load(&totals->tail_rows)};
    }
    const auto shape_of = [&](int k) {
      return ChunkShape{__shfl_sync(kFullWarp, mine.flags, k % 32),
                        __shfl_sync(kFullWarp, mine.head_rows, k % 32),
                        __shfl_sync(kFullWarp, mine.tail_rows, k % 32)};
    };
    const int count = static_cast<int>(end - first < 32 ? end - first : 32);
    for (int k = 0; k < count; k += kChunksAtOnce) {
      Rows rows[kChunksAtOnce];
#pragma unroll
      for (int i = 0; i < kChunksAtOnce; ++i) {
        const ChunkShape shape = shape_of(k + i);
        if (k + i < count) read(first + k + i, shape, rows[i]);
      }
#pragma unroll
      for (int i = 0; i < kChunksAtOnce; ++i) {
        const ChunkShape shape = shape_of(k + i);
        if (k + i >= count) continue;
        Run<Part> next;
        next.split = shape.has(kSplit);
        make(shape, rows[i], next);
        run.add(next);
      }
    }
  }
  runs[threadIdx.x] = run;
  __syncthreads();
  if (warp == 0) {
    for (int w = 1; w < kWarps; ++w) run.add(runs[w * 32 + lane]);
  }
  return run;
}

// Neighbouring columns of a partial row, on their way.
struct FloatColumns {
  float4 values = {0, 0, 0, 0};
  __device__ __forceinline__ void read(const float* row) {
    values = load(reinterpret_cast<const float4*>(row));
  }
  __device__ __forceinline__ double operator[](int i) const {
    return i == 0 ? values.x : i == 1 ? values.y : i == 2 ? values.z : values.w;
  }
};
struct DoubleColumns {
  double values[kUnitsPerLane] = {};
  __device__ __forceinline__ void read(const double* row) {
#pragma unroll
    for (int i = 0; i < kUnitsPerLane; ++i) values[i] = load(row + i);
  }
  __device__ __forceinline__ double operator[](int i) const { return values[i]; }
};
struct GateColumns {
  uint32_t bytes = 0;
  __device__ __forceinline__ void read(const uint8_t* row) {
    bytes = load(reinterpret_cast<const uint32_t*>(row));
  }
  __device__ __forceinline__ int64_t operator[](int i) const { return bytes >> (8 * i) & 255u; }
};
static_assert(kUnitsPerLane == 4);

// The partial rows of one chunk.
template <typename Columns>
struct PartialRows {
  Columns head, inner, tail;

  // `first` points to where the lane's columns begin in the chunk's first row.
  template <typename Number>
  __device__ __forceinline__ void read(const Number* first, int64_t pitch, const ChunkShape& shape) {
    if (shape.has(kHasHead)) head.read(first + kHeadSlot * pitch);
    if (shape.has(kHasInner)) inner.read(first + kInnerSlot * pitch);
    if (shape.has(kHasTail)) tail.read(first + kTailSlot * pitch);
  }
};

template <typename Columns, typename Number>
__device__ __forceinline__ UnitSums::Closed close_sums(const ColumnPassArguments& a, const Number* sums,
                                                       int64_t column, Run<UnitSums>* runs) {
  const int64_t exist = a.width - column;
  const Run<UnitSums> run = put_together<UnitSums, PartialRows<Columns>>(
      a, runs,
      [&](int64_t chunk, const ChunkShape& shape, PartialRows<Columns>& rows) {
        if (exist > 0) rows.read(sums + chunk * kSlots * a.pitch + column, a.pitch, shape);
      },
      [&](const ChunkShape&, const PartialRows<Columns>& rows, Run<UnitSums>& of_chunk) {
#pragma unroll
        for (int i = 0; i < kUnitsPerLane; ++i) {
          if (i >= exist) continue;
          of_chunk.head.sum[i] = rows.head[i];
          of_chunk.closed.all[i] = rows.inner[i];
          of_chunk.tail.sum[i] = rows.tail[i];
        }
      });
  return run.close();
}

__device__ __forceinline__ OpenRows::Closed close_gates(const ColumnPassArguments& a, int64_t column,
                                                        Run<OpenRows>* runs) {
  const int64_t exist = a.width - column;
  const Run<OpenRows> run = put_together<OpenRows, PartialRows<GateColumns>>(
      a, runs,
      [&](int64_t chunk, const ChunkShape& shape, PartialRows<GateColumns>& rows) {
        if (exist > 0) rows.read(a.gates + chunk * kSlots * a.pitch + column, a.pitch, shape);
      },
      [&](const ChunkShape& shape, const PartialRows<GateColumns>& rows, Run<OpenRows>& of_chunk) {
        if (exist <= 0) return;
        if (shape.has(kHasHead)) of_chunk.head.rows = shape.head_rows;
        if (shape.has(kHasTail)) of_chunk.tail.rows = shape.tail_rows;
#pragma unroll
        for (int i = 0; i < kUnitsPerLane; ++i) {
          if (i >= exist) continue;
          of_chunk.head.open[i] = rows.head[i];
          of_chunk.closed.open[i] = rows.inner[i];
          of_chunk.tail.open[i] = rows.tail[i];
        }
      });
  return run.close();
}

// Warp 0: the totals of the lane's columns, and the window buffer.
__device__ __forceinline__ void count_units(const ColumnPassArguments& a, int64_t column,
                                            const OpenRows::Closed& closed, ColumnTotals& totals) {
  totals.counts[kDisagreeWithin] = closed.disagree;
  const Admission admission = load(a.admission);
  const Results& results = a.results;
  const bool keeps_window = admission.units_begin >= 0;
  const int32_t step = keeps_window ? static_cast<int32_t>(load(&results.header->step)) : 0;
#pragma unroll
  for (int i = 0; i < kUnitsPerLane; ++i) {
    if (column + i >= a.width) continue;
    const int64_t open = closed.open[i];
    totals.counts[kOpen] += open;
    totals.counts[kDisagreeAll] += open * (open - a.rows);
    totals.counts[kDead] += open == 0;
    totals.counts[kAlwaysOn] += open == a.rows;
    if (!keeps_window) continue;
    int32_t* last_open = results.units + admission.units_begin + column + i;
    if (open > 0) store(last_open, step);
    if (open < a.rows) store(last_open + results.units_capacity, step);
  }
}

// What the last block adds up.
struct BatchTotals {
  double all[2], within[2], norm[2];
  int64_t counts[kUnitCounts];
  int64_t valid[2], zero[2], nonfinite;
};

__device__ __forceinline__ void add_chunk(const ChunkTotals& chunk, Run<ClassRows>& run, BatchTotals& sums) {
  Run<ClassRows> of_chunk;
  of_chunk.split = (chunk.flags & kSplit) != 0;
  of_chunk.head.rows = chunk.head_rows;
  of_chunk.tail.rows = chunk.tail_rows;
  of_chunk.closed.pairs = chunk.inner_pairs;
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    of_chunk.head.valid[t] = chunk.head_valid[t];
    of_chunk.tail.valid[t] = chunk.tail_valid[t];
    of_chunk.closed.valid_pairs[t] = chunk.inner_valid_pairs[t];
    sums.valid[t] += chunk.valid[t];
    sums.zero[t] += chunk.zero[t];
    sums.norm[t] += chunk.norm[t];
  }
  sums.nonfinite += chunk.nonfinite;
  run.add(of_chunk);
}

__device__ __forceinline__ CosineSums cosine_sums(const BatchTotals& sums, const ClassRows::Closed& classes,
                                                  int t) {
  CosineSums out;
  out.valid = static_cast<double>(sums.valid[t]);
  out.zero = static_cast<double>(sums.zero[t]);
  out.norm = sums.norm[t];
  out.all_pairs = out.valid * (out.valid - 1);
  out.within_pairs = static_cast<double>(classes.valid_pairs[t]);
  out.all = sums.all[t] - out.valid;
  out.within = sums.within[t] - out.valid;
  return out;
}

// Shared memory of `finish`.
struct FinishShared {
  Run<ClassRows> runs[kChunkWarps * 32];
  BatchTotals of_warp[kWarps];
  BatchTotals all;
};

// Of one tensor, by some warps; `first`: place of the thread among their `threads`.
__device__ __forceinline__ void add_cosines(const ColumnPassArguments& a, int t, int first, int threads,
                                            BatchTotals& sums) {
  const ColumnTotals* of_blocks = a.column_totals + t * a.blocks;
  double all = 0, within = 0;
  for (int64_t i = first; i < a.blocks && a.sums[t] != nullptr; i += threads) {
    all += load(&of_blocks[i].all);
    within += load(&of_blocks[i].within);
  }
  sums.all[t] = warp_sum(all);
  sums.within[t] = warp_sum(within);
}

__device__ __forceinline__ void add_gates(const ColumnPassArguments& a, int first, int threads,
                                          BatchTotals& sums) {
  const ColumnTotals* of_blocks = a.column_totals + kGateCounts * a.blocks;
  for (int64_t i = first; i < a.blocks && a.gates != nullptr; i += threads) {
#pragma unroll
    for (int c = 0; c < kUnitCounts; ++c) sums.counts[c] += load(&of_blocks[i].counts[c]);
  }
#pragma unroll
  for (int64_t& count : sums.counts) count = warp_sum(count);
}

// And the rows of classes: each thread a range of chunks, in order, then neighbours, in a tree.
__device__ __forceinline__ void add_chunks(const ColumnPassArguments& a, int first, Run<ClassRows>* runs,
                                           BatchTotals& sums) {
  constexpr int kThreads = kChunkWarps * 32;
  for (int64_t i = first; i < a.chunks * a.tiles; i += kThreads) {
    const TileTotals totals = load(a.tile_totals + i);
    sums.within[0] += totals.within[0];
    sums.within[1] += totals.within[1];
    sums.counts[kDisagreeWithin] += totals.disagree;
  }
  Run<ClassRows> run;
  const int64_t range = (a.chunks + kThreads - 1) / kThreads;
  for (int64_t i = first * range; i < (first + 1) * range && i < a.chunks; ++i) {
    add_chunk(load(a.chunk_totals + i), run, sums);
  }
  runs[first] = run;
  for (int step = 1; step < 32; step *= 2) {
    __syncwarp();
    if (lane_of_thread() % (2 * step) == 0) runs[first].add(runs[first + step]);
  }
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    sums.within[t] = warp_sum(sums.within[t]);
    sums.norm[t] = warp_sum(sums.norm[t]);
    sums.valid[t] = warp_sum(sums.valid[t]);
    sums.zero[t] = warp_sum(sums.zero[t]);
  }
  sums.nonfinite = warp_sum(sums.nonfinite);
  sums.counts[kDisagreeWithin] = warp_sum(sums.counts[kDisagreeWithin]);
}

// The first warp: over all warps, one total per lane.
__device__ __forceinline__ void sum_over_warps(FinishShared& shared) {
  constexpr int kDoubles = offsetof(BatchTotals, counts) / 8;
  constexpr int kTotals = sizeof(BatchTotals) / 8;
  static_assert(kTotals <= 32);
  const int which = lane_of_thread();
  if (which < kDoubles) {
    double sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += reinterpret_cast<const double*>(&shared.of_warp[w])[which];
    reinterpret_cast<double*>(&shared.all)[which] = sum;
  } else if (which < kTotals) {
    int64_t sum = 0;
    for (int w = 0; w < kWarps; ++w) sum += reinterpret_cast<const int64_t*>(&shared.of_warp[w])[which];
    reinterpret_cast<int64_t*>(&shared.all)[which] = sum;
  }
  __syncwarp();
}

// The block that ends last: all that is left of the batch. Warps share the work by kind.
__device__ __noinline__ void finish(const ColumnPassArguments& a, char* memory) {
  FinishShared& shared = *reinterpret_cast<FinishShared*>(memory);
  const int warp = warp_of_thread();
  constexpr int kQuarter = kChunkWarps / 4;
  BatchTotals sums{};
  __syncthreads();  // the memory has been read to the end
  if (warp < kQuarter) {
    add_cosines(a, 0, static_cast<int>(threadIdx.x), 32 * kQuarter, sums);
  } else if (warp < 2 * kQuarter) {
    add_cosines(a, 1, static_cast<int>(threadIdx.x) - 32 * kQuarter, 32 * kQuarter, sums);
  } else if (warp < kWarps - kChunkWarps) {
    add_gates(a, static_cast<int>(threadIdx.x) - 64 * kQuarter, 64 * kQuarter, sums);
  } else {
    add_chunks(a, static_cast<int>(threadIdx.x) - 32 * (kWarps - kChunkWarps), shared.runs, sums);
  }
  if (lane_of_thread() == 0) shared.of_warp[warp] = sums;
  __syncthreads();
  if (warp > 0) return;
  sum_over_warps(shared);
  if (threadIdx.x != 0) return;
  Run<ClassRows> run = shared.runs[0];
  for (int w = 1; w < kChunkWarps; ++w) run.add(shared.runs[32 * w]);
  const ClassRows::Closed classes = run.close();
  const BatchTotals& all = shared.all;

  store(a.blocks_ended, 0u);
  const Results& results = a.results;
  if (results.unit_counts != nullptr) {
    store(results.unit_counts, all.counts[kDead]);
    store(results.unit_counts + 1, all.counts[kAlwaysOn]);
  }
  if (results.site == nullptr || load(&a.admission->records) == 0) return;
  BatchSums batch;
  batch.batches = 1;
  batch.rows = static_cast<double>(a.rows);
  batch.width = static_cast<double>(a.width);
  batch.labelled = a.labelled ? 1 : 0;
  batch.nonfinite = static_cast<double>(all.nonfinite);
  batch.last_batch = results.header == nullptr ? 0 : load(&results.header->batch);
  if (a.sums[0] != nullptr) batch.feature = cosine_sums(all, classes, 0);
  if (a.sums[1] != nullptr) batch.gradient = cosine_sums(all, classes, 1);
  if (a.gates != nullptr) {
    batch.gates = gate_sums({a.rows, a.width, all.counts[kOpen], all.counts[kDisagreeAll],
                             all.counts[kDisagreeWithin], classes.pairs});
  }
  BatchSums site = load(results.site);
  accumulate(batch, site);
  store(results.site, site);
}

template <int kBatches>
__global__ void __launch_bounds__(kColumnThreads, 2)
    column_pass(const __grid_constant__ Batches<kBatches> batches) {
  TFC_DYNAMIC_SHARED(char, memory);
  const ColumnPassArguments& a = batches.of[kBatches == 1 ? 0 : blockIdx.y / kQuantities];
  const int quantity = static_cast<int>(blockIdx.y % kQuantities);
  if (blockIdx.x >= a.blocks || !a.has(quantity)) return;
  const int64_t column = blockIdx.x * int64_t{kColumnsPerBlock} + lane_of_thread() * kUnitsPerLane;
  const bool leads = warp_of_thread() == 0;
  ColumnTotals totals{};
  if (quantity == kGateCounts) {
    const OpenRows::Closed closed = close_gates(a, column, reinterpret_cast<Run<OpenRows>*>(memory));
    if (leads) {
      count_units(a, column, closed, totals);
#pragma unroll
      for (int64_t& count : totals.counts) count = warp_sum(count);
    }
  } else {
    auto* runs = reinterpret_cast<Run<UnitSums>*>(memory);
    const UnitSums::Closed closed =
        a.sums_are_double
            ? close_sums<DoubleColumns>(a, static_cast<const double*>(a.sums[quantity]), column, runs)
            : close_sums<FloatColumns>(a, static_cast<const float*>(a.sums[quantity]), column, runs);
    if (leads) {
      double all = 0;
#pragma unroll
      for (const double sum : closed.all) all += sum * sum;
      totals.all = warp_sum(all);
      totals.within = warp_sum(closed.within);
    }
  }
  unsigned* ticket = reinterpret_cast<unsigned*>(memory);  // only warp 0 has still read what lies there
  if (leads && lane_of_thread() == 0) {
    store(a.column_totals + (quantity * a.blocks + blockIdx.x), totals);
    __threadfence();  // the totals are there before the block counts as ended
    *ticket = atomicAdd(a.blocks_ended, 1u);
  }
  __syncthreads();
  const bool last = *ticket == a.blocks_of_all() - 1;
  if (!last) return;
  __threadfence();
  finish(a, memory);
}

ColumnPassArguments arguments(const OpenBatch& open) {
  const Plan& plan = open.plan;
  const bool pair = plan.tensors() == 2;
  return {plan.rows,
          plan.width,
          plan.pitch,
          plan.chunks,
          plan.tiles,
          plan.labelled,
          plan.scalar == Scalar::kFloat64,
          {plan.cosines() ? part_at<void>(open, plan.sums[0]) : nullptr,
           pair ? part_at<void>(open, plan.sums[1]) : nullptr},
          plan.counts() ? part_at<uint8_t>(open, plan.gates) : nullptr,
          part_at<TileTotals>(open, plan.tile_totals),
          part_at<ChunkTotals>(open, plan.chunk_totals),
          plan.column_blocks(),
          part_at<ColumnTotals>(open, plan.column_totals),
          part_at<unsigned>(open, plan.blocks_ended),
          part_at<Admission>(open, plan.admission),
          open.results};
}

template <int kBatches>
cudaError_t launch(const OpenBatch* open, int64_t count, cudaStream_t stream) {
  Batches<kBatches> batches;
  int64_t blocks = 1;
  for (int64_t i = 0; i < count; ++i) {
    batches.of[i] = arguments(open[i]);
    blocks = std::max(blocks, batches.of[i].blocks);
  }
  constexpr int64_t kShared = std::max(
      {sizeof(Run<UnitSums>) * kColumnThreads, sizeof(Run<OpenRows>) * kColumnThreads, sizeof(FinishShared)});
  static_assert(kShared <= 48 * 1024);
  const dim3 grid{static_cast<unsigned>(blocks), static_cast<unsigned>(kQuantities * count), 1};
  const dim3 block{kColumnThreads, 1, 1};
  return TFC_LAUNCH(column_pass<kBatches>, grid, block, kShared, stream, batches);
}

}  // namespace

cudaError_t sum_up(const OpenBatch* batches, int64_t count, cudaStream_t stream) {
  if (count == 1) return launch<1>(batches, 1, stream);
  for (int64_t done = 0; done < count; done += kBatchesAtOnce) {
    const int64_t now = std::min<int64_t>(count - done, kBatchesAtOnce);
    const cudaError_t error = launch<kBatchesAtOnce>(batches + done, now, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

}  // namespace tfc::cuda
