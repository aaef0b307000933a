// The row pass itself; row_pass.cuh tells what it does and what it costs.
#include "row_pass.cuh"

namespace tfc::cuda {
namespace {

// The scales of the rows at hand, and the book that thread 0 keeps of their norms.
template <typename T, int kTensors, int kRows>
struct Scales {
  using Sum = typename Element<T>::Sum;
  Sum scale[kTensors][kRows];
  unsigned kinds;      // two bits each
  unsigned nonfinite;  // one bit per row

  __device__ __forceinline__ void clear() {
    kinds = nonfinite = 0;
#pragma unroll
    for (int t = 0; t < kTensors; ++t) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) scale[t][r] = 0;
    }
  }
  __device__ __forceinline__ void set(int t, int r, const RowScale<Sum>& row, ChunkTotals& totals) {
    scale[t][r] = row.scale;
    kinds |= static_cast<unsigned>(row.kind) << (2 * (t * kRows + r));
    if (row.norm != row.norm) nonfinite |= 1u << r;
    if (threadIdx.x != 0) return;
    if (row.scale != 0) {
      ++totals.valid[t];
      totals.norm[t] += row.norm;
    } else if (row.norm == 0) {
      ++totals.zero[t];
    }
  }
  __device__ __forceinline__ Sum pre(int t, int r) const {
    return power_of<Sum>(static_cast<int>(kinds >> (2 * (t * kRows + r)) & 3));
  }
};

// From the pieces that the block holds.
template <typename T, int kTensors, int kPieces, int kRows>
__device__ __forceinline__ void find_scales(const uint4 (&piece)[kTensors][kRows][kPieces],
                                            const RowPassShared& shared, int count, int turn,
                                            Scales<T, kTensors, kRows>& scales) {
  float squares[kTensors * kRows];
#pragma unroll
  for (int t = 0; t < kTensors; ++t) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float sum[2] = {0, 0};  // two short sums are rounded less than one long one
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
#pragma unroll
        for (int i = 0; i < kPiece<T>; ++i) {
          const float value = Element<T>::value(piece[t][r][p], i);
          sum[i % 2] += value * value;
        }
      }
      squares[t * kRows + r] = sum[0] + sum[1];
    }
  }
  block_sums<kTensors * kRows>(squares, shared.squares, turn);
#pragma unroll
  for (int t = 0; t < kTensors; ++t) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float sum = squares[t * kRows + r];
      if (r >= count) continue;
      if (is_in_range(sum)) {
        scales.set(t, r, scale_in_range(sum), *shared.totals);
        continue;
      }
      double wide = 0;  // the same branch for all threads, since all have the same sum
#pragma unroll
      for (int p = 0; p < kPieces; ++p) {
#pragma unroll
        for (int i = 0; i < kPiece<T>; ++i) {
          const double value = Element<T>::value(piece[t][r][p], i);
          wide += value * value;
        }
      }
      scales.set(t, r, scale_from_double(block_sum(wide, shared.wide)), *shared.totals);
    }
  }
}

// sum += unit rows from ... upto - 1 of those at hand, added up before they join the sum.
template <typename T, int kTensors, int kPieces, int kRows>
__device__ __forceinline__ void add_unit_rows(
    const uint4 (&piece)[kTensors][kRows][kPieces], const Scales<T, kTensors, kRows>& scales, int from,
    int upto, typename Element<T>::Sum (&sum)[kTensors][kPieces * kPiece<T>]) {
  using Sum = typename Element<T>::Sum;
#pragma unroll
  for (int t = 0; t < kTensors; ++t) {
    Sum scale[kRows], pre[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      scale[r] = r >= from && r < upto ? scales.scale[t][r] : 0;
      pre[r] = scales.pre(t, r);
    }
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
#pragma unroll
      for (int i = 0; i < kPiece<T>; ++i) {
        Sum block = 0;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          // A row that is left out may hold a NaN, which 0 times would not take away.
          const Sum value = scale[r] != 0 ? Element<T>::value(piece[t][r][p], i) : 0;
          block += value * pre[r] * scale[r];
        }
        sum[t][p * kPiece<T> + i] += block;
      }
    }
  }
}

// Of the blocks that are not fused, two share a multiprocessor; left to itself the compiler takes all
// registers for one.
template <typename T, Job kJob, bool kFused, int kPieces, int kRows, int kMaxThreads>
__global__ void __launch_bounds__(kMaxThreads, kFused ? 1 : 2) row_pass(const RowPassArguments a) {
  constexpr bool kCosines = kJob != Job::kGates;
  constexpr bool kCounts = kJob != Job::kCosine;
  constexpr int kTensors = kJob == Job::kPair ? 2 : 1;
  using Sum = typename Element<T>::Sum;
  TFC_DYNAMIC_SHARED(char, memory);
  const RowPassShared shared(memory, kTensors * kRows);
  const bool leads = threadIdx.x == 0;
  ChunkTotals& totals = *shared.totals;  // only thread 0 looks at it
  if (leads) totals = ChunkTotals{};
  const bool labelled = labels_fit(a.groups, a.results, a.rows);
  if (leads && blockIdx.x == 0 && blockIdx.y == 0) {
    store(a.blocks_ended, 0u);
    store(a.admission, admit(a.results, a.groups.class_ptr != nullptr, labelled, a.rows, a.width));
  }

  const int32_t begin = move_to_class(a, labelled, blockIdx.x * int64_t{a.chunk_rows});
  const int32_t end = move_to_class(a, labelled, (blockIdx.x + int64_t{1}) * a.chunk_rows);
  ColumnSums<T, kCosines, kCounts, kTensors, kPieces> sums;
  sums.clear();
  ClassSpan span{begin, begin};
  if (begin < end) span = class_at(a.groups, labelled, a.rows, begin);
  int32_t flags = begin < end && span.begin == begin ? kSplit : 0;
  int turn = 0;

  // The class at hand has ended: it is the head, or lies wholly inside.
  const auto close_class = [&] {
    if (span.begin < begin) {
      store_partial(a, kHeadSlot, sums);
      sums.clear();
      flags |= kHasHead | kSplit;
      if (leads) {
        totals.head_rows = span.end - begin;
        for (int t = 0; t < 2; ++t) totals.head_valid[t] = totals.tail_valid[t];
      }
    } else {
      const int32_t rows = span.end - span.begin;
      sums.close_inner(shared, rows, (flags & kHasInner) == 0);
      flags |= kHasInner | kSplit;
      if (leads) {
        totals.inner_pairs += int64_t{rows} * (rows - 1) / 2;
        for (int t = 0; t < 2; ++t) {
          totals.inner_valid_pairs[t] += int64_t{totals.tail_valid[t]} * (totals.tail_valid[t] - 1);
        }
      }
    }
    if (leads) totals.tail_valid[0] = totals.tail_valid[1] = 0;
    span = span.end < end ? class_at(a.groups, labelled, a.rows, span.end) : ClassSpan{span.end, span.end};
  };

  for (int32_t position = begin; position < end; position += kRows, turn ^= 1) {
    const int count = end - position < kRows ? end - position : kRows;
    uint4 piece[kTensors][kRows][kPieces];
    int64_t row[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      row[r] = position + r;
      if (r < count && labelled) row[r] = load(a.groups.order + row[r]);
    }
    const auto load_rows = [&](int p, int32_t column, bool aligned) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        piece[0][r][p] = {0, 0, 0, 0};
        if constexpr (kTensors == 2) piece[1][r][p] = {0, 0, 0, 0};
        if (r >= count || column >= a.width) continue;
        piece[0][r][p] = load_piece(static_cast<const T*>(a.feature) + row[r] * a.feature_stride, column,
                                    a.width, aligned);
        if constexpr (kTensors == 2) {
          piece[1][r][p] = load_piece(static_cast<const T*>(a.gradient) + row[r] * a.gradient_stride, column,
                                      a.width, aligned);
        }
      }
    };
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
      const int32_t column = column_of<T, kPieces>(p);
      // One branch for all rows, so that their loads are under way at the same time.
      if (a.aligned && column + kPiece<T> <= a.width) {
        load_rows(p, column, true);
      } else {
        load_rows(p, column, false);
      }
    }
    if constexpr (kTensors == 2) {
      if (a.grad_in != nullptr) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int p = 0; p < kPieces; ++p) {
            const int32_t column = column_of<T, kPieces>(p);
            if (r >= count || column >= a.width) continue;
            store_piece(static_cast<T*>(a.grad_in) + row[r] * a.grad_in_stride, column, a.width, a.aligned,
                        gate_through<T>(piece[0][r][p], piece[1][r][p]));
          }
        }
      }
    }

    Scales<T, kTensors, kRows> scales;
    if constexpr (kCosines) scales.clear();
    if constexpr (kFused && kCosines) {
      find_scales<T, kTensors, kPieces, kRows>(piece, shared, count, turn, scales);
    } else if constexpr (kCosines) {
#pragma unroll
      for (int t = 0; t < kTensors; ++t) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (r >= count) continue;
          scales.set(t, r, load(static_cast<const RowScale<Sum>*>(a.scales[t]) + row[r]), totals);
        }
      }
    }
    if constexpr (kCosines) {
      if (leads) totals.nonfinite += __popc(scales.nonfinite);
    }

    // Class by class.
    for (int from = 0; from < count;) {
      const int32_t left = span.end - position;
      const int upto = left < count ? left : count;
      if constexpr (kCosines) {
        add_unit_rows<T, kTensors, kPieces, kRows>(piece, scales, from, upto, sums.sum);
        if (leads) {
#pragma unroll
          for (int t = 0; t < kTensors; ++t) {
#pragma unroll
            for (int r = 0; r < kRows; ++r) {
              if (r >= from && r < upto) totals.tail_valid[t] += scales.scale[t][r] != 0;
            }
          }
        }
      }
      if constexpr (kCounts) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (r < from || r >= upto) continue;
#pragma unroll
          for (int p = 0; p < kPieces; ++p) sums.open[p].count(piece[0][r][p]);
        }
      }
      if (left <= count) close_class();
      from = upto;
    }
  }

  if (span.begin < end) {  // the last class goes on
    const bool is_head = span.begin < begin;
    store_partial(a, is_head ? kHeadSlot : kTailSlot, sums);
    flags |= is_head ? kHasHead : kHasTail;
    if (leads && is_head) {
      totals.head_rows = end - begin;
      for (int t = 0; t < 2; ++t) {
        totals.head_valid[t] = totals.tail_valid[t];
        totals.tail_valid[t] = 0;
      }
    } else if (leads) {
      totals.tail_rows = end - span.begin;
    }
  }
  TileTotals tile{};
  if ((flags & kHasInner) != 0) {
    sums.read_inner(shared);
    store_partial(a, kInnerSlot, sums);
    if constexpr (kCosines) {
#pragma unroll
      for (int t = 0; t < kTensors; ++t) {
        tile.within[t] = block_sum(shared.cell<double>(sums.kWithin + t), shared.wide);
      }
    }
    if constexpr (kCounts) {
      tile.disagree =
          block_sum(shared.cell<int64_t>(sums.kDisagree), reinterpret_cast<int64_t*>(shared.wide));
    }
  }
  if (!leads) return;
  store(a.tile_totals + (blockIdx.x * int64_t{gridDim.y} + blockIdx.y), tile);
  if (blockIdx.y != 0) return;
  totals.flags = flags;
  store(a.chunk_totals + blockIdx.x, totals);
}

template <typename T, Job kJob, bool kFused, int kPieces, int kRows, int kMaxThreads>
cudaError_t launch(const RowPassArguments& a, const Plan& plan, cudaStream_t stream) {
  const auto kernel = row_pass<T, kJob, kFused, kPieces, kRows, kMaxThreads>;
  constexpr int64_t kWithoutOptIn = 48 * 1024;
  if (plan.shared_bytes > kWithoutOptIn) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                   static_cast<int>(plan.shared_bytes));
    if (error != cudaSuccess) return error;
  }
  const dim3 grid{static_cast<unsigned>(plan.chunks), static_cast<unsigned>(plan.tiles), 1};
  const dim3 block{static_cast<unsigned>(plan.threads), 1, 1};
  return TFC_LAUNCH(kernel, grid, block, plan.shared_bytes, stream, a);
}

// The shapes that make_plan knows.
template <typename T, Job kJob>
cudaError_t launch_shape(const RowPassArguments& a, const Plan& plan, cudaStream_t stream) {
  if (!plan.fused) return launch<T, kJob, false, 1, 4, 256>(a, plan, stream);
  if constexpr (kJob != Job::kGates && sizeof(T) < 8) {
    if (plan.pieces == 1 && plan.rows_at_once == 4) return launch<T, kJob, true, 1, 4, 512>(a, plan, stream);
    if constexpr (sizeof(T) == 4) {
      if (plan.rows_at_once == 2) return launch<T, kJob, true, 2, 2, 512>(a, plan, stream);
    }
    if constexpr (kJob != Job::kPair) return launch<T, kJob, true, sizeof(T) / 2, 1, 1024>(a, plan, stream);
  }
  return cudaErrorInvalidValue;
}

template <typename T>
cudaError_t launch_job(const RowPassArguments& a, const Plan& plan, cudaStream_t stream) {
  switch (plan.job) {
    case Job::kCosine:
      return launch_shape<T, Job::kCosine>(a, plan, stream);
    case Job::kGates:
      return launch_shape<T, Job::kGates>(a, plan, stream);
    case Job::kFeature:
      return launch_shape<T, Job::kFeature>(a, plan, stream);
    default:
      return launch_shape<T, Job::kPair>(a, plan, stream);
  }
}

}  // namespace

cudaError_t launch_row_pass(const Pass& pass, const Results& results, cudaStream_t stream) {
  const Batch& batch = pass.batch;
  const Plan& plan = pass.plan;
  const RowPassArguments a{batch.feature,
                           batch.gradient,
                           plan.job == Job::kReluBackward ? batch.grad_in : nullptr,
                           batch.feature_stride,
                           batch.gradient_stride,
                           batch.grad_in_stride,
                           static_cast<int32_t>(plan.rows),
                           static_cast<int32_t>(plan.width),
                           static_cast<int32_t>(plan.chunk_rows),
                           plan.pitch,
                           batch.groups,
                           pass.aligned,
                           {pass.at<void>(plan.scales[0]), pass.at<void>(plan.scales[1])},
                           {pass.at<void>(plan.sums[0]), pass.at<void>(plan.sums[1])},
                           pass.at<uint8_t>(plan.gates),
                           pass.at<TileTotals>(plan.tile_totals),
                           pass.at<ChunkTotals>(plan.chunk_totals),
                           pass.at<unsigned>(plan.blocks_ended),
                           pass.at<Admission>(plan.admission),
                           results};
  return with_element(plan.scalar, [&]<typename T>() { return launch_job<T>(a, plan, stream); });
}

}  // namespace tfc::cuda
