// Unit rows. See unit_rows.h. Included once per target, after row_pass.inl, whose norms it takes.

namespace tfc::cpu::TFC_TARGET {
namespace {

template <typename T>
void unit_scales(const Rows& rows, int64_t first, int64_t last, UnitScale* out) {
  for (int64_t i = first; i < last; ++i) {
    const RowNorm row = norm_in_double((const T*)rows.data + i * rows.stride, rows.width);
    out[i] = {row.pre, row.finite ? row.scale : __builtin_nan("")};
  }
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

// Sixteen entries of a unit row, rounded once to Out.
template <typename Out, typename T>
TFC_INLINE typename PackOf<Out>::Type unit_entries(const T* x, const UnitScale& by) {
  Doubles wide = zeros<Doubles>();
  add_widened(wide, Element<T>::read(x));
  for (int i = 0; i < Doubles::kParts; ++i) wide.part[i] = wide.part[i] * by.pre * by.scale;
  return PackOf<Out>::from(wide);
}

template <typename Out, typename T>
TFC_INLINE typename PackOf<Out>::Type unit_entries_at(const T* x, int64_t left, const UnitScale& by) {
  if (left >= kLanes) return unit_entries<Out>(x, by);
  T padded[kLanes];
  copy_some(padded, x, left);
  return unit_entries<Out>((const T*)padded, by);
}

template <typename T, typename Out>
void unit_rows(const Rows& rows, const int64_t* order, const UnitScale* scales, int64_t first, int64_t last,
               Out* out, int64_t out_stride) {
  for (int64_t i = first; i < last; ++i, out += out_stride) {
    const int64_t row = order ? order[i] : i;
    const T* x = (const T*)rows.data + row * rows.stride;
    const UnitScale by = scales[row];
    int64_t j = 0;
    if (by.scale > 0) {
      for (; j + kLanes <= rows.width; j += kLanes) {
        store<Out, typename PackOf<Out>::Native>(out + j, unit_entries<Out>(x + j, by));
      }
      for (; j < rows.width; ++j) out[j] = (Out)((double)Element<T>::one(x + j) * by.pre * by.scale);
    }
    if (j < out_stride) std::memset(out + j, 0, (out_stride - j) * sizeof(Out));
  }
}

template <typename T, typename Out>
void unit_columns(const Rows& rows, const int64_t* order, const UnitScale* scales, int64_t first,
                  int64_t last, Out* out, int64_t out_stride) {
  using Entries = typename PackOf<Out>::Type;
  using Native = typename PackOf<Out>::Native;
  constexpr int kSquare = Entries::kWidth;
  for (int64_t i = first; i < last || (i - first) % kPanelStep != 0; i += kSquare) {
    const T* x[kSquare];
    UnitScale by[kSquare];
    for (int r = 0; r < kSquare; ++r) {
      const int64_t row = i + r >= last ? -1 : order ? order[i + r] : i + r;
      x[r] = row < 0 || !(scales[row].scale > 0) ? nullptr : (const T*)rows.data + row * rows.stride;
      if (x[r]) by[r] = scales[row];
    }
    for (int64_t j = 0; j < rows.width; j += kLanes) {
      Entries block[kSquare];
      for (int r = 0; r < kSquare; ++r) {
        block[r] = x[r] ? unit_entries_at<Out>(x[r] + j, rows.width - j, by[r]) : zeros<Entries>();
      }
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

}  // namespace
}  // namespace tfc::cpu::TFC_TARGET
