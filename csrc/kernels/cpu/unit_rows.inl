// Unit rows. See unit_rows.h. Included once per target, after row_norm.inl.

namespace tfc::cpu::TFC_TARGET {
namespace {

template <typename T>
void unit_scales(const UnitRows& rows, int64_t first, int64_t last, UnitScale* out) {
  for (int64_t i = first; i < last; ++i) {
    const RowNorm row = norm_in_double((const T*)rows.data + i * rows.stride, rows.width);
    out[i] = {row.pre, row.finite ? row.scale : __builtin_nan("")};
  }
}

// Sixteen entries of a row from `j` on, in double; those at `width` and beyond are zero.
template <typename T>
TFC_INLINE Doubles widened_entries(const T* row, int64_t j, int64_t width) {
  T padded[kLanes];
  const T* from = row + j;
  if (width - j < kLanes) {
    copy_some(padded, from, width - j);
    from = padded;
  }
  Doubles out = zeros<Doubles>();
  add_widened(out, Element<T>::read(from));
  return out;
}

template <typename Out>
struct PackOf;
template <>
struct PackOf<float> {
  using Type = Floats;
  using Native = NativeFloat;
  static TFC_INLINE Floats from(const Doubles& value) { return narrowed(value); }
};
template <>
struct PackOf<double> {
  using Type = Doubles;
  using Native = NativeDouble;
  static TFC_INLINE Doubles from(const Doubles& value) { return value; }
};

// The row at one position.
template <typename T>
struct UnitRow {
  const T* x;  // null: a row of zeros
  const double* mean;
  double pre, scale;

  static TFC_INLINE UnitRow at(const UnitRows& rows, int64_t position) {
    const int64_t row = rows.order ? rows.order[position] : position;
    const UnitScale by = rows.scales[row];
    return {by.scale > 0 ? (const T*)rows.data + row * rows.stride : nullptr,
            rows.means ? rows.means + rows.label[position] * rows.means_stride : nullptr, by.pre, by.scale};
  }

  // Sixteen entries from `j` on; those at `width` and beyond are zero.
  TFC_INLINE Doubles entries(int64_t j, int64_t width) const {
    if (!x) return zeros<Doubles>();
    Doubles out = widened_entries(x, j, width);
    for (int i = 0; i < Doubles::kParts; ++i) out.part[i] = out.part[i] * pre * scale;
    if (!mean) return out;
    const Doubles shift = widened_entries(mean, j, width);
    for (int i = 0; i < Doubles::kParts; ++i) out.part[i] -= shift.part[i];
    return out;
  }
};

template <typename T, typename Out>
void unit_rows(const UnitRows& rows, int64_t first, int64_t last, Out* out, int64_t out_stride) {
  for (int64_t i = first; i < last; ++i, out += out_stride) {
    const auto row = UnitRow<T>::at(rows, i);
    int64_t j = 0;
    for (; j + kLanes <= rows.width; j += kLanes) {
      store<Out, typename PackOf<Out>::Native>(out + j, PackOf<Out>::from(row.entries(j, rows.width)));
    }
    if (j < rows.width) {
      Out lane[kLanes];
      store<Out, typename PackOf<Out>::Native>(lane, PackOf<Out>::from(row.entries(j, rows.width)));
      std::memcpy(out + j, lane, (rows.width - j) * sizeof(Out));
    }
    if (rows.width < out_stride) std::memset(out + rows.width, 0, (out_stride - rows.width) * sizeof(Out));
  }
}

template <typename T, typename Out>
void unit_columns(const UnitRows& rows, int64_t first, int64_t last, Out* out, int64_t out_stride) {
  using Entries = typename PackOf<Out>::Type;
  using Native = typename PackOf<Out>::Native;
  constexpr int kSquare = Entries::kWidth;
  for (int64_t i = first; i < last || (i - first) % kPanelStep != 0; i += kSquare) {
    UnitRow<T> row[kSquare];
    for (int r = 0; r < kSquare; ++r) {
      row[r] = i + r < last ? UnitRow<T>::at(rows, i + r) : UnitRow<T>{nullptr, nullptr, 1, 0};
    }
    for (int64_t j = 0; j < rows.width; j += kLanes) {
      Entries block[kSquare];
      for (int r = 0; r < kSquare; ++r) block[r] = PackOf<Out>::from(row[r].entries(j, rows.width));
      for (int part = 0; part < Entries::kParts; ++part) {
        Native square[kSquare];
        for (int r = 0; r < kSquare; ++r) square[r] = block[r].part[part];
        transpose<Out>(square);
        Out* to = out + (j + part * kSquare) * out_stride + (i - first);
        for (int r = 0; r < kSquare; ++r) std::memcpy(to + r * out_stride, &square[r], sizeof(Native));
      }
    }
  }
}

// Positions `first` ... with fewer than kRowsAtOnce rows left: the others are rows of zeros.
template <typename T>
TFC_INLINE void find_rows(const UnitRows& rows, int64_t first, int64_t last, UnitRow<T>* row) {
  for (int r = 0; r < kRowsAtOnce; ++r) {
    row[r] = first + r < last ? UnitRow<T>::at(rows, first + r) : UnitRow<T>{nullptr, nullptr, 1, 0};
  }
}

template <typename T>
void sum_unit_rows(const UnitRows& rows, int64_t first, int64_t last, double* sum) {
  for (int64_t i = first; i < last; i += kRowsAtOnce) {
    UnitRow<T> row[kRowsAtOnce];
    find_rows(rows, i, last, row);
    for (int64_t j = 0; j < rows.width; j += kLanes) {
      const int64_t left = rows.width - j;
      double lane[kLanes];
      double* at = left < kLanes ? lane : sum + j;
      if (left < kLanes) copy_some(lane, (const double*)sum + j, left);
      Doubles total = load<double, NativeDouble>(at);
      for (int r = 0; r < kRowsAtOnce; ++r) add(total, row[r].entries(j, rows.width));
      store<double, NativeDouble>(at, total);
      if (left < kLanes) std::memcpy(sum + j, lane, left * sizeof(double));
    }
  }
}

template <typename T>
void centred_squares(const UnitRows& rows, int64_t classes, const double* rows_of_class, int64_t first,
                     int64_t last, double* scratch, double* squares, double* across) {
  constexpr int64_t kChunk = 16 * kLanes;
  alignas(64) double entries[kRowsAtOnce][kChunk];
  for (int64_t i = first; i < last; i += kRowsAtOnce) {
    UnitRow<T> row[kRowsAtOnce];
    find_rows(rows, i, last, row);
    double length[kRowsAtOnce] = {};
    if (classes > 1) std::memset(scratch, 0, kRowsAtOnce * classes * sizeof(double));
    for (int64_t begin = 0; begin < rows.width; begin += kChunk) {
      const int64_t end = rows.width - begin < kChunk ? rows.width : begin + kChunk;
      for (int r = 0; r < kRowsAtOnce; ++r) {
        Doubles sum = zeros<Doubles>();
        for (int64_t j = begin; j < end; j += kLanes) {
          const Doubles value = row[r].entries(j, rows.width);
          store<double, NativeDouble>(entries[r] + (j - begin), value);
          add_square(sum, value);
        }
        length[r] += total(sum);
      }
      for (int64_t e = 0; classes > 1 && e < classes; ++e) {
        const double* mean = rows.means + e * rows.means_stride;
        Doubles sum[kRowsAtOnce];
        for (int r = 0; r < kRowsAtOnce; ++r) sum[r] = zeros<Doubles>();
        for (int64_t j = begin; j < end; j += kLanes) {
          double lane[kLanes];
          const double* from = mean + j;
          if (rows.width - j < kLanes) {
            copy_some(lane, from, rows.width - j);
            from = lane;
          }
          const Doubles centre = load<double, NativeDouble>(from);
          for (int r = 0; r < kRowsAtOnce; ++r) {
            const Doubles value = load<double, NativeDouble>(entries[r] + (j - begin));
            for (int part = 0; part < Doubles::kParts; ++part) {
              sum[r].part[part] += centre.part[part] * value.part[part];
            }
          }
        }
        for (int r = 0; r < kRowsAtOnce; ++r) scratch[r * classes + e] += total(sum[r]);
      }
    }
    for (int r = 0; r < kRowsAtOnce && i + r < last; ++r) {
      squares[i + r] = length[r];
      if (classes <= 1) continue;
      const double* dot = scratch + r * classes;
      double sum = 0;
      for (int64_t e = 0; e < classes; ++e) {
        if (e != rows.label[i + r]) sum += rows_of_class[e] * dot[e] * dot[e];
      }
      across[i + r] = sum;
    }
  }
}

}  // namespace
}  // namespace tfc::cpu::TFC_TARGET
