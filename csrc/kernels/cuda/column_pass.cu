// The column pass: chunks -> classes -> all rows, unit by unit, in double and int64; then the sums of the
// batch, which the block that ends last adds to the site. See partials.cuh for how chunks are put together.
// One launch does this for several batches.
//
// A block has 128 columns, four per lane, of one tensor's sums or of the gates; its 16 warps take 16 ranges
// of chunks, put together in order. A warp knows the shapes of 32 chunks at a time, so that the numbers of
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

// Neighbouring columns of a partial row of float, double or gates. Those that do not exist are 0. As many
// chunks are on their way at once as there are registers for.
struct FloatColumns {
  static constexpr int kChunksAtOnce = 4;
  float4 values = {0, 0, 0, 0};
  __device__ __forceinline__ void read(const float* row) {
    values = load(reinterpret_cast<const float4*>(row));
  }
  __device__ __forceinline__ void keep(int64_t exist) {
    if (exist < 2) values.y = 0;
    if (exist < 3) values.z = 0;
    if (exist < 4) values.w = 0;
  }
  __device__ __forceinline__ void add_to(UnitSums& sums, int32_t) const {
    sums.sum[0] += values.x;
    sums.sum[1] += values.y;
    sums.sum[2] += values.z;
    sums.sum[3] += values.w;
  }
};
struct DoubleColumns {
  static constexpr int kChunksAtOnce = 1;
  double values[kUnitsPerLane] = {};
  __device__ __forceinline__ void read(const double* row) {
#pragma unroll
    for (int i = 0; i < kUnitsPerLane; ++i) values[i] = load(row + i);
  }
  __device__ __forceinline__ void keep(int64_t exist) {
#pragma unroll
    for (int i = 1; i < kUnitsPerLane; ++i) {
      if (exist <= i) values[i] = 0;
    }
  }
  __device__ __forceinline__ void add_to(UnitSums& sums, int32_t) const {
#pragma unroll
    for (int i = 0; i < kUnitsPerLane; ++i) sums.sum[i] += values[i];
  }
};
struct GateColumns {
  static constexpr int kChunksAtOnce = 4;
  uint32_t bytes = 0;
  __device__ __forceinline__ void read(const uint8_t* row) {
    bytes = load(reinterpret_cast<const uint32_t*>(row));
  }
  __device__ __forceinline__ void keep(int64_t exist) {
    if (exist < kUnitsPerLane) bytes &= (1u << (8 * exist)) - 1;
  }
  __device__ __forceinline__ void add_to(OpenRows& sums, int32_t rows) const {
#pragma unroll
    for (int i = 0; i < kUnitsPerLane; ++i) sums.open[i] += static_cast<int32_t>(bytes >> (8 * i) & 255u);
    sums.rows += rows;
  }
};
static_assert(kUnitsPerLane == 4);

// The partial rows of one chunk, as they come.
template <typename Columns>
struct PartialRows {
  Columns head, inner, tail;

  // `first` points to where the lane's columns begin in the chunk's first row; `exist`: columns from there
  // on.
  template <typename Number>
  __device__ __forceinline__ void read(const Number* first, int64_t pitch, int64_t exist, int32_t flags) {
    if (exist <= 0) return;
    if ((flags & kHasHead) != 0) head.read(first + kHeadSlot * pitch);
    if ((flags & kHasInner) != 0) inner.read(first + kInnerSlot * pitch);
    if ((flags & kHasTail) != 0) tail.read(first + kTailSlot * pitch);
  }
  // Appends the chunk to the run of those before it, of which `open` is the end that a class may go on from.
  template <typename Part>
  __device__ __forceinline__ void append_to(Run<Part>& run, Part& open, int64_t exist,
                                            const ChunkShape& shape) {
    if (exist < kUnitsPerLane) {
      head.keep(exist);
      inner.keep(exist);
      tail.keep(exist);
    }
    head.add_to(open, shape.head_rows);
    if (!shape.has(kSplit)) return;  // as most are where classes are long
    if (run.split) {
      run.closed.add(open.close());
    } else {
      run.head = open;
    }
    run.split = true;
    Part whole, next;
    inner.add_to(whole, 0);
#pragma unroll
    for (int i = 0; i < kUnitsPerLane; ++i) add_whole(run.closed, whole, i);
    tail.add_to(next, shape.tail_rows);
    open = next;
  }

 private:
  // Classes that lie wholly inside a chunk: what else there is to know of them is in its totals.
  static __device__ __forceinline__ void add_whole(UnitSums::Closed& closed, const UnitSums& whole, int i) {
    closed.all[i] += whole.sum[i];
  }
  static __device__ __forceinline__ void add_whole(OpenRows::Closed& closed, const OpenRows& whole, int i) {
    closed.open[i] += whole.open[i];
  }
};

// The chunks of the warp's range, put together; then the ranges, neighbours first. The result is that of warp
// 0. `runs`: shared, [kWarps / 2][32].
template <typename Part, typename Columns, typename Number>
__device__ __forceinline__ typename Part::Closed put_together(const ColumnPassArguments& a,
                                                              const Number* numbers, int64_t column,
                                                              Run<Part>* runs) {
  constexpr int kChunksAtOnce = Columns::kChunksAtOnce;
  const int warp = warp_of_thread();
  const int lane = lane_of_thread();
  const int64_t exist = a.width - column;
  const int64_t range = (a.chunks + kWarps - 1) / kWarps;
  const int64_t begin = warp * range;
  const int64_t end = begin + range < a.chunks ? begin + range : a.chunks;
  Run<Part> run;
  Part open;
  for (int64_t first = begin; first < end; first += 32) {
    ChunkShape mine{};
    if (first + lane < end) {
      const ChunkTotals* totals = a.chunk_totals + first + lane;
      mine = {load(&totals->flags), load(&totals->head_rows), load(&totals->tail_rows)};
    }
    const int count = static_cast<int>(end - first < 32 ? end - first : 32);
    for (int k = 0; k < count; k += kChunksAtOnce) {
      PartialRows<Columns> rows[kChunksAtOnce];
#pragma unroll
      for (int i = 0; i < kChunksAtOnce; ++i) {
        const int32_t flags = __shfl_sync(kFullWarp, mine.flags, (k + i) % 32);
        const Number* at = numbers + (first + k + i) * kSlots * a.pitch + column;
        if (k + i < count) rows[i].read(at, a.pitch, exist, flags);
      }
#pragma unroll
      for (int i = 0; i < kChunksAtOnce; ++i) {
        const ChunkShape shape{__shfl_sync(kFullWarp, mine.flags, (k + i) % 32),
                               __shfl_sync(kFullWarp, mine.head_rows, (k + i) % 32),
                               __shfl_sync(kFullWarp, mine.tail_rows, (k + i) % 32)};
        if (k + i < count) rows[i].append_to(run, open, exist, shape);
      }
    }
  }
  (run.split ? run.tail : run.head) = open;
#pragma unroll 1
  for (int step = 1; step < kWarps; step *= 2) {
    Run<Part>& place = runs[warp / (2 * step) * 32 + lane];
    if (warp % (2 * step) == step) place = run;
    __syncthreads();
    if (warp % (2 * step) == 0) run.add(place);
    __syncthreads();
  }
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

// What the last block adds up word by word, doubles first: the totals of the columns, by quantity, and those
// of the tiles.
constexpr int kOfTiles = kQuantities;
constexpr int kRecords = kQuantities + 1;
constexpr int kMostWords = 16;

struct RecordSource {
  const int64_t* first;
  int64_t count;
  int words, doubles;
};

__device__ __forceinline__ RecordSource source_of(const ColumnPassArguments& a, int which) {
  if (which == kOfTiles) {
    return {reinterpret_cast<const int64_t*>(a.tile_totals), a.chunks * a.tiles, sizeof(TileTotals) / 8,
            offsetof(TileTotals, disagree) / 8};
  }
  return {reinterpret_cast<const int64_t*>(a.column_totals + which * a.blocks), a.has(which) ? a.blocks : 0,
          sizeof(ColumnTotals) / 8, offsetof(ColumnTotals, counts) / 8};
}

__device__ __forceinline__ int64_t sum_of_words(int64_t a, int64_t b, bool are_doubles) {
  return are_doubles ? __double_as_longlong(__longlong_as_double(a) + __longlong_as_double(b)) : a + b;
}

// Shared memory of `finish`.
struct FinishShared {
  BatchSums site;
  Run<ClassRows> runs[kColumnThreads / 2];
  int64_t of_warp[kWarps][kMostWords];
  int64_t words[kRecords][kMostWords];

  template <typename Totals>
  __device__ const Totals& totals(int which) const {
    return *reinterpret_cast<const Totals*>(words[which]);
  }
};

// Every fourth warp adds up the records of one kind, two at a time, one word per lane; then the first warp
// adds up what they have. Ends with a barrier.
__device__ __forceinline__ void add_records(const ColumnPassArguments& a, FinishShared& shared) {
  const int lane = lane_of_thread();
  const int warp = warp_of_thread();
  const int word = lane % kMostWords;
  const RecordSource source = source_of(a, warp % kRecords);
  int64_t sum = 0;  // 0 as a double, too
  constexpr int kAtOnce = 8;
  constexpr int kStep = 2 * kWarps / kRecords;
  for (int64_t i = warp / kRecords * 2 + lane / kMostWords; i < source.count; i += kAtOnce * kStep) {
    int64_t words[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
      const int64_t record = i + k * kStep;
      const bool exists = record < source.count && word < source.words;
      words[k] = exists ? load(source.first + record * source.words + word) : 0;
    }
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) sum = sum_of_words(sum, words[k], word < source.doubles);
  }
  sum = sum_of_words(sum, __shfl_xor_sync(kFullWarp, sum, kMostWords), word < source.doubles);
  if (lane < kMostWords) shared.of_warp[warp][word] = sum;
  __syncthreads();
  const int which = static_cast<int>(threadIdx.x) / kMostWords;
  if (which < kRecords) {
    const bool are_doubles = word < source_of(a, which).doubles;
    sum = 0;
    for (int w = which; w < kWarps; w += kRecords) {
      sum = sum_of_words(sum, shared.of_warp[w][word], are_doubles);
    }
    shared.words[which][word] = sum;
  }
  __syncthreads();
}

__device__ __forceinline__ Run<ClassRows> run_of(const ChunkTotals& chunk) {
  Run<ClassRows> run;
  run.split = (chunk.flags & kSplit) != 0;
  run.head.rows = chunk.head_rows;
  run.tail.rows = chunk.tail_rows;
  run.closed.pairs = chunk.inner_pairs;
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    run.head.valid[t] = chunk.head_valid[t];
    run.tail.valid[t] = chunk.tail_valid[t];
    run.closed.valid_pairs[t] = chunk.inner_valid_pairs[t];
  }
  return run;
}

// The rows of the classes, for thread 0: each thread a range of chunks, then neighbours, in a tree.
__device__ __forceinline__ ClassRows::Closed close_classes(const ColumnPassArguments& a,
                                                           Run<ClassRows>* runs) {
  const int thread = static_cast<int>(threadIdx.x);
  Run<ClassRows> run;
  const int64_t range = (a.chunks + kColumnThreads - 1) / kColumnThreads;
  for (int64_t i = thread * range; i < (thread + 1) * range && i < a.chunks; ++i) {
    run.add(run_of(load(a.chunk_totals + i)));
  }
  // Threads that have no chunk have nothing to add.
  const int64_t threads = (a.chunks + range - 1) / range;
#pragma unroll 1
  for (int step = 1; step < threads; step *= 2) {
    Run<ClassRows>& place = runs[thread / (2 * step)];
    if (thread % (2 * step) == step) place = run;
    __syncthreads();
    if (thread % (2 * step) == 0) run.add(place);
    __syncthreads();
  }
  return run.close();
}

__device__ __forceinline__ CosineSums cosine_sums(const ColumnTotals& columns, const TileTotals& tiles,
                                                  const ClassRows::Closed& classes, int t) {
  CosineSums out;
  out.valid = static_cast<double>(tiles.valid[t]);
  out.zero = static_cast<double>(tiles.zero[t]);
  out.norm = tiles.norm[t];
  out.all_pairs = out.valid * (out.valid - 1);
  out.within_pairs = static_cast<double>(classes.valid_pairs[t]);
  out.all = columns.all - out.valid;
  out.within = columns.within + tiles.within[t] - out.valid;
  return out;
}

// One thread: the sums of the batch join those of the site.
__device__ __forceinline__ void add_batch(const ColumnPassArguments& a, const FinishShared& shared,
                                          const ClassRows::Closed& classes, double last_batch,
                                          BatchSums& site) {
  const auto& gates = shared.totals<ColumnTotals>(kGateCounts);
  const auto& tiles = shared.totals<TileTotals>(kOfTiles);
  if (a.results.unit_counts != nullptr) {
    store(a.results.unit_counts, gates.counts[kDead]);
    store(a.results.unit_counts + 1, gates.counts[kAlwaysOn]);
  }
  BatchSums batch;
  batch.batches = 1;
  batch.rows = static_cast<double>(a.rows);
  batch.width = static_cast<double>(a.width);
  batch.labelled = a.labelled ? 1 : 0;
  batch.nonfinite = static_cast<double>(tiles.nonfinite);
  batch.last_batch = last_batch;
  if (a.sums[0] != nullptr) {
    batch.feature = cosine_sums(shared.totals<ColumnTotals>(kFeatureSums), tiles, classes, 0);
  }
  if (a.sums[1] != nullptr) {
    batch.gradient = cosine_sums(shared.totals<ColumnTotals>(kGradientSums), tiles, classes, 1);
  }
  if (a.gates != nullptr) {
    batch.gates = gate_sums({a.rows, a.width, gates.counts[kOpen], gates.counts[kDisagreeAll],
                             gates.counts[kDisagreeWithin] + tiles.disagree, classes.pairs});
  }
  accumulate(batch, site);
}

// The block that ends last: all that is left of the batch. Few instructions, since they run once and have to
// be fetched.
__device__ __noinline__ void finish(const ColumnPassArguments& a, char* memory) {
  FinishShared& shared = *reinterpret_cast<FinishShared*>(memory);
  const Results& results = a.results;
  const bool records = results.site != nullptr && load(&a.admission->records) != 0;
  const double last_batch = results.header == nullptr ? 0 : load(&results.header->batch);
  double* site = reinterpret_cast<double*>(&shared.site);
  const bool has_word = records && threadIdx.x < kSiteDoubles;
  double word = 0;
  if (has_word) word = load(reinterpret_cast<const double*>(results.site) + threadIdx.x);
  __syncthreads();  // the memory has been read to the end
  if (has_word) site[threadIdx.x] = word;
  const ClassRows::Closed classes = close_classes(a, shared.runs);
  add_records(a, shared);
  if (threadIdx.x == 0) {
    store(a.blocks_ended, 0u);
    add_batch(a, shared, classes, last_batch, shared.site);
  }
  if (threadIdx.x >= 32) return;
  __syncwarp();
  if (has_word) store(reinterpret_cast<double*>(results.site) + threadIdx.x, site[threadIdx.x]);
}

template <int kBatches>
__global__ void __launch_bounds__(kColumnThreads, 1)
    column_pass(const __grid_constant__ Batches<kBatches> batches) {
  TFC_DYNAMIC_SHARED(char, memory);
  const ColumnPassArguments& a = batches.of[kBatches == 1 ? 0 : blockIdx.y / kQuantities];
  const int quantity = static_cast<int>(blockIdx.y % kQuantities);
  if (blockIdx.x >= a.blocks || !a.has(quantity)) return;
  const int64_t column = blockIdx.x * int64_t{kColumnsPerBlock} + lane_of_thread() * kUnitsPerLane;
  const bool leads = warp_of_thread() == 0;
  ColumnTotals totals{};
  if (quantity == kGateCounts) {
    auto* runs = reinterpret_cast<Run<OpenRows>*>(memory);
    const OpenRows::Closed closed = put_together<OpenRows, GateColumns>(a, a.gates, column, runs);
    if (leads) {
      count_units(a, column, closed, totals);
#pragma unroll
      for (int64_t& count : totals.counts) count = warp_sum(count);
    }
  } else {
    auto* runs = reinterpret_cast<Run<UnitSums>*>(memory);
    const void* sums = a.sums[quantity];
    const UnitSums::Closed closed =
        a.sums_are_double
            ? put_together<UnitSums, DoubleColumns>(a, static_cast<const double*>(sums), column, runs)
            : put_together<UnitSums, FloatColumns>(a, static_cast<const float*>(sums), column, runs);
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
  constexpr int64_t kShared = std::max({sizeof(Run<UnitSums>) * kColumnThreads / 2,
                                        sizeof(Run<OpenRows>) * kColumnThreads / 2, sizeof(FinishShared)});
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
