// The norm of a row whose squares under- or overflow where the fast loops add them. Included once per
// target, after elements.h.

namespace tfc::cpu::TFC_TARGET {
namespace {

// Columns over which squares are added before the sum goes on elsewhere: 8 terms per lane.
constexpr int64_t kRun = 8 * kLanes;

// A row whose squares left the range of the fast loops: unit row = (x * pre) * scale, in double.
struct RowNorm {
  double norm;  // 0: the row is left out
  double pre;
  double scale;
  bool finite;
};

// float, bfloat16, float16: their squares neither overflow nor vanish in double.
template <typename T>
RowNorm norm_in_double(const T* x, int64_t width) {
  Doubles sum = zeros<Doubles>();
  int64_t j = 0;
  for (; j + kLanes <= width; j += kLanes) {
    add_square(sum, widened(read<T>(x + j)));
  }
  double squares = total(sum);
  for (; j < width; ++j) {
    const double value = (double)Element<T>::one(x + j);
    squares += value * value;
  }
  if (!(squares <= __DBL_MAX__)) return {0, 1, 0, false};
  if (squares == 0) return {0, 1, 0, true};
  const double norm = __builtin_sqrt(squares);
  return {norm, 1, 1.0 / norm, true};
}

// double: scaled by a power of two, which is exact, so that the largest entry is of moderate size.
template <>
RowNorm norm_in_double<double>(const double* x, int64_t width) {
  double largest = 0;
  bool finite = true;
  for (int64_t j = 0; j < width; ++j) {
    const double magnitude = __builtin_fabs(x[j]);
    finite &= magnitude <= __DBL_MAX__;
    largest = magnitude > largest ? magnitude : largest;
  }
  if (!finite || largest == 0) return {0, 1, 0, finite};
  const int exponent = __builtin_ilogb(largest);
  // Neither 2^-exponent nor its use may be subnormal: the processor may be set to flush those to zero.
  const double pre = __builtin_ldexp(1.0, exponent < -1000 ? 1000 : exponent > 1000 ? -1000 : -exponent);
  // In runs, since many thousand equal squares would all be rounded the same way.
  Doubles sum = zeros<Doubles>();
  int64_t j = 0;
  const int64_t whole = width / kLanes * kLanes;
  while (j < whole) {
    const int64_t stop = whole - j < 8 * kRun ? whole : j + 8 * kRun;
    Doubles run = zeros<Doubles>();
    for (; j < stop; j += kLanes) {
      Doubles value = read<double>(x + j);
      for (int i = 0; i < Doubles::kParts; ++i) value.part[i] *= pre;
      add_square(run, value);
    }
    add(sum, run);
  }
  double squares = total(sum);
  for (; j < width; ++j) squares += (x[j] * pre) * (x[j] * pre);
  const double scaled = __builtin_sqrt(squares);
  return {scaled / pre, pre, 1.0 / scaled, true};
}

template <typename T>
TFC_INLINE bool in_range(double squares) {
  constexpr double kLow = sizeof(T) == 8 ? 0x1p-900 : 0x1p-80;
  constexpr double kHigh = sizeof(T) == 8 ? 0x1p+900 : 0x1p+120;
  return squares >= kLow && squares <= kHigh;
}

}  // namespace
}  // namespace tfc::cpu::TFC_TARGET
