// cosine_spread on CUDA; ../spread_ops.cpp says what is summed up. The device does all that grows with the
// width of the rows; what is left is a few numbers per row and class, which are taken to the host.
//
// Waits for the device: to find which rows take part, so that no later step has to know of others, and after
// the products of the centred rows, which are made once more in double where float32 was too coarse.
#include "../spread.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <numeric>

#include "../../kernels/cuda/centred_rows.h"
#include "cosine_tiles.h"
#include "library_products.h"
#include "measure.h"

namespace tfc::ops::on_cuda {
namespace {

using at::Tensor;

constexpr const char* kOp = "cosine_spread";
constexpr int64_t kMostEntries = int64_t{1} << 22;  // of what is held besides the rows

// How each row is made a unit row; on the device and on the host.
struct Scales {
  Tensor on_device;  // [n, 2]
  std::vector<cpu::UnitScale> on_host;
};

Scales scales_of(const Tensor& rows) {
  static_assert(sizeof(cpu::UnitScale) == sizeof(cuda::UnitScale));
  Scales scales;
  scales.on_device = at::empty({rows.size(0), 2}, rows.options().dtype(at::kDouble));
  cuda::UnitRows kernel{};
  kernel.scalar = scalar_of(rows.scalar_type());
  kernel.rows = rows.const_data_ptr();
  kernel.stride = rows.stride(0);
  kernel.n = rows.size(0);
  kernel.width = rows.size(1);
  kernel.form = cuda::UnitForm::kDouble;
  kernel.scales = reinterpret_cast<cuda::UnitScale*>(scales.on_device.mutable_data_ptr<double>());
  check(cuda::unit_rows(kernel, current_stream()), "unit_rows");
  const Tensor copy = scales.on_device.cpu();
  const auto* first = reinterpret_cast<const cpu::UnitScale*>(copy.const_data_ptr<double>());
  scales.on_host.assign(first, first + rows.size(0));
  return scales;
}

template <typename T>
Tensor to_device(const std::vector<T>& values, const Tensor& like, at::ScalarType type) {
  const Tensor view = at::from_blob(const_cast<T*>(values.data()), {static_cast<int64_t>(values.size())},
                                    at::TensorOptions().dtype(c10::CppTypeToScalarType<T>::value));
  return view.to(like.options().dtype(type), /*non_blocking=*/false, /*copy=*/true);
}

// Rows that take part on the device, with what `Classes` holds of them on the host, but for the
// means and the centre.
class DeviceClasses {
 public:
  DeviceClasses(const Tensor& rows, const Scales& scales, const ValidRows& valid)
      : rows_(rows),
        order_(to_device(valid.order, rows, at::kLong)),
        label_(to_device(valid.label, rows, at::kInt)),
        class_ptr_(to_device(valid.class_ptr, rows, at::kLong)),
        scales_(scales.on_device),
        means_(at::empty({valid.classes(), rows.size(1)}, rows.options().dtype(at::kDouble))),
        classes_{valid, {}, {}, {}, {}, {}, {}} {
    kernel_.scalar = scalar_of(rows.scalar_type());
    kernel_.rows = rows_.const_data_ptr();
    kernel_.stride = rows_.stride(0);
    kernel_.width = rows_.size(1);
    kernel_.order = order_.const_data_ptr<int64_t>();
    kernel_.scales = reinterpret_cast<const cuda::UnitScale*>(scales_.const_data_ptr<double>());
    kernel_.label = label_.const_data_ptr<int32_t>();
    kernel_.class_ptr = class_ptr_.const_data_ptr<int64_t>();
    kernel_.n = valid.count();
    kernel_.classes = valid.classes();
    check(cuda::class_means(kernel_, means_.mutable_data_ptr<double>(), current_stream()), "class_means");
    for (int64_t c = 0; c < valid.classes(); ++c) {
      classes_.counts.push_back(static_cast<double>(valid.class_ptr[c + 1] - valid.class_ptr[c]));
    }
    counts_ = to_device(classes_.counts, rows, at::kDouble);
    describe();
  }

  int64_t count() const { return kernel_.n; }
  int64_t width() const { return kernel_.width; }
  const Classes& on_host() const { return classes_; }
  // Sum over rows i and classes e but its own of counts[e] (m_e.w_i)^2.
  double across() const { return across_; }
  const Tensor& means() const { return means_; }
  const Tensor& label() const { return label_; }
  const Tensor& counts() const { return counts_; }
  at::TensorOptions options(at::ScalarType type) const { return rows_.options().dtype(type); }

  // Rows first ... last - 1 less their means, to the beginning of `out`, [at least those, pitch].
  void centre(int64_t first, int64_t last, const Tensor& out, double* squares) const {
    cuda::CentredRows to{};
    to.first = first;
    to.last = last;
    to.means = means_.const_data_ptr<double>();
    to.is_double = out.scalar_type() == at::kDouble;
    to.out = out.mutable_data_ptr();
    to.padded_rows = out.size(0);
    to.pitch = out.size(1);
    to.squares = squares;
    check(cuda::centred_rows(kernel_, to, current_stream()), "centred_rows");
  }

  // Memory for that many rows.
  Tensor empty_rows(int64_t count, at::ScalarType type) const {
    return at::empty({count, std::max<int64_t>(8, (width() + 7) / 8 * 8)}, options(type));
  }

 private:
  // Squared lengths of the rows, and their products with the means of other classes.
  void describe() {
    const ValidRows& valid = classes_.valid;
    const int64_t most = std::clamp<int64_t>(kMostEntries / std::max(width(), valid.classes()), 1, count());
    Tensor chunk = empty_rows(most, at::kDouble);
    const Tensor squares = at::empty({count()}, options(at::kDouble));
    const Tensor across = at::zeros({}, options(at::kDouble));
    const Tensor classes = at::arange(valid.classes(), options(at::kInt));
    for (int64_t first = 0; first < count(); first += most) {
      const int64_t rows = std::min(most, count() - first);
      const Tensor centred = chunk.narrow(0, 0, rows);
      centre(first, first + rows, centred, squares.mutable_data_ptr<double>() + first);
      if (valid.classes() == 1) continue;
      Tensor along = at::mm(centred.narrow(1, 0, width()), means_.t());
      const Tensor own = label_.narrow(0, first, rows).unsqueeze(1).eq(classes);
      across.add_(along.square_().mul_(counts_).masked_fill_(own, 0).sum());
    }
    const Tensor copy = squares.cpu();
    classes_.squares.assign(copy.const_data_ptr<double>(), copy.const_data_ptr<double>() + count());
    across_ = across.item<double>();
    for (int64_t c = 0; c < valid.classes(); ++c) {
      const auto begin = classes_.squares.begin();
      classes_.scatter.push_back(
          std::accumulate(begin + valid.class_ptr[c], begin + valid.class_ptr[c + 1], 0.0) /
          classes_.counts[c]);
    }
  }

  Tensor rows_, order_, label_, class_ptr_, scales_, means_, counts_;
  cuda::ClassedRows kernel_{};
  Classes classes_;
  double across_ = 0;
};

// Of the distances of m_c.m_e from 1, over pairs of rows.
Moments between_means(const DeviceClasses& classes) {
  constexpr int64_t kRun = 2048;  // long sums of equal terms would be off by more than they may
  const int64_t count = classes.counts().size(0);
  const int64_t band = std::clamp<int64_t>(kMostEntries / count, 1, count);
  std::vector<Tensor> found;  // [3] each: a band's number, mean and sum of squares
  for (int64_t first = 0; first < count; first += band) {
    const int64_t rows = std::min(band, count - first);
    const Tensor left = classes.means().narrow(0, first, rows);
    const Tensor right = classes.means().narrow(0, first, count - first).t();
    Tensor distances = at::zeros({rows, count - first}, classes.options(at::kDouble)).add_(1);
    for (int64_t j = 0; j < classes.width(); j += kRun) {
      const int64_t run = std::min(kRun, classes.width() - j);
      distances.addmm_(left.narrow(1, j, run), right.narrow(0, j, run), 1, -1);
    }
    const Tensor pairs = (classes.counts().narrow(0, first, rows).unsqueeze(1) *
                          classes.counts().narrow(0, first, count - first))
                             .triu_(1);
    const Tensor number = pairs.sum();
    const Tensor mean = (pairs * distances).sum() / number;
    found.push_back(at::stack({number, mean, (distances.sub_(mean).square_() * pairs).sum()}));
  }
  const Tensor bands = at::stack(found).cpu();
  Moments between;
  for (int64_t i = 0; i < bands.size(0); ++i) {
    const double* band_moments = bands.const_data_ptr<double>() + 3 * i;
    between.add({band_moments[0], band_moments[1], band_moments[2]});
  }
  return between;
}

PairSquares from_row_products(const DeviceClasses& classes, at::ScalarType type) {
  const Classes& host = classes.on_host();
  const ProductRows centred = empty_product_rows(classes.count(), classes.width(), classes.options(type));
  classes.centre(0, classes.count(), centred.rows, nullptr);
  std::vector<double> shifts;
  // A lone row has no pair whose product could be shifted.
  for (int64_t c = 0; c < host.valid.classes(); ++c) {
    shifts.push_back(host.counts[static_cast<size_t>(c)] > 1 ? host.shift(c) : 0);
  }
  const Tensor shift_of = to_device(shifts, classes.label(), at::kDouble);
  const Tensor total = at::zeros({2}, classes.options(at::kDouble));
  for_each_tile(centred, centred, /*triangle=*/true, [&](const cuda::CosineTile& tile) {
    const Tensor partials = at::empty({cuda::sum_squares_blocks(tile), 2}, total.options());
    check(
        cuda::sum_squares(tile, classes.label().const_data_ptr<int32_t>(), shift_of.const_data_ptr<double>(),
                          partials.mutable_data_ptr<double>(), current_stream()),
        "sum_squares");
    total.add_(partials.sum(0));
  });
  const Tensor sums = total.cpu();
  const double* values = sums.const_data_ptr<double>();
  // Each product is off by its own rounding of the entries, some 2^-24 |w_i| |w_j|.
  const double length = std::accumulate(host.squares.begin(), host.squares.end(), 0.0);
  const double error = type == at::kDouble ? 0 : 0x1p-46 * length * length;
  return {2 * values[0], 2 * values[1], error, error};
}

// How many rows of a class are multiplied at a time for the products of units. As many runs as memory allows,
// each summed up by the library; matrices so large that there is room for one only are worth a long one.
struct RowRuns {
  int64_t run, most;
  explicit RowRuns(int64_t width) {
    constexpr int64_t kMostRuns = 16;
    const int64_t runs = std::min(kMostRuns, kMostEntries / (width * width));
    run = runs > 0 ? 64 : 1024;
    most = run * std::max<int64_t>(1, runs);
  }
  // What `rows` rows are padded to, so that they are whole runs.
  int64_t padded(int64_t rows) const { return rows <= run ? rows : (rows + run - 1) / run * run; }
  // [rows, pitch] -> [runs, run, pitch]
  Tensor cut(const Tensor& rows) const { return rows.view({-1, std::min(run, rows.size(0)), rows.size(1)}); }
};

// The d x d products of each class, in tiles: sums of |C|^2 over the classes, and that of the sum of all C.
PairSquares from_column_products(const DeviceClasses& classes, at::ScalarType type) {
  constexpr int64_t kSide = 4096;
  const Classes& host = classes.on_host();
  const ValidRows& valid = host.valid;
  const bool one_class = valid.classes() == 1;
  const Tensor within = at::zeros({}, classes.options(at::kDouble));
  const Tensor all = at::zeros({}, classes.options(at::kDouble));
  const RowRuns runs(classes.width());
  const Tensor chunk = classes.empty_rows(std::min(runs.most, runs.padded(classes.count())), type);
  for (int64_t i = 0; i < classes.width(); i += kSide) {
    const int64_t height = std::min(kSide, classes.width() - i);
    for (int64_t j = i; j < classes.width(); j += kSide) {
      const int64_t across = std::min(kSide, classes.width() - j);
      const double times = i == j ? 1 : 2;  // a tile stands for its mirror image, too
      Tensor of_all = at::zeros({one_class ? 0 : height, across}, classes.options(at::kDouble));
      Tensor of_class = at::empty({height, across}, classes.options(at::kDouble));
      for (int64_t c = 0; c < valid.classes(); ++c) {
        of_class.zero_();
        const int64_t end = valid.class_ptr[static_cast<size_t>(c) + 1];
        for (int64_t row = valid.class_ptr[static_cast<size_t>(c)]; row < end; row += runs.most) {
          const int64_t last = std::min(end, row + runs.most);
          const Tensor rows = chunk.narrow(0, 0, runs.padded(last - row));
          classes.centre(row, last, rows, nullptr);
          const Tensor cut = runs.cut(rows);
          const Tensor products = at::bmm(cut.narrow(2, i, height).transpose(1, 2), cut.narrow(2, j, across));
          of_class.add_(products.sum(0, /*keepdim=*/false, at::kDouble));
        }
        if (!one_class) of_all.add_(of_class);
        within.add_(of_class.square_().sum(), times);
      }
      all.add_(of_all.square_().sum(), times);
    }
  }
  const double sum_within = within.item<double>();
  const double sum_all = one_class ? sum_within : all.item<double>();
  return less_diagonal(host, sum_within, sum_all, type == at::kFloat);
}

// Pairs are ordered: each product with a mean of another class stands in two of them.
PairSquares with_across(PairSquares squares, const DeviceClasses& classes) {
  squares.between += 2 * classes.across();
  return squares;
}

PairSquares products_of(const DeviceClasses& classes, at::ScalarType type) {
  const Classes& host = classes.on_host();
  const bool by_columns = columns_are_quicker(classes.count(), classes.width(), host.valid.classes());
  return with_across(by_columns ? from_column_products(classes, type) : from_row_products(classes, type),
                     classes);
}

Spread spread_of(const Tensor& rows, const Scales& scales, const ValidRows& valid) {
  const LibraryProducts products;
  const DeviceClasses classes(rows, scales, valid);
  Spread spread;
  if (valid.classes() > 1) spread.between = between_means(classes);
  spread.add_products(
      rows.scalar_type() != at::kDouble, classes.on_host(),
      {[&](bool in_float) { return products_of(classes, in_float ? at::kFloat : at::kDouble); },
       [&] { return with_across(from_row_products(classes, at::kDouble), classes); }});
  return spread;
}

Tensor cosine_spread_cuda(const Tensor& x, const std::optional<Tensor>& order,
                          const std::optional<Tensor>& class_ptr) {
  check_input(x, kOp);
  const DeviceGuard guard(x.device());
  const Grouping groups = optional_grouping(order, class_ptr, x, kOp);
  const Tensor rows = as_rows(x);
  const Scales scales = scales_of(rows);
  Grouping on_host;
  if (groups.labelled()) on_host = {groups.order.cpu(), groups.class_ptr.cpu()};
  check_grouping(on_host, x, kOp);
  check_order(on_host, x, kOp);
  const ValidRows valid = valid_rows(scales.on_host, on_host);
  const Spread spread = valid.count() > 1 ? spread_of(rows, scales, valid) : Spread{};
  return spread.values(valid, groups.labelled()).to(x.device());
}

}  // namespace
}  // namespace tfc::ops::on_cuda

TORCH_LIBRARY_IMPL(tfc_fast, TFC_CUDA_KEY, m) {
  m.impl("cosine_spread", tfc::ops::on_cuda::cosine_spread_cuda);
}
