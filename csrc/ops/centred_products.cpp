#include "centred_products.h"

#include <c10/core/CPUAllocator.h>

#include <algorithm>
#include <numeric>

#include "../kernels/cpu/dispatch.h"
#include "across_classes.h"
#include "tiles.h"

namespace tfc::ops {
namespace {

double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

// One entry per tile, so that they are added in a fixed order.
struct TileSums {
  std::vector<double> within, between, across;
  explicit TileSums(int64_t tiles)
      : within(static_cast<size_t>(tiles)),
        between(static_cast<size_t>(tiles)),
        across(static_cast<size_t>(tiles)) {}
};

template <typename Real>
cpu::SumSquaresFunction<Real> sum_squares() {
  if constexpr (std::is_same_v<Real, float>) return cpu::kernels().sum_squares_float;
  if constexpr (std::is_same_v<Real, double>) return cpu::kernels().sum_squares_double;
}

// Pairs are ordered: each product with a mean of another class stands in two of them.
PairSquares with(const AcrossSquares& across, PairSquares squares) {
  squares.between += 2 * across.sum;
  squares.between_error += 2 * across.error;
  return squares;
}

// The rows, if they are small; described as they are made, if they have not been before.
template <typename Real>
std::optional<MadeRows<Real>> made_and_described(const UnitRows& centred, Classes& classes) {
  if (!classes.scatter.empty()) return made_if_small<Real>(centred);
  std::optional<MadeRows<Real>> made = made_if_small<Real>(centred, room_for(classes));
  if (made) {
    classes.scatter = scatter_of(classes);
  } else {
    describe(centred, classes);
  }
  return made;
}

template <typename Real>
PairSquares from_row_products(const UnitRows& centred, Classes& classes) {
  const std::optional<MadeRows<Real>> made = made_and_described<Real>(centred, classes);
  const ValidRows& valid = classes.valid;
  TileSums sums(TileGrid(centred.count, centred.count, /*triangle=*/true).count());
  const auto squares = sum_squares<Real>();
  const UnitRows& rows = made ? made->rows : centred;
  for_each_tile<Real>(rows, rows, /*triangle=*/true, [&] {
    return [&](const Tile<Real>& tile) {
      double within = 0;
      double between = 0;
      const int64_t end = tile.column + tile.columns;
      for (int64_t i = tile.row; i < tile.row + tile.rows; ++i) {
        const int64_t first = std::max(tile.column, i + 1);
        if (first >= end) break;
        const int64_t same_until = std::clamp(valid.class_end(i), first, end);
        const Real* products = tile.cosines + (i - tile.row) * tile.stride - tile.column;
        if (same_until > first) {
          within += squares(products + first, same_until - first, classes.shift(valid.label[i]));
        }
        between += squares(products + same_until, end - same_until, 0);
      }
      sums.within[tile.index] = within;
      sums.between[tile.index] = between;
    };
  });
  // Each product is off by its own rounding of the entries, some 2^-24 |w_i| |w_j|.
  const double total = sum(classes.squares);
  const double error = sizeof(Real) == sizeof(double) ? 0 : 0x1p-46 * total * total;
  return with(across_classes<Real>(rows, classes),
              {2 * sum(sums.within), 2 * sum(sums.between), error, error});
}

// Memory as torch aligns it, so that no vector lies in two lines of the cache.
template <typename Real>
class Room {
 public:
  Room() = default;
  explicit Room(int64_t count)
      : memory_(c10::GetCPUAllocator()->allocate(static_cast<size_t>(count) * sizeof(Real))) {}
  Real* get() const { return static_cast<Real*>(memory_.get()); }

 private:
  at::DataPtr memory_;
};

// Some rows of one class, packed for products with each other.
template <typename Real>
class PackedRows {
 public:
  PackedRows(const UnitRows& centred, Classes& classes)
      : centred_(centred),
        most_(rows_at_once(centred.kernel.width)),
        stride_(rounded_up(centred.kernel.width, cpu::kPanelStep) + cpu::kPanelStep),
        memory_(most_ * stride_),
        measures_(room_for(classes)) {}

  int64_t most() const { return most_; }

  // Tells the classes the lengths of the rows, too.
  void pack(int64_t first, int64_t last) {
    // Two tasks are run inside a parallel region even if the second is empty.
    at::parallel_for(
        0, std::max<int64_t>(2, divided_up(last - first, kBlock)), 1, [&](int64_t from, int64_t to) {
          for (int64_t begin = from * kBlock; begin < std::min(last - first, to * kBlock); begin += kBlock) {
            const int64_t end = std::min(last - first, begin + kBlock);
            pack_centred<Real>(centred_)(centred_.kernel, measures_, first + begin, first + end,
                                         memory_.get() + begin * stride_, stride_);
          }
        });
    rows_ = last - first;
    std::fill(memory_.get() + rows_ * stride_, memory_.get() + rounded_up(rows_, cpu::kPanelStep) * stride_,
              Real{0});
  }

  // The products of the units of a tile, summed over the rows; on the diagonal of the matrix those on and
  // above it, what lies below is anything.
  void multiply(const TilePlace& tile, int64_t out_stride, Real* out) const {
    const int64_t height = rounded_up(tile.rows, cpu::kPanelStep);
    const int64_t width = rounded_up(tile.columns, cpu::kPanelStep);
    for (int64_t row = 0; row < rows_; row += kDepth<Real>) {
      const int64_t depth = rounded_up(std::min(kDepth<Real>, rows_ - row), cpu::kPanelStep);
      const Real* packed = memory_.get() + row * stride_;
      for_each_strip(tile.row == tile.column, height, [&](int64_t i, int64_t rows, int64_t j) {
        transposed_gemm(rows, width - j, depth, packed + tile.row + i, stride_, packed + tile.column + j,
                        stride_, /*add=*/row > 0, out + i * out_stride + j, out_stride);
      });
    }
  }

 private:
  // So many that adding up the products of units does not take longer than making them; no more than can be
  // added in float (gemm.h).
  static int64_t rows_at_once(int64_t width) {
    constexpr int64_t kEntries = int64_t{1} << 21;
    const int64_t room = std::max(4 * cpu::kPanelStep, kEntries / width);
    return rounded_up(std::min<int64_t>(1024, room), cpu::kPanelStep);
  }

  static constexpr int64_t kBlock = cpu::kPanelStep;

  const UnitRows& centred_;
  int64_t most_;
  // Not a power of two: what is read a stride apart must not fall into one set of the cache.
  int64_t stride_;
  Room<Real> memory_;  // [most, width]
  cpu::RowMeasures measures_;
  int64_t rows_ = 0;
};

int64_t longest_class(const ValidRows& valid) {
  int64_t longest = 0;
  for (int64_t c = 0; c < valid.classes(); ++c) {
    longest = std::max(longest, valid.class_ptr[c + 1] - valid.class_ptr[c]);
  }
  return longest;
}

// Tiles first ... last - 1 of the d x d products C of each class: sums of |C|^2 over the classes, and
// that of the sum of all C.
template <typename Real>
class ColumnProducts {
 public:
  ColumnProducts(const ValidRows& valid, const TileGrid& grid, int64_t first, int64_t last, int64_t most)
      : valid_(valid),
        grid_(grid),
        first_(first),
        count_(last - first),
        most_(most),
        products_(static_cast<size_t>(at::get_num_threads())),
        of_class_(longest_class(valid) > most ? static_cast<size_t>(count_ * entries()) : 0),
        of_all_(one_class() ? 0 : static_cast<size_t>(count_ * entries())) {}

  void operator()(PackedRows<Real>& packed, const AcrossColumns& across, TileSums& sums) {
    for (int64_t c = 0; c < valid_.classes(); ++c) {
      const int64_t begin = valid_.class_ptr[c];
      const int64_t end = valid_.class_ptr[c + 1];
      // All of about one size.
      const int64_t parts = divided_up(end - begin, most_);
      const int64_t step = rounded_up(divided_up(end - begin, parts), cpu::kPanelStep);
      for (int64_t row = begin; row < end; row += step) {
        const int64_t until = std::min(end, row + step);
        packed.pack(row, until);
        for_each([&](const TilePlace& tile) {
          Real* product = product_of_thread();
          packed.multiply(tile, grid_.width(), product);
          if (row == begin && until == end) {
            add_class(tile, product, sums);
            return;
          }
          double* of_class = of_class_.data() + place(tile);
          if (row == begin) std::fill(of_class, of_class + used(tile), 0.0);
          add(tile, product, of_class);
          if (until == end) add_class(tile, of_class, sums);
        });
      }
    }
    for_each([&](const TilePlace& tile) {
      const int64_t i = tile.index;
      const double* of_all = of_all_.data() + place(tile);
      sums.between[i] = one_class() ? sums.within[i] : squares(tile, of_all);
      if (!one_class()) sums.across[i] = across.of_tile(tile, of_all, grid_.width());
    });
  }

 private:
  int64_t entries() const { return grid_.height() * grid_.width(); }
  bool one_class() const { return valid_.classes() == 1; }

  Real* product_of_thread() {
    Room<Real>& product = products_[static_cast<size_t>(at::get_thread_num())];
    if (product.get() == nullptr) product = Room<Real>(entries());
    return product.get();
  }

  template <typename Work>
  void for_each(const Work& work) {
    // Two tasks are run inside a parallel region even if the second is empty.
    at::parallel_for(0, std::max<int64_t>(2, count_), 1, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < std::min(to, count_); ++i) work(grid_.place(first_ + i));
    });
  }

  int64_t place(const TilePlace& tile) const { return (tile.index - first_) * entries(); }
  int64_t used(const TilePlace& tile) const { return tile.rows * grid_.width(); }

  template <typename Value>
  void add(const TilePlace& tile, const Value* values, double* total) const {
    const int64_t count = used(tile);
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) total[i] += static_cast<double>(values[i]);
  }

  template <typename Value>
  void add_class(const TilePlace& tile, const Value* of_class, TileSums& sums) {
    sums.within[tile.index] += squares(tile, of_class);
    if (!one_class()) add(tile, of_class, of_all_.data() + place(tile));
  }

  // A tile stands for its mirror image too.
  template <typename Value>
  double squares(const TilePlace& tile, const Value* values) const {
    const bool diagonal = tile.row == tile.column;
    double once = 0;
    double twice = 0;
    for (int64_t i = 0; i < tile.rows; ++i, values += grid_.width()) {
      const int64_t first = diagonal ? i + 1 : 0;
      if (diagonal) once += static_cast<double>(values[i]) * static_cast<double>(values[i]);
      twice += sum_squares<Value>()(values + first, tile.columns - first, 0);
    }
    return once + 2 * twice;
  }

  const ValidRows& valid_;
  const TileGrid& grid_;
  int64_t first_, count_;
  int64_t most_;
  std::vector<Room<Real>> products_;  // by thread
  std::vector<double> of_class_, of_all_;
};

template <typename Real>
PairSquares from_column_products(const UnitRows& centred, Classes& classes) {
  // Small enough for a product to stay in a second-level cache until it is added up.
  constexpr int64_t kSide = 256;
  const TileGrid grid(centred.kernel.width, centred.kernel.width, /*triangle=*/true, kSide);
  TileSums sums(grid.count());
  PackedRows<Real> packed(centred, classes);
  // What is held at a time: sums over a class in parts, and over all.
  constexpr int64_t kMostBytes = int64_t{24} << 20;
  const int64_t held = (longest_class(classes.valid) > packed.most()) + (classes.valid.classes() > 1);
  const int64_t bytes = grid.height() * grid.width() * std::max<int64_t>(1, held) * sizeof(double);
  const int64_t band = std::max<int64_t>(1, kMostBytes / bytes);
  const AcrossColumns across(classes);
  for (int64_t first = 0; first < grid.count(); first += band) {
    const int64_t last = std::min(grid.count(), first + band);
    ColumnProducts<Real>(classes.valid, grid, first, last, packed.most())(packed, across, sums);
  }
  classes.scatter = scatter_of(classes);
  constexpr bool kInFloat = std::is_same_v<Real, float>;
  const double all = sum(sums.between);
  return with(across.total(sum(sums.across), all, kInFloat),
              less_diagonal(classes, sum(sums.within), all, kInFloat));
}

}  // namespace

PairSquares less_diagonal(const Classes& classes, double within, double all, bool in_float) {
  PairSquares squares{within, all - within, 0, 0};
  for (int64_t c = 0; c < classes.valid.classes(); ++c) {
    for (int64_t i = classes.valid.class_ptr[c]; i < classes.valid.class_ptr[c + 1]; ++i) {
      squares.within -= classes.squares[i] * classes.squares[i];
    }
    // A lone row is its class's mean: it has nothing to take away.
    if (classes.counts[c] > 1) {
      squares.within -= classes.counts[c] * classes.scatter[c] * classes.shift(c);
    }
  }
  // What is left of differences of large sums is off by their rounding.
  const double rounding = in_float ? 1e-6 : 1e-14;
  squares.within_error = rounding * within;
  squares.between_error = rounding * all;
  return squares;
}

bool columns_are_quicker(int64_t rows, int64_t width, int64_t classes) {
  const auto n = static_cast<double>(rows);
  const auto d = static_cast<double>(width);
  // Additions of a class's d x d products cost as much as a few dozen rows more.
  return n * n * d > (n + 64.0 * static_cast<double>(classes)) * d * d;
}

PairSquares row_products_in_double(const UnitRows& centred, Classes& classes) {
  return from_row_products<double>(centred, classes);
}

template <typename Real>
PairSquares products_of(const UnitRows& centred, Classes& classes) {
  return columns_are_quicker(centred.count, centred.kernel.width, classes.valid.classes())
             ? from_column_products<Real>(centred, classes)
             : from_row_products<Real>(centred, classes);
}

template PairSquares products_of<float>(const UnitRows& centred, Classes& classes);
template PairSquares products_of<double>(const UnitRows& centred, Classes& classes);

}  // namespace tfc::ops
