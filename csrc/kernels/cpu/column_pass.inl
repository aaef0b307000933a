// Column pass: segments -> classes -> all rows, unit by unit, in double and int64. See passes.h.
// Plain loops over a tile of units; the compiler makes vectors of them for each target.
// Included once per target, after simd.h.

namespace tfc::cpu::TFC_TARGET {
namespace {

constexpr int kTile = 64;

TFC_INLINE double sum_tile(const double* lane) {
  double half[kTile / 2];
  for (int i = 0; i < kTile / 2; ++i) half[i] = lane[i] + lane[i + kTile / 2];
  for (int n = kTile / 4; n > 0; n /= 2) {
    for (int i = 0; i < n; ++i) half[i] += half[i + n];
  }
  return half[0];
}

// |sum over all rows|^2 and sum over classes of |sum over the class|^2, lane by lane.
template <typename Sum>
TFC_INLINE void square_sums(const ColumnPass& pass, const Sum* sums, int64_t begin, int count, double* all,
                            double* within) {
  double total[kTile] = {};
  double of_class[kTile] = {};
  for (int64_t s = 0; s < pass.num_segments; ++s) {
    const Sum* segment = sums + s * pass.width + begin;
    for (int j = 0; j < count; ++j) of_class[j] += (double)segment[j];
    const bool class_ends = s + 1 == pass.num_segments || pass.segments[s + 1].label != pass.segments[s].label;
    if (!class_ends) continue;
    for (int j = 0; j < count; ++j) {
      within[j] += of_class[j] * of_class[j];
      total[j] += of_class[j];
      of_class[j] = 0;
    }
  }
  for (int j = 0; j < count; ++j) all[j] += total[j] * total[j];
}

TFC_INLINE void count_gates(const ColumnPass& pass, int64_t begin, int count, ColumnTotals& totals) {
  int32_t open[kTile] = {};
  int32_t of_class[kTile] = {};
  int64_t disagree[kTile] = {};
  int64_t class_rows = 0;
  for (int64_t s = 0; s < pass.num_segments; ++s) {
    const int32_t* segment = pass.gates + s * pass.width + begin;
    for (int j = 0; j < count; ++j) of_class[j] += segment[j];
    class_rows += pass.segments[s].rows;
    const bool class_ends = s + 1 == pass.num_segments || pass.segments[s + 1].label != pass.segments[s].label;
    if (!class_ends) continue;
    for (int j = 0; j < count; ++j) {
      disagree[j] += (int64_t)of_class[j] * (of_class[j] - class_rows);
      open[j] += of_class[j];
      of_class[j] = 0;
    }
    class_rows = 0;
  }
  for (int j = 0; j < count; ++j) {
    totals.disagree_within += disagree[j];
    totals.disagree_all += (int64_t)open[j] * (open[j] - pass.rows);
    totals.open += open[j];
    totals.dead += open[j] == 0;
    totals.always_on += open[j] == pass.rows;
  }
  if (pass.last_open == nullptr) return;
  for (int j = 0; j < count; ++j) {
    if (open[j] > 0) pass.last_open[begin + j] = pass.step;
    if (open[j] < pass.rows) pass.last_shut[begin + j] = pass.step;
  }
}

void column_pass(const ColumnPass& pass, int64_t first_strip, int64_t last_strip) {
  for (int64_t strip = first_strip; strip < last_strip; ++strip) {
    const int64_t strip_end = (strip + 1) * kStripUnits < pass.width ? (strip + 1) * kStripUnits : pass.width;
    ColumnTotals totals = {};
    double all[2][kTile] = {};
    double within[2][kTile] = {};
    for (int64_t begin = strip * kStripUnits; begin < strip_end; begin += kTile) {
      const int count = strip_end - begin < kTile ? (int)(strip_end - begin) : kTile;
      for (int t = 0; t < 2; ++t) {
        if (pass.sums[t] == nullptr) continue;
        if (pass.sums_are_double) {
          square_sums(pass, (const double*)pass.sums[t], begin, count, all[t], within[t]);
        } else {
          square_sums(pass, (const float*)pass.sums[t], begin, count, all[t], within[t]);
        }
      }
      if (pass.gates != nullptr) count_gates(pass, begin, count, totals);
    }
    for (int t = 0; t < 2; ++t) {
      totals.all[t] = sum_tile(all[t]);
      totals.within[t] = sum_tile(within[t]);
    }
    pass.totals[strip] = totals;
  }
}

}  // namespace
}  // namespace tfc::cpu::TFC_TARGET
