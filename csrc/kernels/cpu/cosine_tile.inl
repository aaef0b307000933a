// Tiles of cosines, written out, counted or summed. See cosine_tile.h. Included once per target, after
// unit_rows.inl.

namespace tfc::cpu::TFC_TARGET {
namespace {

// NaN fails both comparisons and stays.
template <typename Native>
TFC_INLINE Native clamped(Native value, Native low, Native high) {
  value = value < low ? low : value;
  return value > high ? high : value;
}

template <typename Native, typename Real>
TFC_INLINE Native all_lanes(Real value) {
  return Native{} + value;
}

template <typename Real>
void place_rows(const Real* tile, int64_t stride, int64_t rows, int64_t columns, Real* out,
                int64_t row_stride) {
  using Native = typename PackOf<Real>::Native;
  constexpr int kWidth = sizeof(Native) / sizeof(Real);
  const Native low = all_lanes<Native>((Real)-1);
  const Native high = all_lanes<Native>((Real)1);
  for (int64_t i = 0; i < rows; ++i, tile += stride, out += row_stride) {
    int64_t j = 0;
    for (; j + kWidth <= columns; j += kWidth) {
      Native value;
      get_vector(value, tile + j);
      value = clamped(value, low, high);
      put_vector(out + j, value);
    }
    for (; j < columns; ++j) out[j] = clamped<Real>(tile[j], -1, 1);
  }
}

template <typename Real>
void place_one_by_one(const Real* tile, int64_t stride, int64_t rows, int64_t columns, Real* out,
                      int64_t row_stride, int64_t column_stride) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) {
      out[i * row_stride + j * column_stride] = clamped<Real>(tile[i * stride + j], -1, 1);
    }
  }
}

// Columns of the tile to rows of `out`, a square of vectors at a time.
template <typename Real>
void place_columns(const Real* tile, int64_t stride, int64_t rows, int64_t columns, Real* out,
                   int64_t column_stride) {
  using Native = typename PackOf<Real>::Native;
  constexpr int kSide = sizeof(Native) / sizeof(Real);
  const Native low = all_lanes<Native>((Real)-1);
  const Native high = all_lanes<Native>((Real)1);
  const int64_t whole_rows = rows - rows % kSide;
  const int64_t whole_columns = columns - columns % kSide;
  for (int64_t j = 0; j < whole_columns; j += kSide) {
    for (int64_t i = 0; i < whole_rows; i += kSide) {
      Native square[kSide];
      for (int r = 0; r < kSide; ++r) {
        get_vector(square[r], tile + (i + r) * stride + j);
        square[r] = clamped(square[r], low, high);
      }
      transpose<Real>(square);
      for (int r = 0; r < kSide; ++r) {
        put_vector(out + (j + r) * column_stride + i, square[r]);
      }
    }
  }
  place_one_by_one(tile + whole_columns, stride, whole_rows, columns - whole_columns,
                   out + whole_columns * column_stride, 1, column_stride);
  place_one_by_one(tile + whole_rows * stride, stride, rows - whole_rows, columns, out + whole_rows, 1,
                   column_stride);
}

template <typename Real>
void place_cosines(const Real* tile, int64_t stride, int64_t rows, int64_t columns, Real* out,
                   int64_t row_stride, int64_t column_stride) {
  if (column_stride == 1) return place_rows(tile, stride, rows, columns, out, row_stride);
  if (row_stride == 1) return place_columns(tile, stride, rows, columns, out, column_stride);
  place_one_by_one(tile, stride, rows, columns, out, row_stride, column_stride);
}

void scale_cosines(const float* left, const float* right, int64_t rows, int64_t columns, float* tile,
                   int64_t stride) {
  for (int64_t i = 0; i < rows; ++i, tile += stride) {
    const float factor = left[i];
    for (int64_t j = 0; j < columns; ++j) tile[j] *= factor * right[j];
  }
}

template <typename Real>
TFC_INLINE int64_t cell_of(Real cosine, Real half, Real last) {
  return (int64_t)clamped<Real>((cosine + 1) * half, 0, last);
}

template <typename Real>
void count_cosines(const Real* cosine, int64_t count, int64_t bins, uint32_t* counts) {
  using Native = typename PackOf<Real>::Native;
  constexpr int kWidth = sizeof(Native) / sizeof(Real);
  // Vectors of Native's lanes, of int32.
  typedef int32_t Cells __attribute__((vector_size(kWidth * sizeof(int32_t))));
  const Real half = (Real)bins / 2;
  const Real last = (Real)(bins - 1);
  uint32_t* way[kCountWays];
  for (int w = 0; w < kCountWays; ++w) way[w] = counts + w * bins;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    alignas(64) int32_t cell[kLanes];
    for (int part = 0; part < kLanes / kWidth; ++part) {
      Native value;
      get_vector(value, cosine + i + part * kWidth);
      value = clamped((value + (Real)1) * half, Native{}, all_lanes<Native>(last));
      const Cells cells = __builtin_convertvector(value, Cells);
      std::memcpy(cell + part * kWidth, &cells, sizeof(cells));
    }
    for (int lane = 0; lane < kLanes; ++lane) ++way[lane % kCountWays][cell[lane]];
  }
  for (; i < count; ++i) ++way[i % kCountWays][cell_of(cosine[i], half, last)];
}

template <typename Real>
double sum_squares(const Real* values, int64_t count, double shift) {
  Doubles sum = zeros<Doubles>();
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Doubles value = zeros<Doubles>();
    add_widened(value, load<Real, typename PackOf<Real>::Native>(values + i));
    for (int part = 0; part < Doubles::kParts; ++part) value.part[part] += shift;
    add_square(sum, value);
  }
  double squares = total(sum);
  for (; i < count; ++i) squares += ((double)values[i] + shift) * ((double)values[i] + shift);
  return squares;
}

}  // namespace
}  // namespace tfc::cpu::TFC_TARGET
