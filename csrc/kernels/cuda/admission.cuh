// Whether a batch of a probe may be recorded, decided on the device, where labels, step and sites are.
//
// Reads the header and the sums of the site, writes 16 bytes for the column pass, and, once per site, the
// place of its units.
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

// One thread, before the column pass writes anything.
__device__ __forceinline__ Admission admit(const Results& results, bool labelled, bool labels_fit,
                                           int64_t rows, int64_t width) {
  StepHeader* header = results.header;
  if (header == nullptr) return {-1, 1};
  const Admission refused{-1, 0};
  if (load(&header->enabled) == 0) return refused;
  BatchSums* site = results.site;
  const double begin = load(&site->units_begin);
  const auto refuse = [&](BatchFault kind, int64_t first, int64_t second) {
    report(header, kind, results.site_index, first, second);
    return refused;
  };
  const int64_t width_before = static_cast<int64_t>(load(&site->width));
  if (begin >= 0 && width_before != width) return refuse(BatchFault::kWidthChanged, width_before, width);
  if (labelled) {
    const double given = load(&header->batch_rows);
    if (given == kWrongLabels) return refused;
    if (given == kNoLabels || load(&site->last_batch) == load(&header->batch)) {
      return refuse(BatchFault::kLabelsMissing, rows, 0);
    }
    if (!labels_fit) {
      return refuse(BatchFault::kLabelCount, static_cast<int64_t>(given), rows / results.rows_per_sample);
    }
  }
  if (results.units == nullptr) return {-1, 1};
  if (begin >= 0) {
    const int64_t end = static_cast<int64_t>(begin) + width;
    if (end > results.units_capacity) return refuse(BatchFault::kUnitsBeyond, end, results.units_capacity);
    return {static_cast<int64_t>(begin), 1};
  }
  store(&site->width, static_cast<double>(width));
  const int64_t used = static_cast<int64_t>(load(&header->units_used));
  if (used + width > results.units_capacity) return {-1, 1};
  store(&site->units_begin, static_cast<double>(used));
  store(&header->units_used, static_cast<double>(used + width));
  return {used, 1};
}

}  // namespace tfc::cuda
