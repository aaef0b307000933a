#include "centred_rows.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <numeric>

#include "../kernels/cpu/dispatch.h"

namespace tfc::ops {
namespace {

int64_t grain_of(int64_t elements_each) {
  return std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, elements_each));
}

// What a run covers depends on the sizes only, so the bits do not depend on the threads. Few runs for
// little to add up in the end; some at least, for threads to share.
std::vector<ScaledRows::Run> cut_into_runs(int64_t rows, const Grouping& groups) {
  const int64_t most = std::clamp<int64_t>(rounded_up(divided_up(rows, 8), 4), 4, 64);
  const int64_t one_class[2] = {0, rows};
  const int64_t* begin = groups.labelled() ? groups.class_ptr.const_data_ptr<int64_t>() : one_class;
  const int64_t classes = groups.labelled() ? groups.class_ptr.numel() - 1 : 1;
  std::vector<ScaledRows::Run> runs;
  for (int64_t c = 0; c < classes; ++c) {
    for (int64_t first = begin[c]; first < begin[c + 1]; first += most) {
      runs.push_back({c, first, std::min(first + most, begin[c + 1])});
    }
  }
  return runs;
}

}  // namespace

ScaledRows scaled_rows(const at::Tensor& rows, const Grouping& groups) {
  ScaledRows scaled;
  scaled.scales.resize(static_cast<size_t>(rows.size(0)));
  scaled.runs = cut_into_runs(rows.size(0), groups);
  const auto count = static_cast<int64_t>(scaled.runs.size());
  const int64_t width = rows.size(1);
  scaled.sums.resize(static_cast<size_t>(count * width));
  UnitRows unit = unit_rows(rows, scaled.scales);
  if (groups.labelled()) unit.kernel.order = groups.order.const_data_ptr<int64_t>();
  const auto kernel = cpu::kernels().scale_and_sum[static_cast<int>(unit.scalar)];
  const int64_t rows_each = divided_up(rows.size(0), std::max<int64_t>(1, count));
  at::parallel_for(0, count, grain_of(rows_each * width), [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      const ScaledRows::Run& run = scaled.runs[i];
      kernel(unit.kernel, run.first, run.last, scaled.scales.data(), scaled.sums.data() + i * width);
    }
  });
  return scaled;
}

Classes classes_of(const ScaledRows& rows, const ValidRows& valid) {
  const int64_t count = valid.classes();
  const auto runs = static_cast<int64_t>(rows.runs.size());
  const int64_t width = runs == 0 ? 0 : static_cast<int64_t>(rows.sums.size()) / runs;
  Classes classes{valid, {}, {}, {}, {}, {}, {}};
  classes.means.resize(static_cast<size_t>(count * width));
  classes.centre.resize(static_cast<size_t>(width));
  for (int64_t c = 0; c < count; ++c) {
    classes.counts.push_back(static_cast<double>(valid.class_ptr[c + 1] - valid.class_ptr[c]));
  }
  constexpr int64_t kStrip = 64;
  at::parallel_for(0, divided_up(width, kStrip), grain_of(kStrip * runs), [&](int64_t from, int64_t to) {
    const int64_t first = from * kStrip;
    const int64_t last = std::min(width, to * kStrip);
    int64_t run = 0;
    for (int64_t c = 0; c < count; ++c) {
      double* mean = classes.means.data() + c * width;
      for (; run < runs && rows.runs[run].label <= valid.given[c]; ++run) {
        if (rows.runs[run].label != valid.given[c]) continue;
        const double* sum = rows.sums.data() + run * width;
        for (int64_t j = first; j < last; ++j) mean[j] += sum[j];
      }
      for (int64_t j = first; j < last; ++j) {
        classes.centre[j] += mean[j] / static_cast<double>(valid.count());
        mean[j] /= classes.counts[c];
      }
    }
  });
  return classes;
}

UnitRows centred_rows(const UnitRows& rows, const Classes& classes) {
  UnitRows centred = rows;
  centred.kernel.means = classes.means.data();
  centred.kernel.means_stride = rows.kernel.width;
  centred.kernel.label = classes.valid.label.data();
  return centred;
}

cpu::RowMeasures room_for(Classes& classes) {
  classes.squares.resize(static_cast<size_t>(classes.valid.count()));
  classes.along.resize(static_cast<size_t>(classes.valid.count()));
  return {classes.centre.data(), classes.squares.data(), classes.along.data()};
}

void describe(const UnitRows& centred, Classes& classes) {
  const cpu::RowMeasures measures = room_for(classes);
  const auto kernel = cpu::kernels().centred_squares[static_cast<int>(centred.scalar)];
  at::parallel_for(0, centred.count, grain_of(centred.kernel.width), [&](int64_t first, int64_t last) {
    kernel(centred.kernel, measures, first, last, nullptr, 0);
  });
  classes.scatter = scatter_of(classes);
}

std::vector<double> scatter_of(const Classes& classes) {
  std::vector<double> scatter;
  const auto squares = classes.squares.begin();
  for (int64_t c = 0; c < classes.valid.classes(); ++c) {
    const auto* begin = classes.valid.class_ptr.data() + c;
    scatter.push_back(std::accumulate(squares + begin[0], squares + begin[1], 0.0) / classes.counts[c]);
  }
  return scatter;
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
