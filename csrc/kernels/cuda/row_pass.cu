// The row pass itself; row_pass.cuh tells what it does and what it costs.
#include "row_pass.cuh"

namespace tfc::cuda {
namespace {

// The scales of the rows at hand.
template <typename T, int kTensors, int kRows>
struct Scales {
  using Sum = typename Element<T>::Sum;
  Sum scale[kTensors][kRows];
  unsigned kinds;      // two bits each
  unsigned nonfinite;  // one bit per row
  bool plain;          // kRows rows, all of them finite, of which `scale` alone makes unit rows

  __device__ __forceinline__ void clear(bool all_rows) {
    kinds = nonfinite = 0;
    plain = all_rows;
#pragma unroll
    for (int t = 0; t < kTensors; ++t) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) scale[t][r] = 0;
    }
  }
  // Thread 0 keeps a book of the norms.
  __device__ __forceinline__ void set(int t, int r, const RowScale<Sum>& row, TileTotals& totals) {
    scale[t][r] = row.scale;
    kinds |= static_cast<unsigned>(row.kind) << (2 * (t * kRows + r));
    if (row.norm != row.norm) nonfinite |= 1u << r;
    plain = plain && row.scale != 0 && row.kind == kUsual;
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

// From the pieces that the block holds. Where all rows are finite and their norms of a usual size, each lane
// finds the scale of one row, those of the first warp add up its norms, and the book of thread 0 waits.
template <typename T, int kTensors, int kPieces, int kRows>
__device__ __forceinline__ void find_scales(const uint4 (&piece)[kTensors][kRows][kPieces],
                                            const RowPassShared& shared, int count, int turn,
                                            Scales<T, kTensors, kRows>& scales) {
  constexpr int kValues = kTensors * kRows;
  float squares[kValues];
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
  const float mine = block_sums<kValues>(squares, shared.squares, turn);
  const RowScale<float> row = scale_in_range(mine);
  if (__ballot_sync(kFullWarp, is_in_range(mine)) == kFullWarp) {  // rows that are not there are zero
    if (threadIdx.x < kValues) shared.norms[threadIdx.x] += row.norm;
#pragma unroll
    for (int t = 0; t < kTensors; ++t) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        scales.scale[t][r] = __shfl_sync(kFullWarp, row.scale, lane_of_value<kValues>(t * kRows + r));
      }
    }
    return;
  }
  scales.plain = false;
#pragma unroll
  for (int t = 0; t < kTensors; ++t) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int lane = lane_of_value<kValues>(t * kRows + r);
      const float scale = __shfl_sync(kFullWarp, row.scale, lane);
      const double norm = __shfl_sync(kFullWarp, row.norm, lane);
      if (r >= count) continue;
      if (is_in_range(__shfl_sync(kFullWarp, mine, lane))) {
        scales.set(t, r, {scale, kUsual, norm}, *shared.tile);
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
      scales.set(t, r, scale_from_double(block_sum(wide, shared.wide)), *shared.tile);
    }
  }
}

// What has been computed of the rows at hand is computed again where it is used next: there are no registers
// to keep it in.
template <int kTensors, int kRows, int kPieces>
__device__ __forceinline__ void forget_all(uint4 (&piece)[kTensors][kRows][kPieces]) {
#pragma unroll
  for (int t = 0; t < kTensors; ++t) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int p = 0; p < kPieces; ++p) forget_derived(piece[t][r][p]);
    }
  }
}

// sum += unit rows from ... upto - 1 of those at hand, added up before they join the sum. They are plain.
template <typename T, int kTensors, int kPieces, int kRows>
__device__ __forceinline__ void add_plain_rows(
    const uint4 (&piece)[kTensors][kRows][kPieces], const Scales<T, kTensors, kRows>& scales, int from,
    int upto, typename Element<T>::Sum (&sum)[kTensors][kPieces * kPiece<T>]) {
  using Sum = typename Element<T>::Sum;
#pragma unroll
  for (int t = 0; t < kTensors; ++t) {
    Sum scale[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) scale[r] = r >= from && r < upto ? scales.scale[t][r] : 0;
#pragma unroll
    for (int p = 0; p < kPieces; ++p) {
#pragma unroll
      for (int i = 0; i < kPiece<T>; ++i) {
        Sum block = 0;
#pragma unroll
        for (int r = 0; r < kRows; ++r) block += Element<T>::value(piece[t][r][p], i) * scale[r];
        sum[t][p * kPiece<T> + i] += block;
      }
    }
  }
}

// The same of rows of any sort.
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

// A piece of grad_in, if there is one and the column exists.
template <typename T>
__device__ __forceinline__ void store_grad_in(const RowPassArguments& a, int32_t row, int32_t column,
                                              const uint4& gradient) {
  if (a.grad_in == nullptr || column >= a.width) return;
  store_piece(static_cast<T*>(a.grad_in) + row * a.grad_in_stride, column, a.width, a.aligned, gradient);
}

// Bytes before a row, in one instruction with the address that they are added to.
__device__ __forceinline__ uint64_t bytes_before(int32_t row, uint32_t pitch) {
  return static_cast<uint64_t>(static_cast<uint32_t>(row)) * pitch;
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
  const RowPassShared shared(memory, kTensors * kRows * kPieces, kTensors * kRows);
  const bool leads = threadIdx.x == 0;
  ChunkTotals& totals = *shared.totals;  // only thread 0 looks at them
  TileTotals& tile = *shared.tile;
  if (leads) {
    totals = ChunkTotals{};
    tile = TileTotals{};
  }
  if (threadIdx.x < RowPassShared::kNorms) shared.norms[threadIdx.x] = 0;
  const bool admits = leads && blockIdx.x == 0 && blockIdx.y == 0;
  if (admits) *shared.admission = admission_state(a.results);
  // All that a block must know before its rows can come is asked for at once.
  const Boundaries boundaries(a.groups);
  const int64_t wanted = blockIdx.x * int64_t{a.chunk_rows};
  if (wanted < a.groups.entries) prefetch(a.groups.order + wanted);
  const bool labelled = labels_fit(a.groups, a.results, a.rows);

  const Cut first = cut_at(a, boundaries, labelled, wanted);
  const int32_t begin = first.position;
  const int32_t end = cut_at(a, boundaries, labelled, wanted + a.chunk_rows).position;
  ColumnSums<T, kCosines, kCounts, kTensors, kPieces> sums;
  sums.clear();
  ClassSpan span = begin < end ? first.span : ClassSpan{begin, begin};
  int32_t flags = begin < end && span.begin == begin ? kSplit : 0;
  int turn = 0;
  int32_t plain_rows = 0;  // of the class at hand, that are not yet in the totals
  const auto count_class = [&] {
    if (leads) {
      for (int t = 0; t < kTensors; ++t) {
        totals.tail_valid[t] += plain_rows;
        tile.valid[t] += plain_rows;
      }
    }
    plain_rows = 0;
  };

  // The class at hand has ended: it is the head, or lies wholly inside.
  const auto close_class = [&] {
    count_class();
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
    span = span.end < end ? class_at(a.groups, boundaries, labelled, a.rows, span.end)
                          : ClassSpan{span.end, span.end};
  };

  // Where the rows of the block begin for this thread, if each of its pieces is 16 aligned bytes.
  const bool whole = a.aligned && column_of<T, kPieces>(kPieces - 1) + kPiece<T> <= a.width;
  const uint32_t first_byte = static_cast<uint32_t>(column_of<T, kPieces>(0)) * uint32_t{sizeof(T)};
  const uint32_t bytes_apart = 16 * blockDim.x;  // of two pieces
  // From cache: the lines of the order are asked for ahead of time.
  const auto row_at = [&](int32_t position) {
    return labelled ? static_cast<int32_t>(load(a.groups.order + position)) : position;
  };
  // The next rows begin to come, the first of which is at `position`; what is not there is zero.
  const auto load_next_rows = [&](int32_t position) {
    if (position >= end) return;
    const bool all = whole && position + kRows <= end;
    if (all) {
#pragma unroll
      for (int t = 0; t < kTensors; ++t) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const char* tensor = static_cast<const char*>(t == 0 ? a.feature : a.gradient);
          const char* row = tensor + (bytes_before(row_at(position + r), a.pitches[t]) + first_byte);
#pragma unroll
          for (int p = 0; p < kPieces; ++p) {
            copy_async(&shared.coming_piece((t * kRows + r) * kPieces + p),
                       reinterpret_cast<const uint4*>(row + p * bytes_apart));
          }
        }
      }
      return;
    }
#pragma unroll
    for (int t = 0; t < kTensors; ++t) {
      const T* tensor = static_cast<const T*>(t == 0 ? a.feature : a.gradient);
      const int64_t stride = t == 0 ? a.feature_stride : a.gradient_stride;
#pragma unroll 1
      for (int r = 0; r < kRows; ++r) {
        for (int p = 0; p < kPieces; ++p) {
          const int32_t column = column_of<T, kPieces>(p);
          uint4 piece = {0, 0, 0, 0};
          if (position + r < end && column < a.width) {
            piece = load_piece(tensor + row_at(position + r) * stride, column, a.width, a.aligned);
          }
          shared.coming_piece((t * kRows + r) * kPieces + p) = piece;
        }
      }
    }
  };

  load_next_rows(begin);
  for (int32_t position = begin; position < end; position += kRows, turn ^= 1) {
    const int count = end - position < kRows ? end - position : kRows;
    uint4 piece[kTensors][kRows][kPieces];
    wait_for_copies();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int t = 0; t < kTensors; ++t) {
#pragma unroll
        for (int p = 0; p < kPieces; ++p) {
          piece[t][r][p] = shared.coming_piece((t * kRows + r) * kPieces + p);
        }
      }
    }
    load_next_rows(position + kRows);
    if (labelled && position + 2 * kRows < end) prefetch(a.groups.order + position + 2 * kRows);

    Scales<T, kTensors, kRows> scales;
    if constexpr (kCosines) scales.clear(count == kRows);
    if constexpr (kFused && kCosines) {
      find_scales<T, kTensors, kPieces, kRows>(piece, shared, count, turn, scales);
    } else if constexpr (kCosines) {
#pragma unroll
      for (int t = 0; t < kTensors; ++t) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (r >= count) continue;
          scales.set(t, r, load(static_cast<const RowScale<Sum>*>(a.scales[t]) + row_at(position + r)), tile);
        }
      }
    }
    if constexpr (kCosines) {
      if (leads) tile.nonfinite += __popc(scales.nonfinite);
    }
    bool plain = false;
    if constexpr (kCosines) {
      plain = scales.plain;
      forget_all(piece);
    }

    if constexpr (kTensors == 2) {
      if (plain) {
        const auto pass_gradients = [&](const auto& store_passed) {
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
#pragma unroll
            for (int p = 0; p < kPieces; ++p) {
              store_passed(r, p, sums.open[p].pass(piece[0][r][p], piece[1][r][p]));
            }
          }
        };
        if (whole && a.grad_in != nullptr) {
          pass_gradients([&](int r, int p, const uint4& passed) {
            char* to_tensor = static_cast<char*>(a.grad_in);
            char* at =
                to_tensor + (bytes_before(row_at(position + r), a.pitches[2]) + first_byte + p * bytes_apart);
            store(reinterpret_cast<uint4*>(at), passed);
          });
        } else {
          pass_gradients([&](int r, int p, const uint4& passed) {
            store_grad_in<T>(a, row_at(position + r), column_of<T, kPieces>(p), passed);
          });
        }
      } else {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
#pragma unroll
          for (int p = 0; p < kPieces; ++p) {
            if (r >= count) continue;
            store_grad_in<T>(a, row_at(position + r), column_of<T, kPieces>(p),
                             gate_through<T>(piece[0][r][p], piece[1][r][p]));
          }
        }
      }
    }

    // Class by class.
    forget_all(piece);
    bool are_counted = kTensors == 2 && plain;  // all of them, as if they were of the class at hand
    for (int from = 0; from < count;) {
      const int32_t left = span.end - position;
      int upto = left < count ? left : count;
      if (upto <= from) upto = from + 1;  // it ends, whatever class_ptr holds
      if constexpr (kCosines) {
        if (plain) {
          add_plain_rows<T, kTensors, kPieces, kRows>(piece, scales, from, upto, sums.sum);
        } else {
          add_unit_rows<T, kTensors, kPieces, kRows>(piece, scales, from, upto, sums.sum);
        }
        if (kFused && plain) {
          plain_rows += upto - from;
        } else if (leads) {
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
          if (are_counted ? r < upto : r < from || r >= upto) continue;
#pragma unroll
          for (int p = 0; p < kPieces; ++p) {
            if (are_counted) {
              sums.open[p].uncount(piece[0][r][p]);
            } else {
              sums.open[p].count(piece[0][r][p]);
            }
          }
        }
        are_counted = false;
      }
      if (left <= count) close_class();
      from = upto;
    }
  }

  count_class();
  if constexpr (kFused && kCosines) {
    __syncwarp();
    for (int v = 0; leads && v < kTensors * kRows; ++v) {
      tile.norm[v / kRows] += shared.norms[lane_of_value<kTensors * kRows>(v)];
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
  if ((flags & kHasInner) != 0) {
    sums.read_inner(shared);
    store_partial(a, kInnerSlot, sums);
    if constexpr (kCosines) {
#pragma unroll
      for (int t = 0; t < kTensors; ++t) {
        const double within = block_sum(shared.cell<double>(sums.kWithin + t), shared.wide);
        if (leads) tile.within[t] = within;
      }
    }
    if constexpr (kCounts) {
      int64_t* slots = reinterpret_cast<int64_t*>(shared.wide);
      const int64_t disagree = block_sum(shared.cell<int64_t>(sums.kDisagree), slots);
      if (leads) tile.disagree = disagree;
    }
  }
  if (!leads) return;
  if (admits) {
    store(a.blocks_ended, 0u);
    const bool has_labels = a.groups.class_ptr != nullptr;
    store(a.admission, admit(a.results, *shared.admission, has_labels, labelled, a.rows, a.width));
  }
  if (blockIdx.y != 0) {
    for (int t = 0; t < 2; ++t) {
      tile.norm[t] = 0;
      tile.valid[t] = tile.zero[t] = 0;
    }
    tile.nonfinite = 0;
  }
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
  if (!plan.fused) return launch<T, kJob, false, 1, sizeof(T) == 8 ? 2 : 4, 256>(a, plan, stream);
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

cudaError_t launch_row_pass(const Batch& batch, const OpenBatch& open, bool aligned, cudaStream_t stream) {
  const Plan& plan = open.plan;
  const auto pitch_of = [&](int64_t stride) { return static_cast<uint32_t>(stride * plan.scalar_bytes()); };
  const RowPassArguments a{
      batch.feature,
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
      aligned,
      {pitch_of(batch.feature_stride), pitch_of(batch.gradient_stride), pitch_of(batch.grad_in_stride)},
      {part_at<void>(open, plan.scales[0]), part_at<void>(open, plan.scales[1])},
      {part_at<void>(open, plan.sums[0]), part_at<void>(open, plan.sums[1])},
      part_at<uint8_t>(open, plan.gates),
      part_at<TileTotals>(open, plan.tile_totals),
      part_at<ChunkTotals>(open, plan.chunk_totals),
      part_at<unsigned>(open, plan.blocks_ended),
      part_at<Admission>(open, plan.admission),
      open.results};
  return with_element(plan.scalar, [&]<typename T>() { return launch_job<T>(a, plan, stream); });
}

}  // namespace tfc::cuda
