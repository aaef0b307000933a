// The column pass: chunks -> classes -> all rows, unit by unit, in double and int64; then the sums of the
// batch, which the block that ends last adds to the site. See partials.cuh for how chunks are put together.
//
// A block has 32 columns, one per lane; its 16 warps take 16 ranges of chunks, put together in order.
//
// Traffic: reads what the row pass left (plan.h): 9 bytes per partial row and column, 24 bytes per chunk and
// tile, 4 bytes of flags per chunk, warp and block; writes 8 bytes per unit of the window buffer;
// 72 bytes per block of totals. One launch; the last block is found by a counter, so that the sums need no
// launch of their own, and adds all totals in an order of its own, whichever block it is.
#include <algorithm>

#include "block.cuh"
#include "partials.cuh"
#include "passes.cuh"

namespace tfc::cuda {
namespace {

constexpr int kWarps = kColumnThreads / 32;

struct ColumnPassArguments {
  int64_t rows, width, pitch, chunks, tiles;
  bool labelled;
  bool sums_are_double;
  const void* sums[2];   // [chunks, kSlots, pitch]; null: that tensor has no cosines
  const uint8_t* gates;  // [chunks, kSlots, pitch]; null: no gates
  const TileTotals* tile_totals;
  const ChunkTotals* chunk_totals;
  ColumnTotals* column_totals;  // [blocks]
  unsigned* blocks_ended;
  const Admission* admission;
  Results results;
};

__device__ __forceinline__ int warp_of_thread() { return static_cast<int>(threadIdx.x) / 32; }
__device__ __forceinline__ int lane_of_thread() { return static_cast<int>(threadIdx.x) % 32; }

// `make(chunk)` for each chunk of the warp's range, put together; then the ranges. The result is that of
// warp 0. `runs`: shared, [kWarps][32].
template <typename Part, typename Make>
__device__ __forceinline__ Run<Part> put_together(int64_t chunks, Run<Part>* runs, const Make& make) {
  const int warp = warp_of_thread();
  const int64_t range = (chunks + kWarps - 1) / kWarps;
  const int64_t begin = warp * range;
  const int64_t end = begin + range < chunks ? begin + range : chunks;
  Run<Part> run;
  for (int64_t chunk = begin; chunk < end; ++chunk) run.add(make(chunk));
  __syncthreads();  // the shared runs may still be read from the call before
  runs[threadIdx.x] = run;
  __syncthreads();
  if (warp == 0) {
    for (int w = 1; w < kWarps; ++w) run.add(runs[w * 32 + lane_of_thread()]);
  }
  return run;
}

template <typename Sum>
__device__ __forceinline__ UnitSum::Closed close_sums(const ColumnPassArguments& a, const Sum* sums,
                                                      int64_t column, Run<UnitSum>* runs) {
  const bool exists = column < a.width;
  const Run<UnitSum> run = put_together<UnitSum>(a.chunks, runs, [&](int64_t chunk) {
    const int32_t flags = load(&a.chunk_totals[chunk].flags);
    const Sum* row = sums + chunk * kSlots * a.pitch + column;
    Run<UnitSum> of_chunk;
    of_chunk.split = (flags & kSplit) != 0;
    if (!exists) return of_chunk;
    if ((flags & kHasHead) != 0) of_chunk.head.sum = load(row);
    if ((flags & kHasInner) != 0) of_chunk.closed.all = load(row + kInnerSlot * a.pitch);
    if ((flags & kHasTail) != 0) of_chunk.tail.sum = load(row + kTailSlot * a.pitch);
    return of_chunk;
  });
  return run.close();
}

__device__ __forceinline__ OpenRows::Closed close_gates(const ColumnPassArguments& a, int64_t column,
                                                        Run<OpenRows>* runs) {
  const bool exists = column < a.width;
  const Run<OpenRows> run = put_together<OpenRows>(a.chunks, runs, [&](int64_t chunk) {
    const ChunkTotals* totals = a.chunk_totals + chunk;
    const int32_t flags = load(&totals->flags);
    const uint8_t* row = a.gates + chunk * kSlots * a.pitch + column;
    Run<OpenRows> of_chunk;
    of_chunk.split = (flags & kSplit) != 0;
    if (!exists) return of_chunk;
    if ((flags & kHasHead) != 0) of_chunk.head = {load(row), load(&totals->head_rows)};
    if ((flags & kHasInner) != 0) of_chunk.closed.open = load(row + kInnerSlot * a.pitch);
    if ((flags & kHasTail) != 0) of_chunk.tail = {load(row + kTailSlot * a.pitch), load(&totals->tail_rows)};
    return of_chunk;
  });
  return run.close();
}

// Warp 0: the totals of the block's columns, and the window buffer.
__device__ __forceinline__ void count_units(const ColumnPassArguments& a, int64_t column, int64_t open,
                                            ColumnTotals& totals) {
  if (column >= a.width) return;
  totals.open = open;
  totals.disagree_all = open * (open - a.rows);
  totals.dead = open == 0;
  totals.always_on = open == a.rows;
  const Admission admission = load(a.admission);
  if (admission.units_begin < 0) return;
  const Results& results = a.results;
  const int32_t step = static_cast<int32_t>(load(&results.header->step));
  int32_t* last_open = results.units + admission.units_begin + column;
  if (open > 0) store(last_open, step);
  if (open < a.rows) store(last_open + results.units_capacity, step);
}

__device__ __forceinline__ void sum_over_warp(ColumnTotals& totals) {
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    totals.all[t] = warp_sum(totals.all[t]);
    totals.within[t] = warp_sum(totals.within[t]);
  }
  totals.open = warp_sum(totals.open);
  totals.disagree_all = warp_sum(totals.disagree_all);
  totals.disagree_within = warp_sum(totals.disagree_within);
  totals.dead = warp_sum(totals.dead);
  totals.always_on = warp_sum(totals.always_on);
}

// What the last block has added up, per thread and then over the block.
struct BatchTotals {
  ColumnTotals columns;
  int64_t valid[2], zero[2], nonfinite;
  double norm[2];
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

__device__ __forceinline__ void sum_over_block(BatchTotals& sums, double* slots) {
  int64_t* counts = reinterpret_cast<int64_t*>(slots);
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    sums.columns.all[t] = block_sum(sums.columns.all[t], slots);
    sums.columns.within[t] = block_sum(sums.columns.within[t], slots);
    sums.norm[t] = block_sum(sums.norm[t], slots);
    sums.valid[t] = block_sum(sums.valid[t], counts);
    sums.zero[t] = block_sum(sums.zero[t], counts);
  }
  sums.nonfinite = block_sum(sums.nonfinite, counts);
  sums.columns.open = block_sum(sums.columns.open, counts);
  sums.columns.disagree_all = block_sum(sums.columns.disagree_all, counts);
  sums.columns.disagree_within = block_sum(sums.columns.disagree_within, counts);
  sums.columns.dead = block_sum(sums.columns.dead, counts);
  sums.columns.always_on = block_sum(sums.columns.always_on, counts);
}

__device__ __forceinline__ CosineSums cosine_sums(const BatchTotals& sums, const ClassRows::Closed& classes,
                                                  int t) {
  CosineSums out;
  out.valid = static_cast<double>(sums.valid[t]);
  out.zero = static_cast<double>(sums.zero[t]);
  out.norm = sums.norm[t];
  out.all_pairs = out.valid * (out.valid - 1);
  out.within_pairs = static_cast<double>(classes.valid_pairs[t]);
  out.all = sums.columns.all[t] - out.valid;
  out.within = sums.columns.within[t] - out.valid;
  return out;
}

// The block that ends last: all that is left of the batch.
__device__ __noinline__ void finish(const ColumnPassArguments& a, char* memory) {
  BatchTotals sums{};
  for (int64_t i = threadIdx.x; i < gridDim.x; i += kColumnThreads) {
    const ColumnTotals totals = load(a.column_totals + i);
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      sums.columns.all[t] += totals.all[t];
      sums.columns.within[t] += totals.within[t];
    }
    sums.columns.open += totals.open;
    sums.columns.disagree_all += totals.disagree_all;
    sums.columns.disagree_within += totals.disagree_within;
    sums.columns.dead += totals.dead;
    sums.columns.always_on += totals.always_on;
  }
  for (int64_t i = threadIdx.x; i < a.chunks * a.tiles; i += kColumnThreads) {
    const TileTotals totals = load(a.tile_totals + i);
#pragma unroll
    for (int t = 0; t < 2; ++t) sums.columns.within[t] += totals.within[t];
    sums.columns.disagree_within += totals.disagree;
  }
  // Chunks in order: each thread a range, then neighbours, in a tree.
  Run<ClassRows> run;
  const int64_t range = (a.chunks + kColumnThreads - 1) / kColumnThreads;
  for (int64_t i = threadIdx.x * range; i < (threadIdx.x + 1) * range && i < a.chunks; ++i) {
    add_chunk(load(a.chunk_totals + i), run, sums);
  }
  Run<ClassRows>* runs = reinterpret_cast<Run<ClassRows>*>(memory);
  __syncthreads();
  runs[threadIdx.x] = run;
  for (unsigned step = 1; step < kColumnThreads; step *= 2) {
    __syncthreads();
    if (threadIdx.x % (2 * step) == 0) runs[threadIdx.x].add(runs[threadIdx.x + step]);
  }
  ClassRows::Closed classes;
  if (threadIdx.x == 0) classes = runs[0].close();
  sum_over_block(sums, reinterpret_cast<double*>(memory));
  if (threadIdx.x != 0) return;

  store(a.blocks_ended, 0u);
  const Results& results = a.results;
  if (results.unit_counts != nullptr) {
    store(results.unit_counts, sums.columns.dead);
    store(results.unit_counts + 1, sums.columns.always_on);
  }
  if (results.site == nullptr || load(&a.admission->records) == 0) return;
  BatchSums batch;
  batch.batches = 1;
  batch.rows = static_cast<double>(a.rows);
  batch.width = static_cast<double>(a.width);
  batch.labelled = a.labelled ? 1 : 0;
  batch.nonfinite = static_cast<double>(sums.nonfinite);
  batch.last_batch = results.header == nullptr ? 0 : load(&results.header->batch);
  if (a.sums[0] != nullptr) batch.feature = cosine_sums(sums, classes, 0);
  if (a.sums[1] != nullptr) batch.gradient = cosine_sums(sums, classes, 1);
  if (a.gates != nullptr) {
    batch.gates = gate_sums({a.rows, a.width, sums.columns.open, sums.columns.disagree_all,
                             sums.columns.disagree_within, classes.pairs});
  }
  BatchSums site = load(results.site);
  accumulate(batch, site);
  store(results.site, site);
}

__global__ void __launch_bounds__(kColumnThreads) column_pass(const ColumnPassArguments a) {
  TFC_DYNAMIC_SHARED(char, memory);
  const int64_t column = blockIdx.x * int64_t{32} + lane_of_thread();
  ColumnTotals totals{};
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    if (a.sums[t] == nullptr) continue;
    auto* runs = reinterpret_cast<Run<UnitSum>*>(memory);
    const UnitSum::Closed closed = a.sums_are_double
                                       ? close_sums(a, static_cast<const double*>(a.sums[t]), column, runs)
                                       : close_sums(a, static_cast<const float*>(a.sums[t]), column, runs);
    totals.all[t] = closed.all * closed.all;
    totals.within[t] = closed.within;
  }
  if (a.gates != nullptr) {
    const OpenRows::Closed closed = close_gates(a, column, reinterpret_cast<Run<OpenRows>*>(memory));
    totals.disagree_within = closed.disagree;
    if (warp_of_thread() == 0) count_units(a, column, closed.open, totals);
  }
  unsigned* ticket = reinterpret_cast<unsigned*>(memory);  // only warp 0 has still read what lies there
  if (warp_of_thread() == 0) {
    sum_over_warp(totals);
    if (lane_of_thread() == 0) {
      store(a.column_totals + blockIdx.x, totals);
      __threadfence();  // the totals are there before the block counts as ended
      *ticket = atomicAdd(a.blocks_ended, 1u);
    }
  }
  __syncthreads();
  const bool last = *ticket == gridDim.x - 1;
  if (!last) return;
  __threadfence();
  finish(a, memory);
}

}  // namespace

cudaError_t launch_column_pass(const Pass& pass, const Results& results, cudaStream_t stream) {
  const Plan& plan = pass.plan;
  const bool pair = plan.tensors() == 2;
  const ColumnPassArguments a{
      plan.rows,
      plan.width,
      plan.pitch,
      plan.chunks,
      plan.tiles,
      plan.labelled,
      plan.scalar == Scalar::kFloat64,
      {plan.cosines() ? pass.at<void>(plan.sums[0]) : nullptr, pair ? pass.at<void>(plan.sums[1]) : nullptr},
      plan.counts() ? pass.at<uint8_t>(plan.gates) : nullptr,
      pass.at<TileTotals>(plan.tile_totals),
      pass.at<ChunkTotals>(plan.chunk_totals),
      pass.at<ColumnTotals>(plan.column_totals),
      pass.at<unsigned>(plan.blocks_ended),
      pass.at<Admission>(plan.admission),
      results};
  constexpr int64_t kRunBytes =
      std::max({sizeof(Run<UnitSum>), sizeof(Run<OpenRows>), sizeof(Run<ClassRows>)});
  static_assert(kRunBytes * kColumnThreads <= 48 * 1024);
  const dim3 grid{static_cast<unsigned>(std::max<int64_t>(1, (plan.width + 31) / 32)), 1, 1};
  const dim3 block{kColumnThreads, 1, 1};
  return TFC_LAUNCH(column_pass, grid, block, kRunBytes * kColumnThreads, stream, a);
}

}  // namespace tfc::cuda
