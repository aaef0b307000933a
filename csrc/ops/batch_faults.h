// What is said of a batch that cannot be recorded: at once on the host, at the next drain for a device.
#pragma once

#include <c10/util/ArrayRef.h>

#include <cstdint>
#include <string>

#include "../kernels/statistics.h"

namespace tfc::ops {

// `first` and `second` as at BatchFault; `shape`: of the feature, where it is known.
std::string fault_text(BatchFault fault, int64_t site, int64_t first, int64_t second, int64_t num_classes,
                       c10::IntArrayRef shape = {});

// The same for what a device has kept, with the step.
std::string fault_text(const FaultRecord& fault, int64_t num_classes);

}  // namespace tfc::ops
