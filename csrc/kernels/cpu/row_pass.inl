// Row pass: norms, unit-row sums, open gates and, for ReLU's backward, grad_in. See passes.h.
//
// Rows go through in blocks of up to kBlock, so that what the first loop read is still in the
// nearest cache when the second loop (which needs the norms) reads it again:
//   1. squares, gates and grad_in      one load of feature and gradient, one store
//   2. sums of unit rows               sum += row * (1 / norm)
//
// Squares are added in float over kRun columns per lane (16 terms), then in double. That is good to
// about 1e-7 as long as nothing under- or overflows, so a row whose sum leaves [2^-80, 2^120] is
// done again in double; a product of two floats is exact there. Double input is scaled by a power of
// two instead. A row is dropped only if it is exactly zero or not finite.
//
// Included once per target, after simd.h.

namespace tfc::cpu::TFC_TARGET {
namespace {

constexpr int kBlock = 4;
constexpr int64_t kRun = 16 * kLanes;

// What is known of one row: |x| = norm; unit row = x * scale when `direct`, else (x * pre) * scale
// in double.
struct RowNorm {
  double norm;
  double pre;
  double scale;
  bool direct;
  bool finite;
};

// float, bfloat16, float16: their squares neither overflow nor vanish in double.
template <typename T>
RowNorm norm_in_double(const T* x, int64_t width) {
  Doubles sum = zeros<Doubles>();
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) {
    Doubles wide = zeros<Doubles>();
    add_widened(wide, Element<T>::read(x + j));
    add_square(sum, wide);
  }
  double squares = total(sum);
  for (; j < width; ++j) {
    const double value = (double)Element<T>::one(x + j);
    squares += value * value;
  }
  if (!(squares <= __DBL_MAX__)) return {0, 1, 0, true, false};
  if (squares == 0) return {0, 1, 0, true, true};
  const double norm = __builtin_sqrt(squares);
  return {norm, 1, 1.0 / norm, false, true};
}

// double: scaled by a power of two, which is exact, so that the largest entry is near 1.
template <>
RowNorm norm_in_double<double>(const double* x, int64_t width) {
  double largest = 0;
  bool finite = true;
  for (int64_t j = 0; j < width; ++j) {
    const double magnitude = __builtin_fabs(x[j]);
    finite &= magnitude <= __DBL_MAX__;
    largest = magnitude > largest ? magnitude : largest;
  }
  if (!finite || largest == 0) return {0, 1, 0, true, finite};
  const int exponent = __builtin_ilogb(largest);
  const double pre = __builtin_ldexp(1.0, exponent < -1000 ? 1000 : -exponent);
  double squares = 0;
  for (int64_t j = 0; j < width; ++j) squares += (x[j] * pre) * (x[j] * pre);
  const double scaled = __builtin_sqrt(squares);
  return {scaled / pre, pre, 1.0 / scaled, false, true};
}

template <typename T>
TFC_INLINE RowNorm row_norm(double squares, const T* x, int64_t width) {
  constexpr double kLow = sizeof(T) == 8 ? 0x1p-900 : 0x1p-80;
  constexpr double kHigh = sizeof(T) == 8 ? 0x1p+900 : 0x1p+120;
  RowNorm row;
  if (squares >= kLow && squares <= kHigh) {
    row.norm = __builtin_sqrt(squares);
    row.pre = 1.0;
    row.scale = 1.0 / row.norm;
    row.direct = true;
    row.finite = true;
    return row;
  }
  row = norm_in_double(x, width);
  // 1 / norm fits a float with room to spare: take the fast loop all the same.
  if (sizeof(T) < 8 && row.norm > 0x1p-120 && row.norm < 0x1p+120) row.direct = true;
  return row;
}

// sum[j] += row[j] / |row| for kRows rows at once, in the order given.
template <typename T, int kRows>
TFC_INLINE void add_unit_rows(typename Element<T>::Sum* sum, bool first, const T* const* rows,
                              const typename Element<T>::Sum* scale, int64_t width) {
  using Sum = typename Element<T>::Sum;
  using Row = typename Element<T>::Row;
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) {
    Row acc = zeros<Row>();
    if (!first) std::memcpy(&acc, sum + j, sizeof(acc));
    for (int r = 0; r < kRows; ++r) add_scaled(acc, Element<T>::read(rows[r] + j), scale[r]);
    std::memcpy(sum + j, &acc, sizeof(acc));
  }
  for (; j < width; ++j) {
    Sum acc = first ? Sum(0) : sum[j];
    for (int r = 0; r < kRows; ++r) acc += (Sum)Element<T>::one(rows[r] + j) * scale[r];
    sum[j] = acc;
  }
}

template <typename T>
TFC_INLINE void add_unit_block(typename Element<T>::Sum* sum, bool first, const T* const* rows,
                               const RowNorm* norms, int count, int64_t width) {
  using Sum = typename Element<T>::Sum;
  const T* direct[kBlock];
  Sum scale[kBlock];
  int directs = 0;
  for (int r = 0; r < count; ++r) {
    if (norms[r].norm > 0 && norms[r].direct) {
      direct[directs] = rows[r];
      scale[directs++] = (Sum)norms[r].scale;
    }
  }
  switch (directs) {
    case 4: add_unit_rows<T, 4>(sum, first, direct, scale, width); break;
    case 3: add_unit_rows<T, 3>(sum, first, direct, scale, width); break;
    case 2: add_unit_rows<T, 2>(sum, first, direct, scale, width); break;
    case 1: add_unit_rows<T, 1>(sum, first, direct, scale, width); break;
    default:
      if (first) std::memset(sum, 0, width * sizeof(Sum));
  }
  for (int r = 0; r < count; ++r) {
    if (norms[r].norm > 0 && !norms[r].direct) {
      for (int64_t j = 0; j < width; ++j) {
        sum[j] += (Sum)((double)Element<T>::one(rows[r] + j) * norms[r].pre * norms[r].scale);
      }
    }
  }
}

// First loop over a block of kRows rows; squares[t][r] come out in double.
template <typename T, Job kJob, int kRows>
TFC_INLINE void scan_block(const T* const* feature, const T* const* gradient, T* const* grad_in, int64_t width,
                           int32_t* gates, bool first, double (*squares)[kBlock]) {
  constexpr bool kCosines = kJob != Job::kGates;
  constexpr bool kCounts = kJob != Job::kCosine;
  constexpr bool kGradient = kJob == Job::kPair || kJob == Job::kReluBackward;
  constexpr bool kWrites = kJob == Job::kReluBackward;
  using Row = typename Element<T>::Row;
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
        const Row f = Element<T>::read(feature[r] + j);
        if constexpr (kCounts) count_positive(open, f);
        if constexpr (kCosines) add_square(sum_f[r], f);
        if constexpr (kGradient) {
          const Row g = Element<T>::read(gradient[r] + j);
          add_square(sum_g[r], g);
          if constexpr (kWrites) Element<T>::gate_through(grad_in[r] + j, f, gradient[r] + j, g);
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
      const Row f = Element<T>::read(lane);
      if constexpr (kCounts) count_positive(open, f);
      Row sum = zeros<Row>();
      add_square(sum, f);
      if constexpr (kCosines) add_widened(wide_f[r], sum);
      if constexpr (kGradient) {
        copy_some(lane, gradient[r] + j, rest);
        const Row g = Element<T>::read(lane);
        sum = zeros<Row>();
        add_square(sum, g);
        add_widened(wide_g[r], sum);
        if constexpr (kWrites) {
          alignas(64) T out[kLanes];
          Element<T>::gate_through(out, f, lane, g);
          std::memcpy(grad_in[r] + j, out, rest * sizeof(T));
        }
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
void row_pass(const RowPass& pass, int64_t first_segment, int64_t last_segment) {
  using Sum = typename Element<T>::Sum;
  constexpr int kTensors = kJob == Job::kPair || kJob == Job::kReluBackward ? 2 : kJob == Job::kGates ? 0 : 1;
  const int64_t width = pass.width;
  for (int64_t s = first_segment; s < last_segment; ++s) {
    const Segment segment = pass.segments[s];
    int32_t* gates = kJob == Job::kCosine ? nullptr : pass.gates + s * width;
    SegmentTotals totals = {};
    for (int32_t begin = 0; begin < segment.rows; begin += kBlock) {
      const int count = segment.rows - begin < kBlock ? segment.rows - begin : kBlock;
      const T* rows[2][kBlock];
      T* grad_in[kBlock];
      for (int r = 0; r < count; ++r) {
        const int64_t position = segment.begin + begin + r;
        const int64_t row = pass.order ? pass.order[position] : position;
        rows[0][r] = (const T*)pass.feature + row * pass.feature_stride;
        if (kTensors == 2) rows[1][r] = (const T*)pass.gradient + row * pass.gradient_stride;
        if (kJob == Job::kReluBackward) grad_in[r] = (T*)pass.grad_in + row * pass.grad_in_stride;
      }
      double squares[2][kBlock];
      const bool first = begin == 0;
      switch (count) {
        case 4: scan_block<T, kJob, 4>(rows[0], rows[1], grad_in, width, gates, first, squares); break;
        case 3: scan_block<T, kJob, 3>(rows[0], rows[1], grad_in, width, gates, first, squares); break;
        case 2: scan_block<T, kJob, 2>(rows[0], rows[1], grad_in, width, gates, first, squares); break;
        default: scan_block<T, kJob, 1>(rows[0], rows[1], grad_in, width, gates, first, squares);
      }
      bool finite[kBlock] = {true, true, true, true};
      for (int t = 0; t < kTensors; ++t) {
        RowNorm norms[kBlock];
        for (int r = 0; r < count; ++r) {
          norms[r] = row_norm(squares[t][r], rows[t][r], width);
          finite[r] &= norms[r].finite;
          totals.valid[t] += norms[r].norm > 0;
          totals.zero[t] += norms[r].finite && norms[r].norm == 0;
          totals.norm[t] += norms[r].norm;
        }
        add_unit_block((Sum*)pass.sums[t] + s * width, first, rows[t], norms, count, width);
      }
      for (int r = 0; r < count; ++r) totals.nonfinite += !finite[r];
    }
    pass.totals[s] = totals;
  }
}

}  // namespace
}  // namespace tfc::cpu::TFC_TARGET
