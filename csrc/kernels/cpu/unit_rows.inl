// Unit rows. See unit_rows.h. Included once per target, after row_pass.inl, whose norms it takes.

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

template <typename T>
void sum_unit_rows(const UnitRows& rows, int64_t first, int64_t last, double* sum) {
  for (int64_t i = first; i < last; ++i) {
    const auto row = UnitRow<T>::at(rows, i);
    int64_t j = 0;
    for (; j + kLanes <= rows.width; j += kLanes) {
      Doubles total = load<double, NativeDouble>(sum + j);
      add(total, row.entries(j, rows.width));
      store<double, NativeDouble>(sum + j, total);
    }
    if (j < rows.width) {
      double lane[kLanes];
      store<double, NativeDouble>(lane, row.entries(j, rows.width));
      for (int k = 0; j < rows.width; ++j, ++k) sum[j] += lane[k];
    }
  }
}

template <typename T>
void unit_squares(const UnitRows& rows, int64_t first, int64_t last, double* out) {
  for (int64_t i = first; i < last; ++i) {
    const auto row = UnitRow<T>::at(rows, i);
    Doubles squares = zeros<Doubles>();
    for (int64_t j = 0; j < rows.width; j += kLanes) add_square(squares, row.entries(j, rows.width));
    out[i - first] += total(squares);
  }
}

}  // namespace
}  // namespace tfc::cpu::TFC_TARGET
