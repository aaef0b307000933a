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

template <typename T, typename Out>
void unit_rows(const Rows& rows, const int64_t* order, const UnitScale* scales, int64_t first, int64_t last,
               Out* out, int64_t out_stride) {
  for (int64_t i = first; i < last; ++i, out += out_stride) {
    const int64_t row = order ? order[i] : i;
    const T* x = (const T*)rows.data + row * rows.stride;
    const UnitScale by = scales[row];
    if (!(by.scale > 0)) {
      std::memset(out, 0, rows.width * sizeof(Out));
      continue;
    }
    for (int64_t j = 0; j < rows.width; ++j)
      out[j] = (Out)((double)Element<T>::one(x + j) * by.pre * by.scale);
  }
}

}  // namespace
}  // namespace tfc::cpu::TFC_TARGET
