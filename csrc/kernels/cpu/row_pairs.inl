// Cosines of pairs of rows. See row_pairs.h. Included once per target, after unit_rows.inl.

namespace tfc::cpu::TFC_TARGET {
namespace {

struct PairSums {
  double left, right;  // squared lengths
  double product;
};

// Columns first ... last - 1.
template <typename T>
TFC_INLINE PairSums sum_run(const T* left, const T* right, int64_t first, int64_t last, double left_pre,
                            double right_pre) {
  Doubles left_squares = zeros<Doubles>(), right_squares = zeros<Doubles>(), products = zeros<Doubles>();
  for (int64_t j = first; j < last; j += kLanes) {
    Doubles a = widened_entries(left, j, last);
    Doubles b = widened_entries(right, j, last);
    for (int i = 0; i < Doubles::kParts; ++i) {
      a.part[i] *= left_pre;
      b.part[i] *= right_pre;
    }
    add_product(products, a, b);
    add_square(left_squares, a);
    add_square(right_squares, b);
  }
  return {total(left_squares), total(right_squares), total(products)};
}

// In runs: a row of one value repeated is rounded the same way at each term, and over 100,000 of them
// that would be seen.
constexpr int64_t kPairRun = 256 * kLanes;

template <typename T>
TFC_INLINE PairSums sum_pair(const T* left, const T* right, int64_t width, double left_pre,
                             double right_pre) {
  PairSums sums = {0, 0, 0};
  for (int64_t first = 0; first < width; first += kPairRun) {
    const int64_t last = width - first < kPairRun ? width : first + kPairRun;
    const PairSums run = sum_run(left, right, first, last, left_pre, right_pre);
    sums.left += run.left;
    sums.right += run.right;
    sums.product += run.product;
  }
  return sums;
}

// Squared lengths of which the product, too, is a normal number.
TFC_INLINE bool product_in_range(const PairSums& sums) {
  constexpr double kLow = 0x1p-450, kHigh = 0x1p+450;
  return sums.left >= kLow && sums.left <= kHigh && sums.right >= kLow && sums.right <= kHigh;
}

template <typename T>
void pair_cosines(const RowPairs& pairs, int64_t first, int64_t last, double* cosines, PairState* states) {
  for (int64_t i = first; i < last; ++i) {
    const T* left = (const T*)pairs.left + i * pairs.left_stride;
    const T* right = (const T*)pairs.right + i * pairs.right_stride;
    PairSums sums = sum_pair(left, right, pairs.width, 1, 1);
    if (__builtin_expect(!product_in_range(sums), 0)) {
      const RowNorm a = norm_in_double(left, pairs.width), b = norm_in_double(right, pairs.width);
      if (!a.finite || !b.finite || a.scale == 0 || b.scale == 0) {
        cosines[i] = __builtin_nan("");
        states[i] = a.finite && b.finite ? PairState::kZero : PairState::kNonfinite;
        continue;
      }
      sums = sum_pair(left, right, pairs.width, a.pre, b.pre);
    }
    // One root of the product, not the product of two roots: a row with itself gives exactly 1.
    const double cosine = sums.product / __builtin_sqrt(sums.left * sums.right);
    cosines[i] = cosine > 1 ? 1 : cosine < -1 ? -1 : cosine;
    states[i] = PairState::kMeasured;
  }
}

}  // namespace
}  // namespace tfc::cpu::TFC_TARGET
