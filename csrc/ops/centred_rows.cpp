#include "centred_rows.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <numeric>

#include "../kernels/cpu/dispatch.h"

namespace tfc::ops {

Classes describe(const UnitRows& rows, const ValidRows& valid) {
  const int64_t width = rows.kernel.width;
  const int64_t count = valid.classes();
  const auto scalar = static_cast<int>(rows.scalar);
  const cpu::Kernels& kernels = cpu::kernels();
  Classes classes{valid, {}, {}, {}, {}, {}, {}};
  classes.means.resize(static_cast<size_t>(count * width));
  classes.counts.resize(static_cast<size_t>(count));
  classes.squares.resize(static_cast<size_t>(valid.count()));
  classes.scatter.resize(static_cast<size_t>(count));
  classes.centre.resize(static_cast<size_t>(width));
  classes.along.resize(static_cast<size_t>(valid.count()));
  for (int64_t c = 0; c < count; ++c) {
    classes.counts[c] = static_cast<double>(valid.class_ptr[c + 1] - valid.class_ptr[c]);
  }
  // A strip of units is one task, so that every sum has a fixed order.
  constexpr int64_t kStrip = 64;
  const int64_t grain =
      std::max<int64_t>(1, kElementsPerThread / (kStrip * std::max<int64_t>(1, rows.count)));
  at::parallel_for(0, divided_up(width, kStrip), grain, [&](int64_t first_strip, int64_t last_strip) {
    const int64_t first = first_strip * kStrip;
    const int64_t last = std::min(width, last_strip * kStrip);
    const cpu::UnitRows columns = columns_of(rows, first, last);
    for (int64_t c = 0; c < count; ++c) {
      double* mean = classes.means.data() + c * width;
      kernels.sum_unit_rows[scalar](columns, valid.class_ptr[c], valid.class_ptr[c + 1], mean + first);
      for (int64_t j = first; j < last; ++j) {
        classes.centre[j] += mean[j] / static_cast<double>(valid.count());
        mean[j] /= classes.counts[c];
      }
    }
  });
  const UnitRows centred = centred_rows(rows, classes);
  at::parallel_for(0, rows.count, std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, width)),
                   [&](int64_t first, int64_t last) {
                     kernels.centred_squares[scalar](centred.kernel, classes.centre.data(), first, last,
                                                     classes.squares.data(), classes.along.data());
                   });
  for (int64_t c = 0; c < count; ++c) {
    const auto* squares = classes.squares.data();
    classes.scatter[c] =
        std::accumulate(squares + valid.class_ptr[c], squares + valid.class_ptr[c + 1], 0.0) /
        classes.counts[c];
  }
  return classes;
}

UnitRows centred_rows(const UnitRows& rows, const Classes& classes) {
  UnitRows centred = rows;
  centred.kernel.means = classes.means.data();
  centred.kernel.means_stride = rows.kernel.width;
  centred.kernel.label = classes.valid.label.data();
  return centred;
}

UnitRows rows_of_means(const Classes& classes) {
  UnitRows means{};
  means.count = classes.valid.classes();
  means.kernel.width = static_cast<int64_t>(classes.centre.size());
  means.kernel.stride = means.kernel.width;
  means.kernel.data = classes.means.data();
  means.scalar = cpu::Scalar::kFloat64;
  return means;
}

}  // namespace tfc::ops
