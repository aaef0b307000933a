// Row pass: norms, unit-row sums, open gates and, for ReLU's backward, grad_in. See passes.h.
//
// Rows go through in blocks of kBlock, so that what the first loop read is still in the nearest cache
// when the second loop, which needs the norms, reads it again:
//   1. squares and gates                 loads feature and gradient
//   2. sum += row * (1 / norm), for feature and gradient; with the gradient's, grad_in is written
// grad_in comes last because it may be the gradient's own memory.
//
// Squares are added in float over kRun columns (8 terms per lane), then in double. That is good to
// about 1e-7 as long as nothing under- or overflows, so a row whose sum leaves [2^-80, 2^120] is
// done again in double; a product of two floats is exact there. Double input is scaled by a power of
// two instead. A row is dropped only if it is exactly zero or not finite.
//
// Included once per target, after row_norm.inl.

namespace tfc::cpu::TFC_TARGET {
namespace {

constexpr int kBlock = 4;

// Into the second-level cache: the nearest one is full of the block at hand, and its few buffers for
// lines on their way are what the loop itself needs.
TFC_INLINE void fetch(const void* from) { __builtin_prefetch(from, /*write=*/0, /*locality=*/2); }

// A job that only reads keeps memory busy in both loops: each fetches half of the rows of the next block.
constexpr bool fetched_by_scan(int row) { return row < kBlock / 2; }

// sum[j] += row[j] / |row| for kRows rows at once. The rows of a block are summed first and the block
// added then: rows that are all alike are rounded alike, and 32 such roundings in a row add up.
template <typename T, int kRows, bool kFetches>
TFC_INLINE void add_unit_rows(typename Element<T>::Sum* sum, bool first, const T* const* rows,
                              const typename Element<T>::Sum* scale, int64_t width, const T* const* ahead) {
  using Sum = typename Element<T>::Sum;
  using Row = typename Element<T>::Row;
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) {
    Row block = zeros<Row>();
    for (int r = 0; r < kRows; ++r) {
      if (kFetches && !fetched_by_scan(r)) fetch(ahead[r] + j);
      add_scaled(block, read<T>(rows[r] + j), scale[r]);
    }
    if (!first) {
      Row before;
      get_vector(before, sum + j);
      add(block, before);
    }
    put_vector(sum + j, block);
  }
  for (; j < width; ++j) {
    Sum block = 0;
    for (int r = 0; r < kRows; ++r) block += (Sum)Element<T>::one(rows[r] + j) * scale[r];
    sum[j] = first ? block : block + sum[j];
  }
}

template <typename T, bool kFetches = false>
TFC_INLINE void add_unit_rows(typename Element<T>::Sum* sum, bool first, const T* const* rows,
                              const typename Element<T>::Sum* scale, int count, int64_t width,
                              const T* const* ahead = nullptr) {
  switch (count) {
    case 4:
      return add_unit_rows<T, 4, kFetches>(sum, first, rows, scale, width, ahead);
    case 3:
      return add_unit_rows<T, 3, kFetches>(sum, first, rows, scale, width, ahead);
    case 2:
      return add_unit_rows<T, 2, kFetches>(sum, first, rows, scale, width, ahead);
    case 1:
      return add_unit_rows<T, 1, kFetches>(sum, first, rows, scale, width, ahead);
    default:
      if (first) std::memset(sum, 0, width * sizeof(*sum));
  }
}

// The same for the gradient of ReLU's output, and grad_in = feature <= 0 ? 0 : gradient.
template <typename T, int kRows>
TFC_INLINE void add_unit_rows_and_gate(typename Element<T>::Sum* sum, bool first, const T* const* feature,
                                       const T* const* gradient, T* const* grad_in,
                                       const typename Element<T>::Sum* scale, int64_t width) {
  using Sum = typename Element<T>::Sum;
  using Part = typename Element<T>::Part;
  constexpr int kWidth = Element<T>::Row::kWidth;  // more at a time would not stay in registers
  int64_t j = 0;
  for (; j + kWidth <= width; j += kWidth) {
    // All loads before the first store: large tensors begin at the same offset of a page, so a load
    // right after a store to the same column of another row would wait for it (4K aliasing).
    Part f[kRows], g[kRows];
    for (int r = 0; r < kRows; ++r) {
      f[r] = Element<T>::read_part(feature[r] + j);
      g[r] = Element<T>::read_part(gradient[r] + j);
    }
    Part block = {};
    for (int r = 0; r < kRows; ++r) block += g[r] * scale[r];
    if (!first) {
      Part before;
      get_vector(before, sum + j);
      block += before;
    }
    put_vector(sum + j, block);
    for (int r = 0; r < kRows; ++r) Element<T>::gate_through(grad_in[r] + j, f[r], gradient[r] + j, g[r]);
  }
  for (; j < width; ++j) {
    Sum block = 0;
    for (int r = 0; r < kRows; ++r) block += (Sum)Element<T>::one(gradient[r] + j) * scale[r];
    sum[j] = first ? block : block + sum[j];
    for (int r = 0; r < kRows; ++r)
      grad_in[r][j] = Element<T>::one(feature[r] + j) <= 0 ? T{} : gradient[r][j];
  }
}

template <typename T>
__attribute__((noinline)) void gate_rows(const T* const* feature, const T* const* gradient, T* const* grad_in,
                                         int count, int64_t width) {
  for (int r = 0; r < count; ++r) {
    for (int64_t j = 0; j < width; ++j) {
      grad_in[r][j] = Element<T>::one(feature[r] + j) <= 0 ? T{} : gradient[r][j];
    }
  }
}

struct TensorTotals {
  int32_t valid = 0, zero = 0;
  double norm = 0;
};

// A block in which some row is out of range: such rows are added one by one, after the others.
// Returns which rows are finite, as bits.
template <typename T>
__attribute__((noinline)) unsigned add_unusual_block(typename Element<T>::Sum* sum, bool first,
                                                     const T* const* rows, const double* squares, int count,
                                                     int64_t width, TensorTotals& totals) {
  using Sum = typename Element<T>::Sum;
  const T* usual[kBlock];
  Sum scale[kBlock];
  const T* unusual[kBlock];
  RowNorm norms[kBlock];
  int usuals = 0, unusuals = 0;
  unsigned finite = (1u << count) - 1;
  for (int r = 0; r < count; ++r) {
    RowNorm row = {0, 1, 0, true};
    const bool ranged = in_range<T>(squares[r]);
    if (ranged) {
      row.norm = __builtin_sqrt(squares[r]);
      row.scale = 1.0 / row.norm;
    } else {
      row = norm_in_double(rows[r], width);
    }
    if (!row.finite) finite &= ~(1u << r);
    totals.norm += row.norm;
    totals.valid += row.norm > 0;
    totals.zero += row.finite && row.norm == 0;
    if (row.norm == 0) continue;
    // 1 / norm fits a float with room to spare: the fast loop will do all the same.
    const bool fits = sizeof(T) < 8 && row.norm > 0x1p-120 && row.norm < 0x1p+120;
    if (ranged || fits) {
      usual[usuals] = rows[r];
      scale[usuals++] = (Sum)row.scale;
    } else {
      unusual[unusuals] = rows[r];
      norms[unusuals++] = row;
    }
  }
  add_unit_rows<T>(sum, first, usual, scale, usuals, width);
  for (int r = 0; r < unusuals; ++r) {
    for (int64_t j = 0; j < width; ++j) {
      sum[j] += (Sum)((double)Element<T>::one(unusual[r] + j) * norms[r].pre * norms[r].scale);
    }
  }
  return finite;
}

// Rows of a block: up to kBlock of one segment.
template <typename T>
struct Block {
  const T* rows[2][kBlock];  // feature, gradient
  T* grad_in[kBlock];
  int count;
  const T* ahead[2][kBlock];  // rows of the next block, to be fetched in the meantime
};

// Second loop over a block, for tensor kTensor; returns which of its rows are finite, as bits.
template <typename T, Job kJob, int kTensor>
TFC_INLINE unsigned add_unit_block(const Block<T>& block, typename Element<T>::Sum* sum, bool first,
                                   const double* squares, int64_t width, TensorTotals& totals) {
  using Sum = typename Element<T>::Sum;
  constexpr bool kWrites = kJob == Job::kReluBackward && kTensor == 1;
  const int count = block.count;
  const T* const* rows = block.rows[kTensor];
  bool usual = true;
  for (int r = 0; r < count; ++r) usual &= in_range<T>(squares[r]);
  if (__builtin_expect(!usual, 0)) {
    const unsigned finite = add_unusual_block(sum, first, rows, squares, count, width, totals);
    if (kWrites) gate_rows(block.rows[0], rows, block.grad_in, count, width);
    return finite;
  }
  Sum scale[kBlock];
  double norm[kBlock];
  for (int r = 0; r < kBlock; ++r) norm[r] = __builtin_sqrt(squares[r]);
  for (int r = 0; r < kBlock; ++r) scale[r] = (Sum)(1.0 / norm[r]);
  for (int r = 0; r < count; ++r) totals.norm += norm[r];
  totals.valid += count;
  if constexpr (kWrites) {
    const T* const* f = block.rows[0];
    T* const* out = block.grad_in;
    switch (count) {
      case 4:
        add_unit_rows_and_gate<T, 4>(sum, first, f, rows, out, scale, width);
        break;
      case 3:
        add_unit_rows_and_gate<T, 3>(sum, first, f, rows, out, scale, width);
        break;
      case 2:
        add_unit_rows_and_gate<T, 2>(sum, first, f, rows, out, scale, width);
        break;
      default:
        add_unit_rows_and_gate<T, 1>(sum, first, f, rows, out, scale, width);
    }
  } else {
    add_unit_rows<T, kJob == Job::kCosine>(sum, first, rows, scale, count, width, block.ahead[0]);
  }
  return (1u << count) - 1;
}

// First loop over a block of kRows rows; squares[t][r] come out in double.
template <typename T, Job kJob, int kRows>
TFC_INLINE void scan_block(const Block<T>& block, int64_t width, int32_t* gates, bool first,
                           double (*squares)[kBlock]) {
  constexpr bool kCosines = kJob != Job::kGates;
  constexpr bool kCounts = kJob != Job::kCosine;
  constexpr bool kGradient = kJob == Job::kPair || kJob == Job::kReluBackward;
  using Row = typename Element<T>::Row;
  const T* const* feature = block.rows[0];
  const T* const* gradient = block.rows[1];
  Doubles wide_f[kRows], wide_g[kRows];
  for (int r = 0; r < kRows; ++r) wide_f[r] = wide_g[r] = zeros<Doubles>();

  int64_t j = 0;
  const int64_t whole = width / kLanes * kLanes;
  while (j < whole) {
    const int64_t stop = whole - j < kRun ? whole : j + kRun;
    Row sum_f[kRows], sum_g[kRows];
    for (int r = 0; r < kRows; ++r) sum_f[r] = sum_g[r] = zeros<Row>();
    for (; j < stop; j += kLanes) {
      Ints open = zeros<Ints>();
      if (kCounts && !first) open = load<int32_t, NativeInt>(gates + j);
      for (int r = 0; r < kRows; ++r) {
        const Row f = read<T>(feature[r] + j);
        if (kJob != Job::kCosine || fetched_by_scan(r)) fetch(block.ahead[0][r] + j);
        if constexpr (kCounts) count_positive(open, f);
        if constexpr (kCosines) add_square(sum_f[r], f);
        if constexpr (kGradient) {
          fetch(block.ahead[1][r] + j);
          add_square(sum_g[r], read<T>(gradient[r] + j));
        }
      }
      if constexpr (kCounts) store<int32_t, NativeInt>(gates + j, open);
    }
    for (int r = 0; r < kRows; ++r) {
      if constexpr (kCosines) add_widened(wide_f[r], sum_f[r]);
      if constexpr (kGradient) add_widened(wide_g[r], sum_g[r]);
    }
  }
  if (const int64_t rest = width - whole; rest > 0) {  // the last, partly filled lanes
    alignas(64) int32_t open_lane[kLanes] = {};
    if (kCounts && !first) std::memcpy(open_lane, gates + j, rest * sizeof(int32_t));
    Ints open = load<int32_t, NativeInt>(open_lane);
    for (int r = 0; r < kRows; ++r) {
      alignas(64) T lane[kLanes];
      copy_some(lane, feature[r] + j, rest);
      const Row f = read<T>(lane);
      if constexpr (kCounts) count_positive(open, f);
      Row sum = zeros<Row>();
      add_square(sum, f);
      if constexpr (kCosines) add_widened(wide_f[r], sum);
      if constexpr (kGradient) {
        copy_some(lane, gradient[r] + j, rest);
        sum = zeros<Row>();
        add_square(sum, read<T>(lane));
        add_widened(wide_g[r], sum);
      }
    }
    store<int32_t, NativeInt>(open_lane, open);
    if constexpr (kCounts) std::memcpy(gates + j, open_lane, rest * sizeof(int32_t));
  }
  for (int r = 0; r < kRows; ++r) {
    if constexpr (kCosines) squares[0][r] = total(wide_f[r]);
    if constexpr (kGradient) squares[1][r] = total(wide_g[r]);
  }
}

template <typename T, Job kJob>
TFC_INLINE Block<T> find_block(const RowPass& pass, const Segment& segment, int32_t begin) {
  Block<T> block;
  block.count = segment.rows - begin < kBlock ? segment.rows - begin : kBlock;
  for (int r = 0; r < block.count; ++r) {
    const int64_t position = segment.begin + begin + r;
    const int64_t ahead = position + kBlock < pass.rows ? position + kBlock : position;
    const int64_t row = pass.order ? pass.order[position] : position;
    const int64_t next = pass.order ? pass.order[ahead] : ahead;
    block.rows[0][r] = (const T*)pass.feature + row * pass.feature_stride;
    block.ahead[0][r] = (const T*)pass.feature + next * pass.feature_stride;
    if constexpr (kJob == Job::kPair || kJob == Job::kReluBackward) {
      block.rows[1][r] = (const T*)pass.gradient + row * pass.gradient_stride;
      block.ahead[1][r] = (const T*)pass.gradient + next * pass.gradient_stride;
    }
    if constexpr (kJob == Job::kReluBackward) {
      block.grad_in[r] = (T*)pass.grad_in + row * pass.grad_in_stride;
    }
  }
  return block;
}

template <typename T, Job kJob>
void row_pass(const RowPass& pass, int64_t first_segment, int64_t last_segment) {
  using Sum = typename Element<T>::Sum;
  constexpr bool kCosines = kJob != Job::kGates;
  constexpr bool kGradient = kJob == Job::kPair || kJob == Job::kReluBackward;
  const int64_t width = pass.width;
  for (int64_t s = first_segment; s < last_segment; ++s) {
    const Segment& segment = pass.segments[s];
    int32_t* gates = kJob == Job::kCosine ? nullptr : pass.gates + s * width;
    TensorTotals tensors[2];
    int32_t nonfinite = 0;
    for (int32_t begin = 0; begin < segment.rows; begin += kBlock) {
      const Block<T> block = find_block<T, kJob>(pass, segment, begin);
      const bool first = begin == 0;
      double squares[2][kBlock] = {};
      switch (block.count) {
        case 4:
          scan_block<T, kJob, 4>(block, width, gates, first, squares);
          break;
        case 3:
          scan_block<T, kJob, 3>(block, width, gates, first, squares);
          break;
        case 2:
          scan_block<T, kJob, 2>(block, width, gates, first, squares);
          break;
        default:
          scan_block<T, kJob, 1>(block, width, gates, first, squares);
      }
      unsigned finite = (1u << block.count) - 1;
      if constexpr (kCosines) {
        Sum* sum = (Sum*)pass.sums[0] + s * width;
        finite &= add_unit_block<T, kJob, 0>(block, sum, first, squares[0], width, tensors[0]);
      }
      if constexpr (kGradient) {
        Sum* sum = (Sum*)pass.sums[1] + s * width;
        finite &= add_unit_block<T, kJob, 1>(block, sum, first, squares[1], width, tensors[1]);
      }
      nonfinite += block.count - __builtin_popcount(finite);
    }
    pass.totals[s] = {{tensors[0].valid, tensors[1].valid},
                      {tensors[0].zero, tensors[1].zero},
                      nonfinite,
                      {tensors[0].norm, tensors[1].norm}};
  }
}

}  // namespace
}  // namespace tfc::cpu::TFC_TARGET
