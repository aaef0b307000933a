// Unit rows. See unit_rows.h. Included once per target, after row_norm.inl.

namespace tfc::cpu::TFC_TARGET {
namespace {

// bfloat16: `pre` gets the power of two in the scale.
template <typename T>
TFC_INLINE UnitScale divided(UnitScale by) {
  return by;
}
template <>
TFC_INLINE UnitScale divided<BFloat16>(UnitScale by) {
  if (!(by.scale > 0)) return by;
  uint64_t bits;
  std::memcpy(&bits, &by.scale, sizeof(bits));
  bits &= uint64_t{0x7ff} << 52;
  std::memcpy(&by.pre, &bits, sizeof(bits));
  return {by.pre, by.scale / by.pre};
}

template <typename T>
TFC_INLINE UnitScale unit_scale(const T* x, int64_t width) {
  const RowNorm row = norm_in_double(x, width);
  return divided<T>({row.pre, row.finite ? row.scale : __builtin_nan("")});
}

template <typename T>
void unit_scales(const UnitRows& rows, int64_t first, int64_t last, UnitScale* out) {
  for (int64_t i = first; i < last; ++i) {
    out[i] = unit_scale((const T*)rows.data + i * rows.stride, rows.width);
  }
}

TFC_INLINE int64_t row_of(const UnitRows& rows, int64_t position) {
  return rows.order ? rows.order[position] : position;
}

template <typename T>
TFC_INLINE const T* row_at(const UnitRows& rows, int64_t position) {
  return (const T*)rows.data + row_of(rows, position) * rows.stride;
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
  return widened(read<T>(from));
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

// What a row is multiplied with. `pre` is a power of two: only in double can the product of both leave the
// range, so that other rows take them as one.
template <typename T>
struct Factor {
  double both;
  explicit Factor(UnitScale by = {}) : both(by.pre * by.scale) {}
  TFC_INLINE NativeDouble of(NativeDouble value) const { return value * both; }
};
template <>
struct Factor<double> {
  UnitScale by;
  explicit Factor(UnitScale scale = {}) : by(scale) {}
  TFC_INLINE NativeDouble of(NativeDouble value) const { return value * by.pre * by.scale; }
};

// The row at one position.
template <typename T>
struct UnitRow {
  const T* x = nullptr;  // null: a row of zeros
  const double* mean = nullptr;
  Factor<T> factor{};

  static TFC_INLINE UnitRow at(const UnitRows& rows, int64_t position) {
    const int64_t row = row_of(rows, position);
    const UnitScale by = rows.scales ? rows.scales[row] : UnitScale{1, 1};
    return {by.scale > 0 ? (const T*)rows.data + row * rows.stride : nullptr,
            rows.means ? rows.means + rows.label[position] * rows.means_stride : nullptr, Factor<T>(by)};
  }

  // Sixteen entries from `j` on; those at `width` and beyond are zero.
  TFC_INLINE Doubles entries(int64_t j, int64_t width) const {
    if (!x) return zeros<Doubles>();
    Doubles out = widened_entries(x, j, width);
    for (int i = 0; i < Doubles::kParts; ++i) out.part[i] = factor.of(out.part[i]);
    if (!mean) return out;
    const Doubles shift = widened_entries(mean, j, width);
    for (int i = 0; i < Doubles::kParts; ++i) out.part[i] -= shift.part[i];
    return out;
  }
};

constexpr int kRowsAtOnce = 4;

// Rows of a class lie anywhere: no hardware foresees where. So that many ahead are fetched.
template <typename T>
struct NextRow {
  const T* x;  // null: there is none

  static TFC_INLINE NextRow at(const UnitRows& rows, int64_t position, int64_t last) {
    if (!rows.order || position >= last) return {nullptr};
    return {row_at<T>(rows, position)};
  }
  TFC_INLINE void prefetch(int64_t j) const {
    if (x) __builtin_prefetch(x + j);
  }
};

// Rows as they are in the type that is wanted, to be laid out in another way.
template <typename T, typename Out>
TFC_INLINE bool only_copied(const UnitRows& rows) {
  return sizeof(T) == sizeof(Out) && !rows.scales && !rows.means;
}

template <typename Out>
void copy_rows(const UnitRows& rows, int64_t first, int64_t last, Out* out, int64_t out_stride) {
  for (int64_t i = first; i < last; ++i, out += out_stride) {
    std::memcpy(out, row_at<Out>(rows, i), rows.width * sizeof(Out));
    if (rows.width < out_stride) std::memset(out + rows.width, 0, (out_stride - rows.width) * sizeof(Out));
  }
}

// Sixteen entries of a packed row, of which `left` are the row's.
template <typename Out>
TFC_INLINE void store_entries(Out* out, const Doubles& value, int64_t left) {
  using Pack = PackOf<Out>;
  if (left >= kLanes) return store<Out, typename Pack::Native>(out, Pack::from(value));
  Out lane[kLanes];
  store<Out, typename Pack::Native>(lane, Pack::from(value));
  std::memcpy(out, lane, left * sizeof(Out));
}

template <typename T, typename Out>
void unit_rows(const UnitRows& rows, int64_t first, int64_t last, Out* out, int64_t out_stride) {
  if (only_copied<T, Out>(rows)) return copy_rows(rows, first, last, out, out_stride);
  for (int64_t i = first; i < last; ++i, out += out_stride) {
    const auto row = UnitRow<T>::at(rows, i);
    const auto next = NextRow<T>::at(rows, i + kRowsAtOnce, last);
    int64_t j = 0;
    for (; j + kLanes <= rows.width; j += kLanes) {
      next.prefetch(j);
      store_entries(out + j, row.entries(j, rows.width), kLanes);
    }
    if (j < rows.width) store_entries(out + j, row.entries(j, rows.width), rows.width - j);
    if (rows.width < out_stride) std::memset(out + rows.width, 0, (out_stride - rows.width) * sizeof(Out));
  }
}

// Rows of sixteen lanes of Lane at a time, transposed; a lane holds one entry, or a pair.
template <typename Row, typename Lane>
TFC_INLINE void transposed_rows(const UnitRows& rows, int64_t first, int64_t last, Lane* out,
                                int64_t out_stride) {
  using Lanes = typename PackOf<Lane>::Type;
  using Native = typename PackOf<Lane>::Native;
  constexpr int kSquare = Lanes::kWidth;
  for (int64_t i = first; i < last || (i - first) % kPanelStep != 0; i += kSquare) {
    Row row[kSquare];
    for (int r = 0; r < kSquare; ++r) row[r] = i + r < last ? Row::at(rows, i + r) : Row{};
    Lane* to = out + (i - first);
    for (int64_t j = 0; j < rows.width; j += kLanes * Row::kEntriesPerLane) {
      Lanes block[kSquare];
      for (int r = 0; r < kSquare; ++r) block[r] = row[r].lanes(j, rows.width);
      for (int part = 0; part < Lanes::kParts; ++part) {
        Native square[kSquare];
        for (int r = 0; r < kSquare; ++r) square[r] = block[r].part[part];
        transpose<Lane>(square);
        for (int r = 0; r < kSquare; ++r, to += out_stride) put_vector(to, square[r]);
      }
    }
  }
}

template <typename T, typename Out>
struct RoundedUnitRow : UnitRow<T> {
  static constexpr int kEntriesPerLane = 1;
  static TFC_INLINE RoundedUnitRow at(const UnitRows& rows, int64_t position) {
    return {UnitRow<T>::at(rows, position)};
  }
  TFC_INLINE typename PackOf<Out>::Type lanes(int64_t j, int64_t width) const {
    return PackOf<Out>::from(this->entries(j, width));
  }
};

template <typename T>
struct RowAsItIs {
  static constexpr int kEntriesPerLane = 1;
  const T* x;  // null: a row of zeros

  static TFC_INLINE RowAsItIs at(const UnitRows& rows, int64_t position) {
    return {row_at<T>(rows, position)};
  }
  TFC_INLINE typename PackOf<T>::Type lanes(int64_t j, int64_t width) const {
    if (!x) return zeros<typename PackOf<T>::Type>();
    T padded[kLanes];
    const T* from = x + j;
    if (width - j < kLanes) {
      copy_some(padded, from, width - j);
      from = padded;
    }
    return load<T, typename PackOf<T>::Native>(from);
  }
};

template <typename T, typename Out>
void unit_columns(const UnitRows& rows, int64_t first, int64_t last, Out* out, int64_t out_stride) {
  if (only_copied<T, Out>(rows)) {
    return transposed_rows<RowAsItIs<Out>>(rows, first, last, out, out_stride);
  }
  transposed_rows<RoundedUnitRow<T, Out>>(rows, first, last, out, out_stride);
}

TFC_INLINE float power_of_two(int exponent) {
  const uint32_t bits = (uint32_t)(exponent + 127) << 23;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// A bfloat16 row times its `pre`, which goes beyond float where the row is tiny: in two factors.
struct PairRow {
  static constexpr int kEntriesPerLane = 2;
  const BFloat16* x;  // null: a row of zeros
  float factor[2];

  static TFC_INLINE PairRow at(const UnitRows& rows, int64_t position) {
    const int64_t row = row_of(rows, position);
    const UnitScale by = rows.scales[row];
    if (!(by.scale > 0)) return {};
    uint64_t bits;
    std::memcpy(&bits, &by.pre, sizeof(bits));
    const int exponent = (int)(bits >> 52) - 1023;
    return {(const BFloat16*)rows.data + row * rows.stride,
            {power_of_two(exponent / 2), power_of_two(exponent - exponent / 2)}};
  }

  // The lower half of a lane is the earlier entry; as a float it is the lane's upper half.
  TFC_INLINE Floats lanes(int64_t j, int64_t width) const {
    if (!x) return zeros<Floats>();
    BFloat16 padded[kPairStep];
    const BFloat16* from = x + j;
    if (width - j < kPairStep) {
      std::memset(padded, 0, sizeof(padded));
      std::memcpy(padded, from, (width - j) * sizeof(BFloat16));
      from = padded;
    }
    Floats out;
    for (int i = 0; i < Floats::kParts; ++i) {
      NativeBits pairs;
      get_vector(pairs, from + 2 * i * Floats::kWidth);
      const NativeFloat even = (NativeFloat)(pairs << 16) * factor[0] * factor[1];
      const NativeFloat odd = (NativeFloat)(pairs & 0xffff0000u) * factor[0] * factor[1];
      out.part[i] = (NativeFloat)((NativeBits)even >> 16 | ((NativeBits)odd & 0xffff0000u));
    }
    return out;
  }
};

void pair_rows(const UnitRows& rows, int64_t first, int64_t last, uint16_t* out, int64_t out_stride) {
  for (int64_t i = first; i < last; ++i, out += out_stride) {
    const PairRow row = PairRow::at(rows, i);
    int64_t j = 0;
    for (; j < rows.width; j += kPairStep) {
      store<float, NativeFloat>((float*)(out + j), row.lanes(j, rows.width));
    }
    if (j < out_stride) std::memset(out + j, 0, (out_stride - j) * sizeof(*out));
  }
}

void pair_columns(const UnitRows& rows, int64_t first, int64_t last, uint16_t* out, int64_t out_stride) {
  transposed_rows<PairRow>(rows, first, last, (float*)out, out_stride);
}

// Positions `first` ... with fewer than kRowsAtOnce rows left: the others are rows of zeros.
template <typename T>
TFC_INLINE void find_rows(const UnitRows& rows, int64_t first, int64_t last, UnitRow<T>* row,
                          NextRow<T>* next) {
  for (int r = 0; r < kRowsAtOnce; ++r) {
    row[r] = first + r < last ? UnitRow<T>::at(rows, first + r) : UnitRow<T>{};
    next[r] = NextRow<T>::at(rows, first + kRowsAtOnce + r, last);
  }
}

template <typename T>
void scale_and_sum(const UnitRows& rows, int64_t first, int64_t last, UnitScale* scales, double* sum) {
  for (int64_t i = first; i < last; i += kRowsAtOnce) {
    for (int64_t p = i; p < last && p < i + kRowsAtOnce; ++p) {
      scales[row_of(rows, p)] = unit_scale(row_at<T>(rows, p), rows.width);
    }
    UnitRow<T> row[kRowsAtOnce];
    NextRow<T> next[kRowsAtOnce];
    find_rows(rows, i, last, row, next);
    for (int64_t j = 0; j < rows.width; j += kLanes) {
      for (int r = 0; r < kRowsAtOnce; ++r) next[r].prefetch(j);
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

// kPacked: the rows go to `out`, too.
template <typename T, typename Out, bool kPacked>
void centred_rows(const UnitRows& rows, const RowMeasures& measures, int64_t first, int64_t last, Out* out,
                  int64_t out_stride) {
  for (int64_t i = first; i < last; ++i, out += out_stride) {
    const auto row = UnitRow<T>::at(rows, i);
    const auto next = NextRow<T>::at(rows, i + kRowsAtOnce, last);
    Doubles square = zeros<Doubles>();
    Doubles product = zeros<Doubles>();
    for (int64_t j = 0; j < rows.width; j += kLanes) {
      next.prefetch(j);
      const Doubles value = row.entries(j, rows.width);
      add_square(square, value);
      add_product(product, widened_entries(measures.direction, j, rows.width), value);
      if (kPacked) store_entries(out + j, value, rows.width - j);
    }
    measures.squares[i] = total(square);
    measures.along[i] = total(product);
    if (kPacked) std::memset(out + rows.width, 0, (out_stride - rows.width) * sizeof(Out));
  }
}

}  // namespace
}  // namespace tfc::cpu::TFC_TARGET
