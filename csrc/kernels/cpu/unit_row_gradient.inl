// Gradient with respect to rows. See unit_row_gradient.h. Included once per target, after unit_rows.inl.

namespace tfc::cpu::TFC_TARGET {
namespace {

struct Projection {
  double squares;  // |x|^2
  double product;  // x.w
};

template <typename T, typename Weight>
TFC_INLINE Projection project(const T* x, const Weight* w, int64_t width, double pre) {
  Doubles squares = zeros<Doubles>(), products = zeros<Doubles>();
  for (int64_t j = 0; j < width; j += kLanes) {
    Doubles value = widened_entries(x, j, width);
    const Doubles weight = widened_entries(w, j, width);
    for (int i = 0; i < Doubles::kParts; ++i) value.part[i] *= pre;
    add_product(products, value, weight);
    add_square(squares, value);
  }
  return {total(squares), total(products)};
}

template <typename T, typename Weight>
void unit_row_gradient(const UnitRowGradient& rows, int64_t first, int64_t last) {
  using Out = typename Element<T>::Sum;
  using Native = typename PackOf<Out>::Native;
  const int64_t width = rows.width;
  for (int64_t position = first; position < last; ++position) {
    const int64_t row = rows.order ? rows.order[position] : position;
    const T* x = (const T*)rows.data + row * rows.stride;
    const Weight* w =
        (const Weight*)rows.weights + (rows.label ? rows.label[position] : position) * rows.weights_stride;
    Out* out = (Out*)rows.out + row * width;
    double pre = 1;
    Projection sums = project(x, w, width, pre);
    if (__builtin_expect(!in_range<double>(sums.squares), 0)) {
      const RowNorm norm = norm_in_double(x, width);
      if (!norm.finite || norm.scale == 0) {
        std::memset(out, 0, width * sizeof(Out));
        continue;
      }
      pre = norm.pre;
      sums = project(x, w, width, pre);
    }
    const double scale = 1.0 / __builtin_sqrt(sums.squares);
    const double along = sums.product * scale;
    for (int64_t j = 0; j < width; j += kLanes) {
      Doubles gradient = widened_entries(w, j, width);
      const Doubles value = widened_entries(x, j, width);
      for (int i = 0; i < Doubles::kParts; ++i) {
        gradient.part[i] -= value.part[i] * pre * scale * along;
        gradient.part[i] = gradient.part[i] * scale * pre;
      }
      const auto rounded = PackOf<Out>::from(gradient);
      if (width - j >= kLanes) {
        store<Out, Native>(out + j, rounded);
      } else {
        Out lane[kLanes];
        store<Out, Native>(lane, rounded);
        std::memcpy(out + j, lane, (width - j) * sizeof(Out));
      }
    }
  }
}

}  // namespace
}  // namespace tfc::cpu::TFC_TARGET
