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

// Past the last segment of the class that begins at segment `begin`.
TFC_INLINE int64_t class_end(const ColumnPass& pass, int64_t begin) {
  int64_t end = begin + 1;
  while (end < pass.num_segments && pass.segments[end].label == pass.segments[begin].label) ++end;
  return end;
}

// The exact error of an addition is itself a double (Knuth's two-sum): sums over millions of batches
// stay as good as those over one.
template <typename Sum>
TFC_INLINE void add_to_class(double* sums, double* lost, int count, const Sum* of_class) {
  if (lost == nullptr) {
    for (int j = 0; j < count; ++j) sums[j] += (double)of_class[j];
    return;
  }
  for (int j = 0; j < count; ++j) {
    const double before = sums[j], value = (double)of_class[j];
    const double after = before + value;
    const double added = after - before;
    lost[j] += (before - (after - added)) + (value - added);
    sums[j] = after;
  }
}

// |sum over all rows|^2 and sum over classes of |sum over the class|^2, lane by lane.
template <typename Sum>
TFC_INLINE void square_sums(const ColumnPass& pass, int tensor, int64_t begin, int count, double* all,
                            double* within) {
  const Sum* sums = (const Sum*)pass.sums[tensor];
  double* class_sums = pass.class_sums[tensor];
  double* class_lost = tensor == 0 ? pass.class_lost : nullptr;
  const auto keep = [&](int64_t segment, const auto* of_class) {
    if (class_sums == nullptr) return;
    const int64_t at = pass.segments[segment].label * pass.class_pitch + begin;
    add_to_class(class_sums + at, class_lost == nullptr ? nullptr : class_lost + at, count, of_class);
  };
  double total[kTile] = {};
  for (int64_t s = 0, end = 0; s < pass.num_segments; s = end) {
    end = class_end(pass, s);
    const Sum* segment = sums + s * pass.width + begin;
    const int64_t first = s;
    if (end == s + 1) {  // small classes are one segment: no need to gather it first
      for (int j = 0; j < count; ++j) {
        const double of_class = (double)segment[j];
        within[j] += of_class * of_class;
        total[j] += of_class;
      }
      keep(first, segment);
      continue;
    }
    double of_class[kTile];
    for (int j = 0; j < count; ++j) of_class[j] = (double)segment[j];
    for (++s; s < end; ++s) {
      segment += pass.width;
      for (int j = 0; j < count; ++j) of_class[j] += (double)segment[j];
    }
    for (int j = 0; j < count; ++j) {
      within[j] += of_class[j] * of_class[j];
      total[j] += of_class[j];
    }
    keep(first, of_class);
  }
  for (int j = 0; j < count; ++j) all[j] += total[j] * total[j];
}

// k (k - n) needs 64 bits only for classes of more rows than that.
constexpr int64_t kRowsIn32Bits = 46340;

TFC_INLINE void add_class(const int32_t* of_class, int64_t class_rows, int count, int32_t* open,
                          int64_t* disagree) {
  if (class_rows <= kRowsIn32Bits) {
    const int32_t rows = (int32_t)class_rows;
    for (int j = 0; j < count; ++j) disagree[j] += of_class[j] * (of_class[j] - rows);
  } else {
    for (int j = 0; j < count; ++j) disagree[j] += (int64_t)of_class[j] * (of_class[j] - class_rows);
  }
  for (int j = 0; j < count; ++j) open[j] += of_class[j];
}

TFC_INLINE void count_gates(const ColumnPass& pass, int64_t begin, int count, ColumnTotals& totals) {
  int32_t open[kTile] = {};
  int64_t disagree[kTile] = {};
  const auto keep = [&](int64_t segment, const int32_t* of_class) {
    if (pass.class_open == nullptr) return;
    double* to = pass.class_open + pass.segments[segment].label * pass.class_pitch + begin;
    for (int j = 0; j < count; ++j) to[j] += (double)of_class[j];
  };
  for (int64_t s = 0, end = 0; s < pass.num_segments; s = end) {
    end = class_end(pass, s);
    const int32_t* segment = pass.gates + s * pass.width + begin;
    int64_t class_rows = pass.segments[s].rows;
    if (end == s + 1) {
      add_class(segment, class_rows, count, open, disagree);
      keep(s, segment);
      continue;
    }
    const int64_t first = s;
    int32_t of_class[kTile];
    for (int j = 0; j < count; ++j) of_class[j] = segment[j];
    for (++s; s < end; ++s) {
      segment += pass.width;
      class_rows += pass.segments[s].rows;
      for (int j = 0; j < count; ++j) of_class[j] += segment[j];
    }
    add_class(of_class, class_rows, count, open, disagree);
    keep(first, of_class);
  }
  for (int j = 0; j < count; ++j) {
    totals.disagree_within += disagree[j];
    totals.disagree_all += (int64_t)open[j] * (open[j] - pass.rows);
    totals.open += open[j];
    totals.dead += open[j] == 0;
    totals.always_on += open[j] == pass.rows;
  }
  if (pass.open_rows != nullptr) std::memcpy(pass.open_rows + begin, open, count * sizeof(int32_t));
  if (pass.last_open == nullptr) return;
  for (int j = 0; j < count; ++j) {
    int32_t& last_open = pass.last_open[begin + j];
    int32_t& last_shut = pass.last_shut[begin + j];
    last_open = open[j] > 0 ? pass.step : last_open;
    last_shut = open[j] < pass.rows ? pass.step : last_shut;
  }
}

TFC_INLINE void sum_units(const ColumnPass& pass, int64_t begin, int count, double (*all)[kTile],
                          double (*within)[kTile], ColumnTotals& totals) {
  for (int t = 0; t < 2; ++t) {
    if (pass.sums[t] == nullptr) continue;
    if (pass.sums_are_double) {
      square_sums<double>(pass, t, begin, count, all[t], within[t]);
    } else {
      square_sums<float>(pass, t, begin, count, all[t], within[t]);
    }
  }
  if (pass.gates != nullptr) count_gates(pass, begin, count, totals);
}

void column_pass(const ColumnPass& pass, int64_t first_strip, int64_t last_strip) {
  for (int64_t strip = first_strip; strip < last_strip; ++strip) {
    const int64_t strip_end = (strip + 1) * kStripUnits < pass.width ? (strip + 1) * kStripUnits : pass.width;
    ColumnTotals totals = {};
    double all[2][kTile] = {};
    double within[2][kTile] = {};
    for (int64_t begin = strip * kStripUnits; begin < strip_end; begin += kTile) {
      // A whole tile has a length that the compiler knows.
      if (strip_end - begin >= kTile) {
        sum_units(pass, begin, kTile, all, within, totals);
      } else {
        sum_units(pass, begin, (int)(strip_end - begin), all, within, totals);
      }
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
