// Whether a batch of a probe may be recorded, decided on the device, where labels, step and sites are.
//
// Reads 48 bytes of the header and of the sums of the site, writes 16 for the column pass, and, once per
// site, the place of its units.
#pragma once

#include "launchers.h"
#include "partials.cuh"

namespace tfc::cuda {

// The first fault stays.
__device__ __forceinline__ void report(StepHeader* header, BatchFault kind, int64_t site, int64_t first,
                                       int64_t second) {
  if (load(&header->fault.kind) != 0) return;
  FaultRecord fault;
  fault.kind = static_cast<double>(kind);
  fault.step = load(&header->step);
  fault.site = static_cast<double>(site);
  fault.first = static_cast<double>(first);
  fault.second = static_cast<double>(second);
  store(&header->fault, fault);
}

// Whether the labels of the micro-batch are those of `rows` rows: only then may order and class_ptr be used.
__device__ __forceinline__ bool labels_fit(const Groups& groups, const Results& results, int64_t rows) {
  if (groups.class_ptr == nullptr) return false;
  if (results.header == nullptr) return true;
  return load(&results.header->batch_rows) * static_cast<double>(results.rows_per_sample) ==
             static_cast<double>(rows) &&
         load(groups.class_ptr + groups.classes) == rows;
}

// What admission looks at, of the header and of the site.
struct AdmissionState {
  double enabled, batch, batch_rows;
  double width, units_begin, last_batch;
};

// All at once, and early, so that nothing waits for it in the end.
__device__ __forceinline__ AdmissionState admission_state(const Results& results) {
  if (results.header == nullptr) return {};
  const StepHeader* header = results.header;
  const BatchSums* site = results.site;
  return {load(&header->enabled), load(&header->batch),     load(&header->batch_rows),
          load(&site->width),     load(&site->units_begin), load(&site->last_batch)};
}

// One thread, before the column pass writes anything.
__device__ __forceinline__ Admission admit(const Results& results, const AdmissionState& state, bool labelled,
                                           bool labels_fit, int64_t rows, int64_t width) {
  StepHeader* header = results.header;
  if (header == nullptr) return {-1, 1};
  const Admission refused{-1, 0};
  if (state.enabled == 0) return refused;
  BatchSums* site = results.site;
  const auto refuse = [&](BatchFault kind, int64_t first, int64_t second) {
    report(header, kind, results.site_index, first, second);
    return refused;
  };
  const int64_t begin = static_cast<int64_t>(state.units_begin);
  const int64_t width_before = static_cast<int64_t>(state.width);
  if (begin >= 0 && width_before != width) return refuse(BatchFault::kWidthChanged, width_before, width);
  if (labelled) {
    if (state.batch_rows == kWrongLabels) return refused;
    if (state.batch_rows == kNoLabels || state.last_batch == state.batch) {
      return refuse(BatchFault::kLabelsMissing, rows, 0);
    }
    if (!labels_fit) {
      return refuse(BatchFault::kLabelCount, static_cast<int64_t>(state.batch_rows),
                    rows / results.rows_per_sample);
    }
  }
  if (results.units == nullptr) return {-1, 1};
  if (begin >= 0) {
    const int64_t end = begin + width;
    if (end > results.units_capacity) return refuse(BatchFault::kUnitsBeyond, end, results.units_capacity);
    return {begin, 1};
  }
  store(&site->width, static_cast<double>(width));
  const int64_t used = static_cast<int64_t>(load(&header->units_used));
  if (used + width > results.units_capacity) return {-1, 1};
  store(&site->units_begin, static_cast<double>(used));
  store(&header->units_used, static_cast<double>(used + width));
  return {used, 1};
}

}  // namespace tfc::cuda
