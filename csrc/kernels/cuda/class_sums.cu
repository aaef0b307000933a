// Sums of the unit rows of each class.
//
//   row_scales     the scale of each row (row_scales.cu)
//   class_chunks   one block walks one chunk of rows in class order, class by class, over one tile of the
//                  columns. A class that lies wholly inside the chunk is added to the result at once: no
//                  other block has rows of it. Of one that is cut by an end of the chunk a partial row is
//                  left: of the class that began before the chunk, of the one that goes on after it.
//   class_joins    one block for each end of a chunk and 32 columns: if a class is cut there for the first
//                  time, adds up its partial rows in the order of the chunks, and adds them to the result.
//
// So every class is added to the result once, by one thread per column, with no atomics; rows are counted
// with atomics, on integers. Unit rows are added up four at a time in float32, up to 32 of these sums make
// one more, and the rest is double.
//
// Traffic: reads the rows twice and, per row, 16 bytes of scale (float64: 32) once per tile, 8 bytes of
// order and up to 20 of class_ptr; writes the scales. Partial rows: up to two per chunk, 8 bytes per column,
// written and read once. The result: 16 bytes per class with rows and column, 32 with what rounding takes
// away. Three launches (two if there is one chunk).
#include "class_sums.h"

#include "block.cuh"
#include "elements.cuh"
#include "norms.cuh"
#include "passes.cuh"

namespace tfc::cuda {
namespace {

constexpr int kMaxThreads = 256;
constexpr int kRows = 4;          // at once
constexpr int kJoin = 32;         // additions of a float32 sum
constexpr int kPartialSlots = 2;  // of a chunk: of the class that began before it, of the one that goes on
constexpr int kJoinWarps = 16;

struct ClassSumsArguments {
  const void* data;
  int64_t stride;
  const void* scales;  // [rows] RowScale
  Groups groups;
  int32_t rows, width, chunk_rows;
  bool aligned;
  int64_t pitch;
  double* partials;  // out: [chunks, kPartialSlots, pitch]
  ClassSums to;
};

struct ClassAt {
  int64_t label;
  int32_t begin, end;  // positions
};

// The class of the row at `position`; without labels all rows are one.
__device__ __forceinline__ ClassAt class_at(const ClassSumsArguments& a, int32_t position) {
  if (a.groups.label_at == nullptr) return {0, 0, a.rows};
  const int32_t label = load(a.groups.label_at + position);
  return {label, static_cast<int32_t>(load(a.groups.class_ptr + label)),
          static_cast<int32_t>(load(a.groups.class_ptr + label + 1))};
}

// The exact error of an addition is itself a double (Knuth's two-sum): sums over millions of batches stay as
// good as those over one.
__device__ __forceinline__ void add_to_result(const ClassSums& to, int64_t at, double value) {
  const double before = load(to.sums + at);
  const double after = before + value;
  store(to.sums + at, after);
  if (to.lost == nullptr) return;
  const double added = after - before;
  store(to.lost + at, load(to.lost + at) + ((before - (after - added)) + (value - added)));
}

// The rows of the class at hand. Every thread counts them, since that costs less than to ask who does.
struct RowCounts {
  int32_t rows, valid, nonfinite;

  __device__ __forceinline__ void clear() { rows = valid = nonfinite = 0; }
  __device__ __forceinline__ void add_to(int64_t* counts, int64_t label) const {
    const int32_t kinds[3] = {valid, rows - valid - nonfinite, nonfinite};
#pragma unroll
    for (int k = 0; k < 3; ++k) {
      if (kinds[k] == 0) continue;
      atomicAdd(reinterpret_cast<unsigned long long*>(counts + 3 * label + k),
                static_cast<unsigned long long>(kinds[k]));
    }
  }
};

// Sums of the columns of a thread over the class at hand.
template <typename T>
struct UnitSums {
  using Sum = typename Element<T>::Sum;
  Sum part[kPiece<T>];
  double whole[kPiece<T>];
  int additions;  // to `part`

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < kPiece<T>; ++i) part[i] = whole[i] = 0;
    additions = 0;
  }
  __device__ __forceinline__ void join() {
#pragma unroll
    for (int i = 0; i < kPiece<T>; ++i) {
      whole[i] += static_cast<double>(part[i]);
      part[i] = 0;
    }
    additions = 0;
  }
  // Rows from ... upto - 1 of those at hand.
  __device__ __forceinline__ void add(const uint4 (&piece)[kRows], const Sum (&pre)[kRows],
                                      const Sum (&scale)[kRows], int from, int upto) {
#pragma unroll
    for (int i = 0; i < kPiece<T>; ++i) {
      Sum block = 0;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        // A row that is left out may hold a NaN, which 0 times would not take away.
        const bool takes_part = r >= from && r < upto && scale[r] != 0;
        const Sum value = takes_part ? Element<T>::value(piece[r], i) : 0;
        block += value * pre[r] * scale[r];
      }
      part[i] += block;
    }
    if (++additions == kJoin) join();
  }
};

template <typename T>
__global__ void __launch_bounds__(kMaxThreads, 2) class_chunks(const ClassSumsArguments a) {
  using Sum = typename Element<T>::Sum;
  const int32_t begin = static_cast<int32_t>(blockIdx.x) * a.chunk_rows;
  const int32_t end = a.rows - begin < a.chunk_rows ? a.rows : begin + a.chunk_rows;
  const int32_t column = static_cast<int32_t>(blockIdx.y * blockDim.x + threadIdx.x) * kPiece<T>;
  const bool counts_rows = blockIdx.y == 0 && threadIdx.x == 0;
  if (column >= a.width && !counts_rows) return;
  RowCounts counts;
  counts.clear();
  UnitSums<T> sums;
  sums.clear();
  ClassAt at = class_at(a, begin);

  // `slot`: of the partial row; -1: the class is wholly inside.
  const auto put = [&](int slot) {
    sums.join();
    if (counts_rows) counts.add_to(a.to.counts, at.label);
    counts.clear();
#pragma unroll
    for (int i = 0; i < kPiece<T>; ++i) {
      if (column + i >= a.width) continue;
      if (slot < 0) {
        add_to_result(a.to, at.label * a.width + column + i, sums.whole[i]);
      } else {
        store(a.partials + (blockIdx.x * int64_t{kPartialSlots} + slot) * a.pitch + column + i,
              sums.whole[i]);
      }
    }
    sums.clear();
  };

  for (int32_t position = begin; position < end; position += kRows) {
    const int32_t count = end - position < kRows ? end - position : kRows;
    uint4 piece[kRows];
    Sum pre[kRows], scale[kRows];
    unsigned nonfinite = 0;  // one bit per row
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      scale[r] = 0;
      pre[r] = 1;
      piece[r] = {0, 0, 0, 0};
      if (r >= count) continue;
      const int64_t row = a.groups.order == nullptr ? position + r : load(a.groups.order + position + r);
      piece[r] = load_piece<T>(static_cast<const T*>(a.data) + row * a.stride, column, a.width, a.aligned);
      const RowScale<Sum> of_row = load(static_cast<const RowScale<Sum>*>(a.scales) + row);
      scale[r] = of_row.scale;
      pre[r] = power_of<Sum>(of_row.kind);
      if (of_row.norm != of_row.norm) nonfinite |= 1u << r;
    }
    for (int from = 0; from < count;) {
      const int32_t left = at.end - position;
      const int upto = left < count ? left : count;
      sums.add(piece, pre, scale, from, upto);
      counts.rows += upto - from;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r < from || r >= upto) continue;
        counts.valid += scale[r] != 0;
        counts.nonfinite += static_cast<int32_t>(nonfinite >> r & 1u);
      }
      if (left <= count) {
        put(at.begin < begin ? 0 : -1);
        if (position + upto < end) at = class_at(a, position + upto);
      }
      from = upto;
    }
  }
  if (at.end > end) put(at.begin < begin ? 0 : 1);
}

__global__ void __launch_bounds__(kJoinWarps * 32) class_joins(const ClassSumsArguments a) {
  TFC_DYNAMIC_SHARED(double, of_warp);  // [kJoinWarps][32]
  const int32_t column_blocks = (a.width + 31) / 32;
  const int32_t chunk = static_cast<int32_t>(blockIdx.x) / column_blocks;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int32_t column = static_cast<int32_t>(blockIdx.x) % column_blocks * 32 + lane;
  const int32_t cut = (chunk + 1) * a.chunk_rows;
  const ClassAt at = class_at(a, cut);
  // The whole block: the class begins here, or was cut before.
  if (at.begin >= cut || at.begin < cut - a.chunk_rows) return;
  const int32_t chunks = (at.end - 1) / a.chunk_rows + 1 - chunk;
  const int32_t per_warp = (chunks + kJoinWarps - 1) / kJoinWarps;
  const int32_t first = warp * per_warp;
  const int32_t last = chunks < first + per_warp ? chunks : first + per_warp;
  double sum = 0;
  if (column < a.width) {
    for (int32_t k = first; k < last; ++k) {
      const int64_t slot = (chunk + k) * int64_t{kPartialSlots} + (k == 0 ? 1 : 0);
      sum += load(a.partials + slot * a.pitch + column);
    }
  }
  of_warp[warp * 32 + lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= a.width) return;
  for (int w = 1; w < kJoinWarps; ++w) sum += of_warp[w * 32 + lane];
  add_to_result(a.to, at.label * a.width + column, sum);
}

template <typename T>
cudaError_t launch(const ClassSumsArguments& a, const ClassSumsPlan& plan, cudaStream_t stream) {
  const dim3 grid{static_cast<unsigned>(plan.chunks), static_cast<unsigned>(plan.tiles), 1};
  const dim3 block{static_cast<unsigned>(plan.threads), 1, 1};
  return TFC_LAUNCH(class_chunks<T>, grid, block, 0, stream, a);
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

constexpr int64_t kMostRows = (int64_t{1} << 31) - (1 << 16);  // positions are 32 bits

}  // namespace

ClassSumsPlan plan_class_sums(Scalar scalar, int64_t rows, int64_t width, const Device& device) {
  // At up to 128 registers each; two rounds of blocks, so that none is long alone.
  constexpr int64_t kResidentThreads = 512;
  // A partial row of double costs as much as two rows of float, four of half.
  constexpr int64_t kLeastChunkRows = 32;
  const int64_t scalar_bytes = scalar == Scalar::kFloat64 ? 8 : scalar == Scalar::kFloat32 ? 4 : 2;
  const int64_t pieces = std::max<int64_t>(1, divide_up(width, 16 / scalar_bytes));
  ClassSumsPlan plan{};
  plan.scalar = scalar;
  plan.rows = rows;
  plan.width = width;
  plan.threads = static_cast<int>(std::min<int64_t>(divide_up(pieces, 32) * 32, kMaxThreads));
  plan.tiles = divide_up(pieces, plan.threads);
  const int64_t blocks = 2 * device.multiprocessors * (kResidentThreads / plan.threads);
  const int64_t chunk_rows = std::max(kLeastChunkRows, divide_up(rows, divide_up(blocks, plan.tiles)));
  plan.chunk_rows = divide_up(chunk_rows, kRows) * kRows;
  plan.chunks = divide_up(rows, plan.chunk_rows);
  plan.pitch = divide_up(width, 8) * 8;
  const int64_t scale_bytes = scalar == Scalar::kFloat64 ? sizeof(RowScale<double>) : sizeof(RowScale<float>);
  plan.scales = 0;
  plan.partials = divide_up(rows * scale_bytes, 128) * 128;
  const int64_t partial_rows = plan.chunks > 1 ? plan.chunks * kPartialSlots : 0;
  plan.workspace_bytes = plan.partials + partial_rows * plan.pitch * static_cast<int64_t>(sizeof(double));
  return plan;
}

cudaError_t add_class_sums(const void* rows, int64_t stride, const Groups& groups, const ClassSumsPlan& plan,
                           void* workspace, const ClassSums& to, cudaStream_t stream) {
  if (plan.rows > kMostRows || plan.width > kMostRows) return cudaErrorInvalidValue;
  if (plan.rows == 0) return cudaSuccess;
  Batch batch{};
  batch.feature = rows;
  batch.feature_stride = stride;
  Plan scales{};
  scales.job = Job::kCosine;
  scales.scalar = plan.scalar;
  scales.rows = plan.rows;
  scales.width = plan.width;
  scales.scales[0] = plan.scales;
  const bool aligned = is_aligned(rows, stride, bytes_of(plan.scalar));
  const OpenBatch open{scales, workspace, {}};
  cudaError_t error = launch_row_scales(batch, open, aligned, stream);
  if (error != cudaSuccess) return error;

  const ClassSumsArguments a{rows,
                             stride,
                             part_at<void>(open, plan.scales),
                             groups,
                             static_cast<int32_t>(plan.rows),
                             static_cast<int32_t>(plan.width),
                             static_cast<int32_t>(plan.chunk_rows),
                             aligned,
                             plan.pitch,
                             part_at<double>(open, plan.partials),
                             to};
  error = with_element(plan.scalar, [&]<typename T>() { return launch<T>(a, plan, stream); });
  if (error != cudaSuccess || plan.chunks == 1 || plan.width == 0) return error;
  const dim3 grid{static_cast<unsigned>((plan.chunks - 1) * divide_up(plan.width, 32)), 1, 1};
  const dim3 block{kJoinWarps * 32, 1, 1};
  return TFC_LAUNCH(class_joins, grid, block, kJoinWarps * 32 * sizeof(double), stream, a);
}

}  // namespace tfc::cuda
